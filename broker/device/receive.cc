#include "broker/device/receive.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "broker/device/small_process.h"

namespace fbroker::broker {

using protocol::DeviceOffer;
using protocol::kMaxDevices;

namespace {

constexpr unsigned kFuseMajor = 10, kFuseMinor = 229;   // Documentation/admin-guide/devices.txt
constexpr std::size_t kRoom = 16;   // what comes beyond kMaxDevices must be seen, to be refused
constexpr std::chrono::milliseconds kPassBound{2000};

// One message and the descriptors beside it. No allocation: this runs in a SmallProcess, too.
struct Message {
  DeviceOffer offer;
  std::size_t bytes = 0;
  std::size_t count = 0;
  int descriptors[kRoom];
  bool whole = false;
};

Message take_message(int socket) noexcept {
  Message taken;
  char more = 0;
  iovec data[]{{&taken.offer, sizeof taken.offer}, {&more, 1}};
  alignas(cmsghdr) char control[CMSG_SPACE(kRoom * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = data;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0) return taken;
  taken.bytes = static_cast<std::size_t>(got);
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count && taken.count < kRoom; ++i)
      std::memcpy(&taken.descriptors[taken.count++], CMSG_DATA(part) + i * sizeof(int), sizeof(int));
  }
  taken.whole = taken.bytes == sizeof taken.offer && (message.msg_flags & MSG_CTRUNC) == 0;
  return taken;
}

bool pass_on(int socket, const Message& taken) noexcept {
  iovec data{const_cast<DeviceOffer*>(&taken.offer), sizeof taken.offer};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDevices * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(taken.count * sizeof(int));
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(taken.count * sizeof(int));
  std::memcpy(CMSG_DATA(part), taken.descriptors, taken.count * sizeof(int));
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) >= 0;
}

bool is_fuse_device(int fd) noexcept {
  struct stat info{};
  return ::fstat(fd, &info) == 0 && S_ISCHR(info.st_mode) && info.st_rdev == makedev(kFuseMajor, kFuseMinor);
}

struct Inspection {
  int from, to, bound_ms;
};

// Ends without passing anything on when anything is not as it has to be.
void inspect(const void* argument) {
  const auto& task = *static_cast<const Inspection*>(argument);
  pollfd wait{.fd = task.from, .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, task.bound_ms) <= 0) return;
  const Message taken = take_message(task.from);
  if (!taken.whole || taken.offer.version != protocol::kDeviceOfferVersion || taken.count == 0 ||
      taken.count > kMaxDevices || taken.offer.devices != taken.count)
    return;
  for (std::size_t i = 0; i < taken.count; ++i)
    if (!is_fuse_device(taken.descriptors[i])) return;
  pass_on(task.to, taken);
}

}  // namespace

Result<OfferedDevice> receive_device(int socket, std::chrono::milliseconds bound) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    return Error{"socketpair", std::strerror(errno)};
  UniqueFd ours(ends[0]), theirs(ends[1]);
  const Inspection task{socket, theirs.get(), static_cast<int>(bound.count())};
  auto inspector = SmallProcess::start("fbroker-look", {socket, theirs.get()}, &inspect, &task);
  if (!inspector) return inspector.error();
  theirs = UniqueFd();
  pollfd wait{.fd = ours.get(), .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, static_cast<int>((bound + kPassBound).count())) <= 0)
    return Error{"device", "did not come, or hangs when it is looked at"};
  // INVARIANT: what arrives here was found to be the kernel's FUSE device.
  Message passed = take_message(ours.get());
  OfferedDevice offered;
  for (std::size_t i = 0; i < passed.count; ++i) offered.devices.emplace_back(passed.descriptors[i]);
  if (!passed.whole || offered.devices.empty()) return Error{"device", "what was sent is no FUSE device"};
  offered.offer = passed.offer;
  return offered;
}

}  // namespace fbroker::broker
