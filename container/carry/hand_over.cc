#include "container/carry/hand_over.h"

#include <sys/socket.h>

#include <cstring>
#include <span>
#include <vector>

#include "container/carry/descriptors.h"

namespace fbroker::carry {
namespace {

// Room for more than the one: what comes beyond it has to be closed, too.
constexpr std::size_t kRoomForDescriptors = 8;

std::vector<UniqueFd> descriptors_of(msghdr& message) {
  std::vector<UniqueFd> all;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      all.emplace_back(fd);
    }
  }
  return all;
}

int option(int fd, int name) noexcept {
  int value = -1;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

}  // namespace

bool is_unix_stream(int fd) noexcept {
  return option(fd, SO_DOMAIN) == AF_UNIX && option(fd, SO_TYPE) == SOCK_STREAM;
}

Result<Ends, Errno> make_channel() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) return Errno::last();
  Ends both{UniqueFd(ends[0]), UniqueFd(ends[1])};
  // ATTACK: a relay that was taken over keeps the launcher's memory, or its
  //   quota of descriptors in flight, with messages that nobody reads.
  ::shutdown(both.launcher.get(), SHUT_RD);
  return both;
}

Result<void, Errno> hand_over(int channel, std::uint16_t port, int end) {
  return send_descriptor(channel, std::as_bytes(std::span(&port, 1)), end, MSG_DONTWAIT);
}

Result<std::optional<HandedOver>, Errno> take_over(int channel) {
  std::uint16_t port = 0;
  char too_much = 0;
  iovec data[]{{&port, sizeof port}, {&too_much, 1}};
  alignas(cmsghdr) char control[CMSG_SPACE(kRoomForDescriptors * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = data;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0) return Errno::last();
  std::vector<UniqueFd> sent = descriptors_of(message);
  if (got == 0 && sent.empty()) return std::optional<HandedOver>();
  if (got != sizeof port || port == 0 || sent.size() != 1 || (message.msg_flags & MSG_CTRUNC) != 0 ||
      !is_unix_stream(sent.front().get()))
    return std::optional(HandedOver{0, UniqueFd()});
  return std::optional(HandedOver{port, std::move(sent.front())});
}

}  // namespace fbroker::carry
