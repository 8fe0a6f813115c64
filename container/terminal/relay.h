// Channel: copies bytes one way between two descriptors through a fixed buffer.
#pragma once

#include <limits.h>
#include <poll.h>

#include <array>
#include <cstddef>

#include "policy/base/unique_fd.h"

namespace fbroker::container {

// Used in a poll loop: want() says what to wait for, pump() moves what can be
// moved. A side that is slow holds up the other: never more than one buffer.
// When the source ends the target is closed. Neither descriptor has to be
// non-blocking: nothing is done that poll(2) has not promised.
// Threads: none.
class Channel {
 public:
  enum class TargetGone {
    end,       // the source is closed as well: who writes there gets SIGPIPE
    go_on,     // what comes is dropped, so that the writer is not held up
  };
  Channel(UniqueFd from, UniqueFd to, TargetGone then = TargetGone::end) noexcept
      : from_(std::move(from)), to_(std::move(to)), then_(then) {}

  // Adds at most one entry; the source while there is room, else the target.
  pollfd want() const noexcept;
  void pump() noexcept;
  bool ended() const noexcept { return !from_; }
  // Why the target took no more (errno); 0: it took all, or its reader left.
  int error() const noexcept { return error_; }
  // No more of the source; what was read is still written.
  void stop() noexcept { from_ = UniqueFd(); }

 private:
  void fill() noexcept;
  void empty() noexcept;

  // What a pipe takes without blocking when it takes anything at all: pipe(7).
  static constexpr std::size_t kMostAtOnce = PIPE_BUF;

  UniqueFd from_, to_;
  TargetGone then_;
  int error_ = 0;
  std::array<char, 16384> buffer_;
  std::size_t begin_ = 0, end_ = 0;
};

}  // namespace fbroker::container
