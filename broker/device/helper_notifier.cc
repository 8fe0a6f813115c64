#include "broker/device/helper_notifier.h"

#include <linux/fuse.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fbroker::broker {

using std::chrono::steady_clock;

namespace {

// A batch is its messages and this; the answer is an errno.
constexpr std::uint32_t kEndOfBatch = 0;
constexpr std::size_t kPieceBytes = 64 * 1024;   // of a batch; a message is 300 bytes at most

struct Task {
  int device, channel;
};

bool answer(int channel, int error) noexcept {
  return ::send(channel, &error, sizeof error, MSG_NOSIGNAL) == sizeof error;
}

// The helper's life: messages in, writes out. Ends when the broker does.
void serve(const void* argument) {
  const auto& task = *static_cast<const Task*>(argument);
  alignas(8) std::byte piece[kPieceBytes];
  std::size_t held = 0;
  int failed = 0;
  for (;;) {
    const ssize_t got = ::read(task.channel, piece + held, sizeof piece - held);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;
    held += static_cast<std::size_t>(got);
    std::size_t at = 0;
    while (held - at >= sizeof(std::uint32_t)) {
      std::uint32_t length;
      std::memcpy(&length, piece + at, sizeof length);
      if (length == kEndOfBatch) {
        if (!answer(task.channel, std::exchange(failed, 0))) return;
        at += sizeof length;
        continue;
      }
      if (length < sizeof(fuse_out_header) || length > kPieceBytes) return;
      if (held - at < length) break;
      const int error = fuse::write_notices(task.device, {piece + at, length});
      if (failed == 0) failed = error;
      at += length;
    }
    held -= at;
    std::memmove(piece, piece + at, held);
  }
}

int left_ms(steady_clock::time_point until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - steady_clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

}  // namespace

Result<std::unique_ptr<HelperNotifier>> HelperNotifier::start(int device, std::chrono::milliseconds bound) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return Error{"socketpair", std::strerror(errno)};
  UniqueFd ours(ends[0]), theirs(ends[1]);
  const Task task{device, theirs.get()};
  auto process = SmallProcess::start("fbroker-notify", {device, theirs.get()}, &serve, &task);
  if (!process) return process.error();
  return std::unique_ptr<HelperNotifier>(new HelperNotifier(std::move(*process), std::move(ours), bound));
}

bool HelperNotifier::send(std::span<const std::byte> bytes, steady_clock::time_point until) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(channel_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    pollfd wait{.fd = channel_.get(), .events = POLLOUT, .revents = 0};
    if (errno != EAGAIN || ::poll(&wait, 1, left_ms(until)) <= 0) return false;
  }
  return true;
}

bool HelperNotifier::take_answer(steady_clock::time_point until, int& error) {
  for (;;) {
    const ssize_t got = ::recv(channel_.get(), &error, sizeof error, MSG_DONTWAIT);
    if (got == sizeof error) return true;
    if (got < 0 && errno == EINTR) continue;
    pollfd wait{.fd = channel_.get(), .events = POLLIN, .revents = 0};
    if (got >= 0 || errno != EAGAIN || ::poll(&wait, 1, left_ms(until)) <= 0) return false;
  }
}

bool HelperNotifier::tell(const fuse::Notices& notices) {
  const auto until = steady_clock::now() + bound_;
  int error = 0;
  if (broken_ || (answer_owed_ && !take_answer(until, error))) return false;
  answer_owed_ = false;
  if (!send(notices.bytes(), until) || !send(std::as_bytes(std::span(&kEndOfBatch, 1)), until)) {
    broken_ = true;
    return false;
  }
  if (!take_answer(until, error)) {
    answer_owed_ = true;
    return false;
  }
  return error == 0;
}

}  // namespace fbroker::broker
