// TcpListener: a server on loopback, for what must be reached and what must not.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

#include "policy/base/unique_fd.h"

namespace fbroker::test {

// A TCP server on loopback that keeps what it is told and says one thing back.
class TcpListener {
 public:
  explicit TcpListener(std::string answer = "") : answer_(std::move(answer)) {
    fd_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(fd_.get(), 50) != 0 ||
        ::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
      std::abort();
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~TcpListener() {
    ::shutdown(fd_.get(), SHUT_RDWR);
    thread_.join();
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int accepted() const { return accepted_; }
  // Connections that ended, and how the last one did.
  int ended() const { return ended_; }
  bool was_reset() const { return reset_; }
  std::string heard() const {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  void serve() {
    for (int client; (client = ::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      const UniqueFd connection(client);
      ++accepted_;
      char bytes[4096];
      ssize_t got;
      while ((got = ::recv(client, bytes, sizeof bytes, 0)) > 0) {
        {
          const std::lock_guard lock(mutex_);
          heard_.append(bytes, static_cast<std::size_t>(got));
        }
        if (!answer_.empty()) ::send(client, answer_.data(), answer_.size(), MSG_NOSIGNAL);
        if (answer_.starts_with("HTTP/") && heard().find("END") != std::string::npos) break;
      }
      reset_ = got < 0;
      ++ended_;
    }
  }
  UniqueFd fd_;
  std::uint16_t port_ = 0;
  std::string answer_;
  std::atomic<int> accepted_{0}, ended_{0};
  std::atomic<bool> reset_{false};
  mutable std::mutex mutex_;
  std::string heard_;
  std::thread thread_;
};

}  // namespace fbroker::test
