#include "broker/sessions/sandbox.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>

namespace fbroker::broker {

namespace {

// Field 22 of /proc/PID/stat; the name in field 2 may hold anything, so we
// count from the last ')'. 0 = unknown.
std::uint64_t start_time(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t end = line.rfind(')');
  if (end == line.npos) return 0;
  std::istringstream fields(line.substr(end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  std::uint64_t started = 0;
  fields >> started;
  return started;
}

bool is_gone(int pidfd, int timeout_ms) {
  pollfd waiting{pidfd, POLLIN, 0};
  return ::poll(&waiting, 1, timeout_ms) > 0;
}

}  // namespace

Result<Sandbox> Sandbox::open(pid_t pid, std::uint64_t started) {
  const std::string name = "pid " + std::to_string(pid);
  if (pid <= 1 || pid == ::getpid() || pid == ::getppid())
    return Error{name, "cannot be a sandbox"};
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) return Error{name, std::strerror(errno)};
  const std::uint64_t now = start_time(pid);
  if (now == 0 || (started != 0 && started != now)) return Error{name, "is another process by now"};
  // Signal 0: may we kill it? Asked now, not when it matters.
  if (::syscall(SYS_pidfd_send_signal, fd.get(), 0, nullptr, 0) != 0)
    return Error{name, std::string("cannot be killed by us: ") + std::strerror(errno)};
  return Sandbox(pid, now, std::move(fd));
}

bool Sandbox::kill(std::chrono::milliseconds bound) const {
  ::syscall(SYS_pidfd_send_signal, fd_.get(), SIGKILL, nullptr, 0);
  return is_gone(fd_.get(), static_cast<int>(bound.count()));
}

bool Sandbox::alive() const { return !is_gone(fd_.get(), 0); }

}  // namespace fbroker::broker
