// SmallProcess: a child that runs one function of system calls, for what may
// hang in the kernel where nothing can interrupt it.
//
// It is forked without an exec, out of a process of many threads: its function
// may make system calls and use its stack, and nothing else (signal-safety(7)).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <initializer_list>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

class SmallProcess {
 public:
  // `run` gets `argument` and ends the child when it returns. The child holds
  // the given descriptors (by the same numbers) and no other.
  static Result<SmallProcess> start(const char* name, std::initializer_list<int> descriptors,
                                    void (*run)(const void*), const void* argument);
  SmallProcess(SmallProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}
  SmallProcess& operator=(SmallProcess&&) = delete;
  // Kills it. One that hangs in the kernel is not waited for.
  ~SmallProcess();

  bool wait_ended(std::chrono::milliseconds bound) const noexcept;

 private:
  SmallProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  pid_t pid_;
  UniqueFd pidfd_;
};

}  // namespace fbroker::broker
