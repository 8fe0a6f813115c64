// HostProcess: one process on the host, held by a pidfd: never another that
// was given the same number later.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

// Threads: const members, any thread.
class HostProcess {
 public:
  // `started`: the start time that it must have, where the number comes from a
  // broker that ran before; 0 = any.
  // Errors: no such process; another one has the number by now.
  static Result<HostProcess> open(pid_t pid, std::uint64_t started = 0);
  // The process that called connect(2) for this accepted Unix socket.
  // Errors: it is gone; it lives in a PID namespace that we do not see.
  static Result<HostProcess> at_other_end(int socket);

  bool alive() const;
  // Whether it is gone within `bound`.
  bool wait_gone(std::chrono::milliseconds bound) const;
  // 0 asks whether we may.
  Result<void, Errno> signal(int number) const;

  pid_t pid() const noexcept { return pid_; }
  std::uint64_t started() const noexcept { return started_; }  // clock ticks since boot, /proc/PID/stat
  int pidfd() const noexcept { return fd_.get(); }             // readable once it is gone

 private:
  HostProcess(pid_t pid, std::uint64_t started, UniqueFd fd)
      : pid_(pid), started_(started), fd_(std::move(fd)) {}
  pid_t pid_;
  std::uint64_t started_;
  UniqueFd fd_;
};

}  // namespace fbroker::broker
