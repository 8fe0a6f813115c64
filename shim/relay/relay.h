// Relay: the sandbox's way to the broker's egress gate, and the inside half of
// --publish. It listens on the sandbox's own loopback as an HTTP and SOCKS5
// proxy and carries each connection to the data socket; the other way round it
// carries what the launcher hands over to a port inside.
//
// It holds no authority. Whoever is inside can reach the data socket without
// it, and what is allowed the broker decides: what is checked here keeps two
// protocols apart and gives clear answers.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "container/carry/both_ways.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::relay {

struct Limits {
  std::size_t connections = 128;   // through the proxy at a time; further ones wait in the backlog
  std::chrono::milliseconds first_bytes{10'000};   // for a whole request line or SOCKS handshake
  std::chrono::milliseconds answer{90'000};        // for the broker's, which asks a name server and dials
  std::chrono::milliseconds dial{10'000};          // a port inside
};

// Threads: that of io.run(). It must outlive every call of it.
class Relay {
 public:
  // `socket`: the data socket's path, connected to anew for each connection, so
  // that a broker that was restarted is found.
  // Precondition: it fits into a sockaddr_un.
  Relay(boost::asio::io_context& io, const std::string& socket, Limits limits = {});

  // `listener`: from carry::listen_on.
  Result<void, Errno> serve_proxy(UniqueFd listener);
  // `channel`: the relay's end of carry::make_channel.
  Result<void, Errno> serve_published(UniqueFd channel);

 private:
  using Listener = boost::asio::ip::tcp::acceptor;
  using Channel = boost::asio::posix::stream_descriptor;

  boost::asio::awaitable<void> attend();
  boost::asio::awaitable<void> take_published();
  boost::asio::awaitable<void> carry_published(UniqueFd end, std::uint16_t port);

  boost::asio::io_context& io_;
  boost::asio::local::stream_protocol::endpoint broker_;
  Limits limits_;
  Listener listener_;
  Channel channel_;
};

}  // namespace fbroker::relay
