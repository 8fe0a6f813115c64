#include "container/carry/descriptors.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include <cstring>

namespace fbroker::carry {

Result<void, Errno> send_descriptor(int socket, std::span<const std::byte> message, int fd, int flags) {
  iovec data{const_cast<std::byte*>(message.data()), message.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)]{};
  msghdr whole{};
  whole.msg_iov = &data;
  whole.msg_iovlen = 1;
  whole.msg_control = control;
  whole.msg_controllen = sizeof control;
  cmsghdr* part = CMSG_FIRSTHDR(&whole);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(part), &fd, sizeof fd);
  if (::sendmsg(socket, &whole, flags | MSG_NOSIGNAL) < 0) return Errno::last();
  return ok;
}

void allow_many_descriptors() noexcept {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace fbroker::carry
