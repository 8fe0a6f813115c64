#include "tests/support/sockets.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace fbroker::test {
namespace {

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

template <class Address>
UniqueFd listening(int family, const Address& address) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(fd.get(), 512) != 0)
    throw std::runtime_error(std::string("listen: ") + std::strerror(errno));
  return fd;
}

}  // namespace

bool send_all(int fd, const std::string& bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t put = ::send(fd, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (put <= 0) return false;
    at += static_cast<std::size_t>(put);
  }
  return true;
}

std::string receive(int fd, std::size_t size, std::chrono::milliseconds bound) {
  std::string all;
  const auto until = std::chrono::steady_clock::now() + bound;
  while (all.size() < size) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, static_cast<int>(std::max<long>(0, left.count()))) <= 0) return all;
    char buffer[65536];
    const ssize_t got = ::recv(fd, buffer, std::min(sizeof buffer, size - all.size()), 0);
    if (got <= 0) return all;
    all.append(buffer, static_cast<std::size_t>(got));
  }
  return all;
}

bool ends(int fd, std::chrono::milliseconds bound) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  char byte;
  return ::poll(&ready, 1, static_cast<int>(bound.count())) > 0 && ::recv(fd, &byte, 1, 0) <= 0;
}

UniqueFd connect_to_port(std::uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return UniqueFd();
  return fd;
}

UniqueFd listen_on_free_port() { return listening(AF_INET, loopback(0)); }

UniqueFd listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return listening(AF_UNIX, address);
}

std::uint16_t port_of(int socket) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

std::string bytes_of(const std::string& hex) {
  std::string bytes;
  for (std::size_t at = 0; at + 1 < hex.size(); at += 2) {
    while (hex[at] == ' ') ++at;
    bytes += static_cast<char>(std::stoi(hex.substr(at, 2), nullptr, 16));
  }
  return bytes;
}

std::string hex_of(const std::string& bytes) {
  std::string hex;
  for (const char c : bytes) {
    char two[4];
    std::snprintf(two, sizeof two, "%02x ", static_cast<unsigned char>(c));
    hex += two;
  }
  if (!hex.empty()) hex.pop_back();
  return hex;
}

Peer::Peer(UniqueFd listener, Serve serve)
    : listener_(std::move(listener)), serve_(std::move(serve)), acceptor_([this] { accept_all(); }) {}

Peer::~Peer() {
  ::shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  {
    const std::lock_guard lock(mutex_);
    for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
  }
  for (std::thread& thread : threads_) thread.join();
}

void Peer::accept_all() {
  for (;;) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    ++count_;
    const std::lock_guard lock(mutex_);
    open_.push_back(fd.get());
    threads_.emplace_back([this, connection = std::move(fd)]() mutable {
      serve_(connection.get());
      const std::lock_guard done(mutex_);
      std::erase(open_, connection.get());
      connection = UniqueFd();
    });
  }
}

}  // namespace fbroker::test
