// Errno: one error number of errno(3), as a type of its own, so that it can
// neither be mistaken for a length nor be lost between two calls.
#pragma once

#include <cerrno>

namespace fbroker {

struct Errno {
  int value;

  // The calling thread's errno, read right after a call that failed.
  static Errno last() noexcept { return Errno{errno}; }

  friend constexpr bool operator==(Errno, Errno) = default;
};

}  // namespace fbroker
