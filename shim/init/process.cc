#include "shim/init/process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fbroker::init {

std::string last_error() { return std::strerror(errno); }

void die(std::string_view why, int status) noexcept {
  const std::string_view name = "fbroker-init: ", end = "\n";
  const iovec parts[]{{const_cast<char*>(name.data()), name.size()},
                      {const_cast<char*>(why.data()), why.size()},
                      {const_cast<char*>(end.data()), end.size()}};
  [[maybe_unused]] const ssize_t written = ::writev(STDERR_FILENO, parts, 3);
  ::_exit(status);
}

int exit_status(int wait_status) noexcept {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

void reset_signals() noexcept {
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

bool keep_only(std::initializer_list<int> descriptors) noexcept {
  if (::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) < 0) return false;
  for (const int fd : descriptors)
    if (::fcntl(fd, F_SETFD, 0) < 0) return false;
  return true;
}

bool close_all_but(std::initializer_list<int> descriptors) noexcept {
  unsigned from = 0;
  for (;;) {
    unsigned next = ~0u;  // the lowest that stays, from there on
    for (const int fd : descriptors)
      if (fd >= 0 && static_cast<unsigned>(fd) >= from) next = std::min(next, static_cast<unsigned>(fd));
    if (next != from && ::syscall(SYS_close_range, from, next == ~0u ? next : next - 1, 0u) < 0) return false;
    if (next == ~0u) return true;
    from = next + 1;
  }
}

}  // namespace fbroker::init
