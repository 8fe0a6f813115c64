// A keeper for tests: descriptors go over a socket pair to the process that
// does the killing, and come back from it.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "broker/fuse/front.h"

namespace fbroker::test {

struct KeeperMessage {
  enum What : std::uint64_t { keep, drop, take } what = keep;
  std::uint64_t handle = 0;
};

inline bool send_message(int socket, KeeperMessage message, int fd) {
  iovec part{&message, sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  return ::sendmsg(socket, &header, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof message);
}

inline bool receive_message(int socket, KeeperMessage& message, UniqueFd& fd) {
  iovec part{&message, sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  if (::recvmsg(socket, &header, MSG_CMSG_CLOEXEC) != static_cast<ssize_t>(sizeof message)) return false;
  fd = UniqueFd();
  if (const cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr && c->cmsg_type == SCM_RIGHTS) {
    int number = -1;
    std::memcpy(&number, CMSG_DATA(c), sizeof number);
    fd = UniqueFd(number);
  }
  return true;
}

class RestartKeeperClient final : public fuse::Keeping {
 public:
  explicit RestartKeeperClient(int socket) : socket_(socket) {}
  void keep(std::uint64_t handle, int fd) override { ask({KeeperMessage::keep, handle}, fd); }
  void drop(std::uint64_t handle) override { ask({KeeperMessage::drop, handle}, -1); }
  UniqueFd take(std::uint64_t handle) override { return ask({KeeperMessage::take, handle}, -1); }

 private:
  UniqueFd ask(KeeperMessage message, int fd) {
    const std::lock_guard lock(mutex_);
    UniqueFd back;
    if (send_message(socket_, message, fd)) receive_message(socket_, message, back);
    return back;
  }
  std::mutex mutex_;
  int socket_;
};

// The other end: for one server's life; what it keeps outlives that.
class RestartKeeper {
 public:
  // Serves the socket until its other end is gone.
  void serve(int socket) {
    KeeperMessage message;
    UniqueFd fd;
    while (receive_message(socket, message, fd)) {
      const std::lock_guard lock(mutex_);
      UniqueFd back;
      if (message.what == KeeperMessage::keep) kept_[message.handle] = std::move(fd);
      if (message.what == KeeperMessage::drop) kept_.erase(message.handle);
      if (const auto found = kept_.find(message.handle); message.what == KeeperMessage::take && found != kept_.end())
        back = UniqueFd(::fcntl(found->second.get(), F_DUPFD_CLOEXEC, 3));
      if (!send_message(socket, message, back.get())) return;
    }
  }
  std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return kept_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::uint64_t, UniqueFd> kept_;
};

}  // namespace fbroker::test
