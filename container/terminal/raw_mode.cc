#include "container/terminal/raw_mode.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

namespace fbroker::container {

bool RawMode::enter(int terminal) noexcept {
  termios now{};
  if (::tcgetattr(terminal, &now) < 0) return false;
  terminal_ = terminal;
  before_ = now;
  enter_again();
  return true;
}

void RawMode::enter_again() noexcept {
  if (!before_) return;
  termios raw = *before_;
  ::cfmakeraw(&raw);
  ::tcsetattr(terminal_, TCSADRAIN, &raw);
}

void RawMode::restore() noexcept {
  if (!before_) return;
  ::tcsetattr(terminal_, TCSADRAIN, &*before_);
  before_.reset();
}

bool is_terminal(int fd) noexcept { return ::isatty(fd) == 1; }

UniqueFd own_terminal(int fd, int flags) noexcept {
  const std::string name = "/proc/self/fd/" + std::to_string(fd);
  return UniqueFd(::open(name.c_str(), flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

}  // namespace fbroker::container
