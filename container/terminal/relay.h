// Channel: copies bytes one way between two descriptors through a fixed buffer.
#pragma once

#include <poll.h>

#include <array>
#include <cstddef>

#include "policy/base/unique_fd.h"

namespace fbroker::container {

// Used in a poll loop: want() says what to wait for, pump() moves what can be
// moved. A side that is slow holds up the other: never more than one buffer.
// When the source ends the target is closed.
// Threads: none.
class Channel {
 public:
  Channel(UniqueFd from, UniqueFd to) noexcept : from_(std::move(from)), to_(std::move(to)) {}

  // Adds at most one entry; the source while there is room, else the target.
  pollfd want() const noexcept;
  void pump() noexcept;
  bool ended() const noexcept { return !from_; }
  // No more of the source; what was read is still written.
  void stop() noexcept { from_ = UniqueFd(); }

 private:
  void fill() noexcept;
  void empty() noexcept;

  UniqueFd from_, to_;
  std::array<char, 16384> buffer_;
  std::size_t begin_ = 0, end_ = 0;
};

}  // namespace fbroker::container
