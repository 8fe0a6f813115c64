#include "broker/device/keeper_messages.h"

#include <sys/socket.h>

#include <array>
#include <cstring>

#include "broker/device/keeper.h"

namespace fbroker::broker {

namespace {

constexpr std::size_t kHead = 3;
// Room for more than the one: what came beyond it is to be seen, and closed.
constexpr std::size_t kRoomForDescriptors = 8;

void take_descriptors(msghdr& whole, std::vector<UniqueFd>& into) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&whole); part != nullptr; part = CMSG_NXTHDR(&whole, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      into.emplace_back(fd);
    }
  }
}

}  // namespace

bool is_kept_name(std::string_view name) noexcept {
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/";
  return !name.empty() && name.size() <= kMaxKeptName && name.find_first_not_of(kLetters) == name.npos;
}

Result<void, Errno> send_message(int socket, std::uint8_t kind, std::uint8_t detail, std::string_view name,
                                 int fd) {
  std::array<std::uint8_t, kHead> head{kKeeperVersion, kind, detail};
  iovec parts[]{{head.data(), head.size()}, {const_cast<char*>(name.data()), name.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)]{};
  msghdr whole{};
  whole.msg_iov = parts;
  whole.msg_iovlen = 2;
  if (fd >= 0) {
    whole.msg_control = control;
    whole.msg_controllen = sizeof control;
    cmsghdr* part = CMSG_FIRSTHDR(&whole);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(part), &fd, sizeof fd);
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket, &whole, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return Errno::last();
  return ok;
}

Result<KeeperMessage, Errno> receive_message(int socket) {
  std::array<std::uint8_t, kHead> head{};
  std::array<char, kMaxKeptName> name;
  iovec parts[]{{head.data(), head.size()}, {name.data(), name.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(kRoomForDescriptors * sizeof(int))]{};
  msghdr whole{};
  whole.msg_iov = parts;
  whole.msg_iovlen = 2;
  whole.msg_control = control;
  whole.msg_controllen = sizeof control;
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket, &whole, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return Errno::last();
  KeeperMessage message;
  take_descriptors(whole, message.descriptors);
  if (got == 0 && message.descriptors.empty()) return Errno{ECONNRESET};
  message.cut = (whole.msg_flags & MSG_CTRUNC) != 0;
  const auto size = static_cast<std::size_t>(got);
  message.whole = size >= kHead && (whole.msg_flags & MSG_TRUNC) == 0 && message.descriptors.size() <= 1;
  if (!message.whole) return message;
  message.version = head[0];
  message.kind = head[1];
  message.detail = head[2];
  message.name.assign(name.data(), size - kHead);
  return message;
}

}  // namespace fbroker::broker
