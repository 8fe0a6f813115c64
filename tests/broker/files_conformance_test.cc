#include "tests/broker/files_session.h"
#include "tests/conformance/file_service_suite.h"

namespace fbroker::test {

struct LocalHarness {
  FilesSession session;
  protocol::FileService& service() { return *session.service; }
  std::string host() const { return session.tree.path("w"); }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OverTheHost, FileServiceSuite, LocalHarness);

}  // namespace fbroker::test
