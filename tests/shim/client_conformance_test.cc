// The semantics of files, over HTTP: the same suite as over the host.
#include "shim/client/remote_file_service.h"
#include "tests/broker/http_session.h"
#include "tests/conformance/file_service_suite.h"

namespace fbroker::test {
namespace {

struct OverHttpHarness {
  HttpSession session;
  client::RemoteFileService remote{{{session.socket()}, {}}};

  protocol::FileService& service() { return remote; }
  std::string host() { return session.host(); }
};

}  // namespace

INSTANTIATE_TYPED_TEST_SUITE_P(OverHttp, FileServiceSuite, OverHttpHarness);

}  // namespace fbroker::test
