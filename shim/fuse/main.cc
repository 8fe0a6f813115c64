// fbroker-fuse: the broker's files as a directory, over the HTTP protocol.
//
// Runs beside the agent and holds no authority: it can ask the broker for
// nothing that the agent could not ask for itself.
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <optional>
#include <thread>

#include "broker/fuse/device.h"
#include "broker/fuse/front.h"
#include "shim/client/event_stream.h"
#include "shim/client/remote_file_service.h"
#include "shim/fuse/options.h"

namespace fbroker::fuse {
namespace {

constexpr int kRunEnded = SIGUSR1;  // sent to ourselves

int fail(const Error& error) {
  std::fprintf(stderr, "fbroker-fuse: %s\n", error.text().c_str());
  return 1;
}

// Nothing that happened to be open when we were started stays open, and
// descriptors 0 to 2 are something.
void keep_only(const ProgramOptions& options) {
  for (int fd = ::open("/dev/null", O_RDWR); fd >= 0 && fd <= 2; fd = ::open("/dev/null", O_RDWR)) {
  }
  std::vector<unsigned> kept;
  for (const int fd : {options.device, options.ready_fd})
    if (fd > 2) kept.push_back(static_cast<unsigned>(fd));
  std::sort(kept.begin(), kept.end());
  unsigned first = 3;
  for (const unsigned fd : kept) {
    if (fd > first) ::syscall(SYS_close_range, first, fd - 1, 0U);
    first = fd + 1;
    ::fcntl(static_cast<int>(fd), F_SETFD, FD_CLOEXEC);
  }
  ::syscall(SYS_close_range, first, ~0U, 0U);
}

// Signals are waited for by the main thread alone.
sigset_t block_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, kRunEnded}) ::sigaddset(&set, number);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return set;
}

void say_ready(int fd) {
  if (fd < 0) return;
  [[maybe_unused]] const auto written = ::write(fd, "ready\n", 6);
  if (fd > 2) ::close(fd);
}

// The parent ends when the child has said that it is ready, or with its
// failure. Returns the descriptor to say it on.
Result<int> go_to_background() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error{"pipe", "failed"};
  const pid_t child = ::fork();
  if (child < 0) return Error{"fork", "failed"};
  if (child > 0) {
    ::close(ends[1]);
    char byte;
    ::_exit(::read(ends[0], &byte, 1) == 1 ? 0 : 1);
  }
  ::close(ends[0]);
  ::setsid();
  return ends[1];
}

Result<void> reach_broker(client::RemoteFileService& service, const ProgramOptions& options) {
  const auto root = service.lookup({}, WorkspacePath());
  if (root || root.error().value != EIO) return ok;
  return Error{options.socket,
               "no broker answered within " + std::to_string(options.wait.count()) + " s"};
}

std::vector<UniqueFd> channels(UniqueFd device, unsigned threads) {
  std::vector<UniqueFd> all;
  all.push_back(std::move(device));
  while (all.size() < threads) {
    UniqueFd clone = clone_device(all.front().get());
    if (!clone) break;  // the threads share those that there are
    all.push_back(std::move(clone));
  }
  return all;
}

int run(const ProgramOptions& options) {
  const sigset_t signals = block_signals();
  int background = -1;
  if (!options.foreground) {
    auto said_on = go_to_background();
    if (!said_on) return fail(said_on.error());
    background = *said_on;
  }

  std::atomic<const client::EventStream*> hearing{nullptr};
  client::RemoteOptions remote;
  remote.http.socket = options.socket;
  remote.http.wait_for_broker = options.wait;
  remote.may_keep = [&hearing] {
    const client::EventStream* stream = hearing.load();
    return stream != nullptr && stream->listening();
  };
  client::RemoteFileService service(std::move(remote));
  if (auto done = reach_broker(service, options); !done) return fail(done.error());

  std::optional<Mount> mount;
  UniqueFd device(options.device);
  if (!options.mount.empty()) {
    auto made = Mount::make(options.mount, options.uid, options.gid);
    if (!made) return fail(made.error());
    mount.emplace(std::move(*made));
    device = mount->take_device();
  }
  Options front_options;
  front_options.uid = options.uid;
  front_options.gid = options.gid;
  front_options.threads = options.threads;
  front_options.on_ready = [&] {
    say_ready(options.ready_fd);
    say_ready(background);
  };
  auto front = FuseFront::create(service, channels(std::move(device), options.threads),
                                 std::move(front_options));
  if (!front) return fail(front.error());
  auto stream = std::make_unique<client::EventStream>(
      client::EventStreamOptions{.socket = options.socket}, **front);
  hearing = stream.get();
  // Not an error when it is not: nothing is kept until it is.
  stream->wait_listening(std::chrono::seconds(2));

  Result<void> result;
  std::thread server([&] {
    result = (*front)->run();
    ::kill(::getpid(), kRunEnded);
  });
  int number = 0;
  ::sigwait(&signals, &number);
  // First the events, while requests are still answered: a notification may be
  // waiting for one of them.
  hearing = nullptr;
  stream.reset();
  mount.reset();
  (*front)->stop();
  server.join();
  return result ? 0 : fail(result.error());
}

}  // namespace
}  // namespace fbroker::fuse

#ifdef __SANITIZE_ADDRESS__
// In a sandbox the leak detector may not attach to its own process.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

int main(int argc, char** argv) {
  // Nobody may take the device's descriptor out of /proc/PID/fd.
  ::prctl(PR_SET_DUMPABLE, 0);
  const auto options = fbroker::fuse::parse_options(argc, argv);
  fbroker::fuse::keep_only(options);
  try {
    return fbroker::fuse::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fbroker-fuse: %s\n", error.what());
    return 1;
  }
}
