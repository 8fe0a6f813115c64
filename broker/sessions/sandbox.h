// Sandbox: the process whose death ends everything inside (the init of its PID
// namespace), and the means to kill it: what is left when a client does not
// forget what it must (design section 7).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

class Sandbox {
 public:
  // `started`: the start time that the process must have (from a broker that
  // ran before: a pid alone may mean another process by now); 0 = any.
  // Errors: no such process; it is ours, our parent, init, or not our user's.
  static Result<Sandbox> open(pid_t pid, std::uint64_t started = 0);

  // SIGKILL, and waits until it is gone. False: not within `bound`.
  bool kill(std::chrono::milliseconds bound) const;
  bool alive() const;

  pid_t pid() const noexcept { return pid_; }
  std::uint64_t started() const noexcept { return started_; }

 private:
  Sandbox(pid_t pid, std::uint64_t started, UniqueFd fd)
      : pid_(pid), started_(started), fd_(std::move(fd)) {}
  pid_t pid_;
  std::uint64_t started_;   // clock ticks since boot, /proc/PID/stat
  UniqueFd fd_;             // a pidfd: the process, not its number
};

}  // namespace fbroker::broker
