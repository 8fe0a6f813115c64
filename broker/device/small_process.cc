#include "broker/device/small_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

namespace fbroker::broker {

namespace {

constexpr std::chrono::milliseconds kEndBound{200};

void close_all_but(std::array<int, 4> kept) noexcept {
  std::sort(kept.begin(), kept.end());
  unsigned first = 0;
  for (const int fd : kept) {
    if (fd < 0) continue;
    const auto number = static_cast<unsigned>(fd);
    if (number > first) ::syscall(SYS_close_range, first, number - 1, 0U);
    first = number + 1;
  }
  ::syscall(SYS_close_range, first, ~0U, 0U);
}

// Those that were left hanging and may have ended meanwhile.
class Abandoned {
 public:
  void add(pid_t pid) {
    const std::lock_guard lock(mutex_);
    std::erase_if(pids_, [](pid_t one) { return ::waitpid(one, nullptr, WNOHANG) != 0; });
    pids_.push_back(pid);
  }

 private:
  std::mutex mutex_;   // guards pids_; a leaf
  std::vector<pid_t> pids_;
};

Abandoned& abandoned() {
  static Abandoned all;
  return all;
}

}  // namespace

Result<SmallProcess> SmallProcess::start(const char* name, std::initializer_list<int> descriptors,
                                         void (*run)(const void*), const void* argument) {
  std::array<int, 4> kept{-1, -1, -1, -1};
  if (descriptors.size() > kept.size()) return Error{name, "too many descriptors"};
  std::copy(descriptors.begin(), descriptors.end(), kept.begin());
  const pid_t pid = ::fork();
  if (pid < 0) return Error{name, std::string("cannot be started: ") + std::strerror(errno)};
  if (pid == 0) {
    ::prctl(PR_SET_NAME, name);
    ::signal(SIGPIPE, SIG_IGN);
    close_all_but(kept);
    run(argument);
    ::_exit(0);
  }
  return SmallProcess(pid, UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U))));
}

bool SmallProcess::wait_ended(std::chrono::milliseconds bound) const noexcept {
  pollfd ended{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&ended, 1, static_cast<int>(bound.count())) > 0;
}

SmallProcess::~SmallProcess() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);   // our child, not yet waited for: the number is its own
  if (wait_ended(kEndBound)) ::waitpid(pid_, nullptr, 0);
  else abandoned().add(pid_);
}

}  // namespace fbroker::broker
