// Sandbox: the process whose death ends everything inside (the init of its PID
// namespace), and the means to kill it: what is left when a client does not
// forget what it must (design section 7).
#pragma once

#include <csignal>

#include "broker/sessions/host_process.h"

namespace fbroker::broker {

class Sandbox {
 public:
  // `started`: as HostProcess::open.
  // Errors: no such process; it is ours, our parent, init, or not our user's.
  static Result<Sandbox> open(pid_t pid, std::uint64_t started = 0);

  // Whether `pid` is the first process of a PID namespace below ours.
  static bool is_first_of_its_own(pid_t pid);

  void begin_kill() const { (void)process_.signal(SIGKILL); }
  // SIGKILL, and waits until it is gone. False: not within `bound`.
  bool kill(std::chrono::milliseconds bound) const;
  bool alive() const { return process_.alive(); }

  // Whether `pid` is what fbroker-init started to answer for the workspace: its
  // own child in its own PID namespace.
  // ATTACK: the agent lives in a namespace below; nothing of it, reparented or
  //   not, is a child of the sandbox's first process on its own level.
  bool is_file_service(pid_t pid) const;
  // Whether there is such a process now: then somebody must hear a revoke.
  bool has_file_service() const;

  pid_t pid() const noexcept { return process_.pid(); }
  std::uint64_t started() const noexcept { return process_.started(); }

 private:
  explicit Sandbox(HostProcess process) : process_(std::move(process)) {}
  HostProcess process_;
};

}  // namespace fbroker::broker
