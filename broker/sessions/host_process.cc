#include "broker/sessions/host_process.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "broker/http/unix_listener.h"

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

bool hung_up(int socket) {
  pollfd look{socket, 0, 0};
  return ::poll(&look, 1, 0) != 0;
}

}  // namespace

// The pidfd first: while its process lives the number is its own, so what
// /proc then says under that number is about it, or about nobody.
Result<HostProcess> HostProcess::open(pid_t pid, std::uint64_t started) {
  const std::string name = "pid " + std::to_string(pid);
  if (pid <= 0) return Error{name, "is no process"};
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) return Error{name, std::strerror(errno)};
  HostProcess process(pid, start_time(pid), std::move(fd));
  if (process.started_ == 0 || (started != 0 && started != process.started_))
    return Error{name, "is another process by now"};
  if (!process.alive()) return Error{name, "has ended"};
  return process;
}

// ATTACK: the caller dies and its number is given to a process that lives on.
//   A dead caller's connection is closed: one that is still open after the
//   pidfd was taken says that the number was the caller's then.
Result<HostProcess> HostProcess::at_other_end(int socket) {
  const auto peer = peer_of(socket);
  if (!peer) return Error{"caller", std::strerror(peer.error().value)};
  if (peer->pid == 0) return Error{"caller", "lives in a PID namespace that the broker does not see"};
  FBROKER_TRY(HostProcess process, open(static_cast<pid_t>(peer->pid)));
  if (hung_up(socket)) return Error{"caller", "is gone"};
  return process;
}

bool HostProcess::wait_gone(std::chrono::milliseconds bound) const {
  pollfd waiting{fd_.get(), POLLIN, 0};
  return ::poll(&waiting, 1, static_cast<int>(bound.count())) > 0;
}

bool HostProcess::alive() const { return !wait_gone(std::chrono::milliseconds(0)); }

Result<void, Errno> HostProcess::signal(int number) const {
  if (::syscall(SYS_pidfd_send_signal, fd_.get(), number, nullptr, 0) != 0) return Errno::last();
  return ok;
}

}  // namespace fbroker::broker
