// Serves one mount from where its predecessor was killed: what the tests in
// fuse_restart_test.cc start, kill and start again.
//
//   fuse_restart_server TREE STATE first|again KEEPER_FD DEVICE_FD...
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "broker/files/export.h"
#include "broker/files/local_file_service.h"
#include "broker/files/own_files.h"
#include "broker/fuse/front.h"
#include "broker/watch/host_watch.h"
#include "tests/shim/fuse_restart_keeper.h"
#include "tests/support/memory_audit.h"

namespace fbroker::test {
namespace {

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "fuse_restart_server: %s\n", error.text().c_str());
  std::_Exit(3);
}

template <class T>
T must(Result<T> result) {
  if (!result) fail(result.error());
  return std::move(*result);
}

// Everything below the tree may be read and written.
struct Session {
  explicit Session(const std::string& root) {
    const broker::ExportTableInput input{root, root + "/.none", {{.at = *WorkspacePath::parse("/"), .from = ".", .submounts = false}}, {}};
    table = must(broker::ExportTable::build(input, nullptr));
    policy::Rule rule;
    rule.id = "test:all";
    rule.effect = policy::Effect::allow;
    rule.operations = policy::level_of(policy::Effect::allow, "write").value();
    rule.paths = {"/**"};
    auto snapshot = policy::Snapshot::compile({{rule}, {}, 1});
    if (!snapshot) std::abort();
    admissions.emplace(std::make_shared<const broker::View>(broker::View{
        *snapshot, table, policy::Durability::normal,
        std::make_shared<policy::NetworkRules>(std::vector<policy::HostRule>{}, false), broker::git_guard_of({rule}).value()}));
    watch = must(broker::HostWatch::start(events));
    context.emplace(broker::SessionContext{"test", *admissions, events, audit, own, watch.get()});
    service = std::make_unique<broker::LocalFileService>(*context, broker::LocalFileServiceOptions{});
  }

  MemoryAudit audit;
  broker::OwnFiles own;
  broker::EventBus events;
  std::shared_ptr<const broker::ExportTable> table;
  std::optional<broker::Admissions> admissions;
  std::unique_ptr<broker::HostWatch> watch;
  std::optional<broker::SessionContext> context;
  std::unique_ptr<broker::LocalFileService> service;
};

int serve(int count, char** arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (count < 6) return 2;
  Session session(arguments[1]);
  RestartKeeperClient keeper(std::atoi(arguments[4]));
  std::vector<UniqueFd> devices;
  for (int i = 5; i < count; ++i) devices.emplace_back(std::atoi(arguments[i]));
  fuse::Options options;
  options.uid = ::geteuid();
  options.gid = ::getegid();
  options.state = arguments[2];
  options.resume = std::string_view(arguments[3]) == "again";
  options.keeping = &keeper;
  options.on_state_lost = [](const Error& error) { std::fprintf(stderr, "state lost: %s\n", error.text().c_str()); };
  const auto front = must(fuse::FuseFront::create(*session.service, std::move(devices), options));
  const auto ended = front->run();
  return ended ? 0 : 1;
}

}  // namespace
}  // namespace fbroker::test

int main(int count, char** arguments) { return fbroker::test::serve(count, arguments); }
