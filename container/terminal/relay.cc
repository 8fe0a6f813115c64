#include "container/terminal/relay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace fbroker::container {
namespace {

bool ready(int fd, short events) noexcept {
  pollfd one{.fd = fd, .events = events, .revents = 0};
  return ::poll(&one, 1, 0) > 0;
}

bool again() noexcept { return errno == EAGAIN || errno == EINTR; }

}  // namespace

pollfd Channel::want() const noexcept {
  if (begin_ < end_) return {.fd = to_.get(), .events = POLLOUT, .revents = 0};
  return {.fd = from_.get(), .events = POLLIN, .revents = 0};  // -1: poll skips it
}

void Channel::pump() noexcept {
  empty();
  if (begin_ == end_ && from_ && ready(from_.get(), POLLIN)) fill();
  empty();
}

void Channel::fill() noexcept {
  begin_ = end_ = 0;
  const ssize_t got = ::read(from_.get(), buffer_.data(), buffer_.size());
  if (got > 0) {
    end_ = static_cast<std::size_t>(got);
  } else if (got == 0 || !again()) {
    // 0: a pipe's end or ^D. EIO: the last holder of a terminal's other side is gone.
    from_ = UniqueFd();
    to_ = UniqueFd();
  }
}

void Channel::empty() noexcept {
  while (begin_ < end_ && to_ && ready(to_.get(), POLLOUT)) {
    const ssize_t put = ::write(to_.get(), buffer_.data() + begin_, std::min(end_ - begin_, kMostAtOnce));
    if (put < 0 && again()) return;
    if (put < 0) {
      if (errno != EPIPE) error_ = errno;
      to_ = UniqueFd();
      if (then_ == TargetGone::end) from_ = UniqueFd();
      break;
    }
    begin_ += static_cast<std::size_t>(put);
  }
  if (!to_) begin_ = end_ = 0;
}

}  // namespace fbroker::container
