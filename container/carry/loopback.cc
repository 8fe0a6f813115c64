#include "container/carry/loopback.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <charconv>

namespace fbroker::carry {
namespace {

constexpr std::string_view kV4 = "127.0.0.1", kV6 = "[::1]";

int bind_to(int fd, const Loopback& at) {
  if (at.family == Loopback::Family::v4) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(at.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(at.port);
  address.sin6_addr = in6addr_loopback;
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

}  // namespace

std::string Loopback::text() const {
  return std::string(family == Family::v4 ? kV4 : kV6) + ":" + std::to_string(port);
}

Result<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0)
    return Error{"", "expected a port from 1 to 65535, found \"" + std::string(text) + "\""};
  return port;
}

Result<Loopback> parse_loopback(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  const std::string_view address = text.substr(0, colon);
  if (colon == text.npos || (address != kV4 && address != kV6))
    return Error{"", "expected 127.0.0.1:PORT or [::1]:PORT, found \"" + std::string(text) + "\""};
  FBROKER_TRY(const std::uint16_t port, parse_port(text.substr(colon + 1)));
  return Loopback{address == kV4 ? Loopback::Family::v4 : Loopback::Family::v6, port};
}

Result<UniqueFd, Errno> listen_on(const Loopback& at) {
  const int family = at.family == Loopback::Family::v4 ? AF_INET : AF_INET6;
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Errno::last();
  // The last run's connections in TIME_WAIT do not hold the port. Against a
  // socket that listens this does nothing; SO_REUSEPORT would let another one
  // of the same user take half of our connections.
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) return Errno::last();
  if (bind_to(fd.get(), at) < 0 || ::listen(fd.get(), SOMAXCONN) < 0) return Errno::last();
  return fd;
}

}  // namespace fbroker::carry
