// RawMode: the person's terminal passes every key through, and is given back
// as it was.
#pragma once

#include <termios.h>

#include <optional>

#include "policy/base/unique_fd.h"

namespace fbroker::container {

// Threads: none. Restores in its destructor, so on every path but SIGKILL.
class RawMode {
 public:
  RawMode() = default;
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;
  ~RawMode() { restore(); }

  // Borrowed descriptor, must stay open. False when it is no terminal.
  bool enter(int terminal) noexcept;
  // After SIGCONT: whoever had the terminal meanwhile has changed it.
  void enter_again() noexcept;
  void restore() noexcept;

 private:
  int terminal_ = -1;
  std::optional<termios> before_;
};

// Whether a descriptor is a terminal, whatever its mode.
bool is_terminal(int fd) noexcept;

// A descriptor of our own for the same terminal, which does not block: setting
// O_NONBLOCK on the one we were given would reach the person's shell.
// Empty when the terminal cannot be opened again.
UniqueFd own_terminal(int fd, int flags) noexcept;

}  // namespace fbroker::container
