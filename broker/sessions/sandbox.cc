#include "broker/sessions/sandbox.h"

#include <unistd.h>

#include <csignal>
#include <cstring>

namespace fbroker::broker {

Result<Sandbox> Sandbox::open(pid_t pid, std::uint64_t started) {
  const std::string name = "pid " + std::to_string(pid);
  if (pid <= 1 || pid == ::getpid() || pid == ::getppid())
    return Error{name, "cannot be a sandbox"};
  FBROKER_TRY(HostProcess process, HostProcess::open(pid, started));
  // May we kill it? Asked now, not when it matters.
  if (const auto may = process.signal(0); !may)
    return Error{name, std::string("cannot be killed by us: ") + std::strerror(may.error().value)};
  return Sandbox(std::move(process));
}

bool Sandbox::kill(std::chrono::milliseconds bound) const {
  (void)process_.signal(SIGKILL);
  return process_.wait_gone(bound);
}

}  // namespace fbroker::broker
