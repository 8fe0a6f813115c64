// Serves one mount from where its predecessor was killed: what the tests in
// fuse_restart_test.cc start, kill and start again.
//
//   fuse_restart_server TREE STATE first|again KEEPER_FD DEVICE_FD...
//   fuse_restart_server map FILE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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

// A process that waits in a notification cannot be killed before somebody
// serves again, so another one writes them.
class ForkedNotifier final : public fuse::Notifier {
 public:
  // Precondition: no other threads. `keeper` is not the notifier's to hold open.
  ForkedNotifier(int device, int keeper) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) std::abort();
    if (::fork() == 0) {
      ::close(pair[0]);
      ::close(keeper);
      run(pair[1], device);
      std::_Exit(0);
    }
    ::close(pair[1]);
    socket_ = UniqueFd(pair[0]);
  }
  bool tell(const fuse::Notices& notices) override {
    const std::uint64_t size = notices.bytes().size();
    std::byte done{};
    return ::send(socket_.get(), &size, sizeof size, MSG_NOSIGNAL) == sizeof size &&
           send_all(notices.bytes()) && ::read(socket_.get(), &done, 1) == 1 && done == std::byte{1};
  }

 private:
  bool send_all(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    return true;
  }
  static void run(int socket, int device) {
    std::uint64_t size = 0;
    while (::recv(socket, &size, sizeof size, MSG_WAITALL) == sizeof size) {
      std::vector<std::byte> notices(size);
      if (::recv(socket, notices.data(), size, MSG_WAITALL) != static_cast<ssize_t>(size)) return;
      const std::byte done{fuse::write_notices(device, notices) == 0};
      if (::send(socket, &done, 1, MSG_NOSIGNAL) != 1) return;
    }
  }
  UniqueFd socket_;
};

// Uses a mapping until standard input ends. Not in the process that keeps and
// kills: a page fault there would stand in its way.
int use_mapping(const char* file) {
  const UniqueFd fd(::open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd || ::ftruncate(fd.get(), 65536) != 0) return 10;
  void* made = ::mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (made == MAP_FAILED) return 11;
  auto* words = static_cast<volatile std::uint64_t*>(made);
  std::uint64_t count = 0;
  for (pollfd over{STDIN_FILENO, POLLIN, 0}; ::poll(&over, 1, 0) == 0;) {
    ++count;
    for (std::size_t i = 0; i < 16; ++i) words[i * 512] = count;
    if (count % 50 == 0 && ::msync(made, 65536, MS_SYNC) != 0) return 12;
    for (std::size_t i = 0; i < 16; ++i)
      if (words[i * 512] != count) return 13;
  }
  std::uint64_t last = 0;
  if (::msync(made, 65536, MS_SYNC) != 0) return 14;
  return ::pread(fd.get(), &last, sizeof last, 15 * 4096) == sizeof last && last == count ? 0 : 15;
}

int serve(int count, char** arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (count < 6) return 2;
  auto notifier = std::make_unique<ForkedNotifier>(std::atoi(arguments[5]), std::atoi(arguments[4]));
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
  const auto front = must(fuse::FuseFront::create(*session.service, std::move(devices), options, std::move(notifier)));
  const auto ended = front->run();
  return ended ? 0 : 1;
}

}  // namespace
}  // namespace fbroker::test

int main(int count, char** arguments) {
  if (count == 3 && std::string_view(arguments[1]) == "map") return fbroker::test::use_mapping(arguments[2]);
  return fbroker::test::serve(count, arguments);
}
