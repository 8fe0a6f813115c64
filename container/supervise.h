// The launcher beside a running sandbox: carries bytes between the person's
// terminal and the agent's, passes signals on, and learns how it ended.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "container/sandbox.h"
#include "container/terminal/raw_mode.h"
#include "container/terminal/relay.h"
#include "policy/base/result.h"

namespace fbroker::container {

// How our own stdin, stdout and stderr reach the sandbox.
//
// Both stdin and stdout are terminals: the agent gets a terminal of its own,
// made inside. Each of the others is carried through a pipe of ours; stdout and
// stderr that are one file, through one.
// INVARIANT: nothing of the person's is handed over. Through /proc/self/fd a
//   process opens a descriptor's file anew, for writing what was opened to be
//   read and the other way round, and from a directory it climbs anywhere.
class Streams {
 public:
  static Result<Streams> plan();

  Stdio stdio() const noexcept { return stdio_; }
  Terminal terminal() const noexcept { return terminal_; }
  // After the sandbox was forked: our copies of its ends must go, or nothing ends.
  void close_sandbox_ends() noexcept { kept_.clear(); }
  // The agent's terminal has arrived.
  void connect(UniqueFd master);

  std::vector<std::unique_ptr<Channel>>& channels() noexcept { return channels_; }
  // What could not be written, as errno; 0: nothing was lost.
  int lost() const noexcept;
  void stop_input() noexcept;
  void resize() noexcept;      // the person's window has another size
  void continued() noexcept;   // we were stopped and run again
  void restore() noexcept { raw_.restore(); }

  Streams(Streams&&) = default;

 private:
  Streams() : raw_holder_(std::make_unique<RawMode>()), raw_(*raw_holder_) {}
  Result<void> carry(int fd, int& for_sandbox);

  Stdio stdio_{0, 1, 2};
  Terminal terminal_;
  std::vector<UniqueFd> kept_;
  std::vector<std::unique_ptr<Channel>> channels_;
  Channel* input_ = nullptr;
  UniqueFd master_;
  std::unique_ptr<RawMode> raw_holder_;
  RawMode& raw_;
};

// Signals that the launcher takes itself, blocked for its whole life.
// Inherited by children, which have to unblock them.
class Signals {
 public:
  static Result<Signals> take();
  int fd() const noexcept { return fd_.get(); }
  std::optional<int> next() const noexcept;

 private:
  explicit Signals(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// The broker, where it is ours: without it the sandbox hangs in its first call.
struct Companion {
  std::function<int()> ended;               // readable when it has ended; -1: not ours
  std::function<Result<void>()> restart;
};

// Starts the prepared sandbox and stays until everything inside has ended.
// Returns the command's status; 137 when it was killed from outside (a revoke
// that was not acknowledged), 125 when it could not start (said on stderr).
// A companion that ends is started again; where that fails the sandbox is killed.
int supervise(Sandbox& sandbox, Streams& streams, const Signals& signals, const Companion& companion);

}  // namespace fbroker::container
