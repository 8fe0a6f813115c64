// Sandbox: a backend's process, from fork to the end of everything inside.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "container/preconditions.h"
#include "container/spec.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::container {

// What the sandbox's own stdin, stdout and stderr are. Borrowed.
// INVARIANT: none of them is the person's terminal; that is never reachable
//   from inside (TIOCSTI, escape sequences that it would answer).
struct Stdio {
  int in = -1, out = -1, err = -1;
};

// A process, named so that its number cannot come to mean another one.
class Child {
 public:
  Child() = default;
  Child(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  pid_t pid() const noexcept { return pid_; }
  int pidfd() const noexcept { return pidfd_.get(); }
  explicit operator bool() const noexcept { return static_cast<bool>(pidfd_); }
  void signal(int number) const noexcept;

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
};

// The launcher's ends of a running sandbox.
struct Sandbox {
  Child backend;      // bwrap; our child
  Child first;        // the first process inside, by its host pid: its end is everybody's
  UniqueFd status;    // fbroker-init's lines
  UniqueFd console;   // its terminal's master comes from here
  UniqueFd publish;   // connections for the relay inside go in here
  UniqueFd go;        // one byte: may start
};

// Starts the backend and waits (bounded) until the first process exists. The
// sandbox then waits for start().
// `spec` gets its descriptors for status, console, publish, info and block filled in.
// As root, everything that is mounted is first placed where `user` can reach
// it, in a mount namespace of the sandbox's own.
Result<Sandbox> prepare(SandboxSpec spec, const Programs& programs, HostUser user, Stdio stdio);

void start(Sandbox& sandbox) noexcept;

// Ends it if it is there, and reaps the backend. Safe on every path.
void destroy(Sandbox& sandbox) noexcept;

// A file of this content, in memory, to be read from its beginning.
Result<UniqueFd> file_of(const std::string& name, const std::string& content);

}  // namespace fbroker::container
