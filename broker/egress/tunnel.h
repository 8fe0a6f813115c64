// Tunnel: one connection through the gate, from its decision to its last byte.
//
// decide -> resolve once -> check every address -> (a TLS rule: the client's
// ClientHello) -> record -> connect to the address that was checked -> carry.
// A host that is not allowed is never looked up, and a client that names
// another server never causes a connection.
#pragma once

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "broker/egress/gate.h"
#include "broker/egress/look_up.h"
#include "broker/egress/tls_guard.h"

namespace fbroker::broker {

// A request in absolute form that is sent on as one of the server's own.
struct ForwardedRequest {
  std::string head;
  // How many of these bytes of its body are done with, and whether it ends there.
  struct Body {
    std::size_t used = 0;
    bool done = false;
  };
  std::function<Result<Body>(std::string_view)> body;   // empty: there is none
};

// What a record says beyond what the tunnel knows.
struct TunnelRecord {
  const char* operation = "connect";
  const char* decision = "";
  std::string rule = {};
  int error = 0;
  std::string detail = {};
  bool ended = false;    // bytes and duration are told
};

class Tunnel : public std::enable_shared_from_this<Tunnel> {
 public:
  using Strand = boost::asio::strand<boost::asio::io_context::executor_type>;
  using Client = boost::asio::basic_stream_socket<boost::asio::local::stream_protocol, Strand>;
  template <class T>
  using Awaitable = boost::asio::awaitable<T>;

  static constexpr std::size_t kMaxAsked = 300;   // bytes of what was asked for that are kept

  Tunnel(EgressGate& gate, const protocol::Caller& caller, std::string_view asked)
      : gate_(gate), pid_(caller.pid), peer_pid_(caller.peer_pid), asked_(asked.substr(0, kMaxAsked)) {}

  // The client's side, as its connection provides it. Outlives the tunnel's run.
  struct Side {
    Client& socket;
    std::string early;                                         // bytes it has sent already
    std::optional<ForwardedRequest> forward = {};              // none: CONNECT
    std::function<void(std::chrono::milliseconds)> deadline;   // from now on
  };
  // To its end. What it could not do before the client was answered is returned,
  // for the connection to say; the rest is on the record alone.
  Awaitable<std::optional<EgressRefusal>> run(Side side);

  // Any thread: no further byte passes, either way. The first reason counts.
  // Returns whether there was a connection, whose end is to be waited for.
  bool cut(const std::string& why) noexcept;

  const policy::Endpoint& target() const noexcept { return target_; }

 private:
  friend class EgressGate;
  using Remote = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Strand>;
  using Clock = std::chrono::steady_clock;

  Awaitable<Result<std::vector<policy::Address>, EgressRefusal>> addresses(const Side& side);
  Awaitable<std::optional<EgressRefusal>> connect(Side& side, std::vector<policy::Address> addresses);
  Awaitable<bool> connect_to(Side& side, const policy::Address& address);
  Awaitable<std::optional<EgressRefusal>> hello(Side& side);
  Awaitable<void> carry(Side& side);
  Awaitable<void> upwards(Side& side);
  Awaitable<bool> send_up(std::string bytes);
  Awaitable<void> downwards(Side& side);
  std::optional<EgressRefusal> failed(const EgressRefusal& why, int error);
  std::optional<EgressRefusal> was_cut();
  std::shared_ptr<LookUp> start_look_up();   // null: too many
  bool start_connecting(const Strand& strand, const policy::Address& address);
  static bool is_gone(Client& client);
  struct Piece {
    std::string bytes;
    bool last = false;
  };
  Result<Piece> next_piece(Side& side, std::string& bytes);
  void end() noexcept;

  EgressGate& gate_;
  const std::uint32_t pid_, peer_pid_;
  const std::string asked_;
  policy::Endpoint target_;
  policy::NetworkDecision decision_;   // guarded by gate_.mutex_ until run()

  std::optional<policy::Address> address_;
  std::uint16_t port_ = 0;
  std::optional<Remote> remote_;
  std::optional<TlsGuard> guard_;
  bool answered_ = false;              // the client was told "200"
  bool connected_ = false;             // its end has to be recorded
  std::uint64_t up_ = 0, down_ = 0;    // bytes
  Clock::time_point begun_ = Clock::now();
  std::array<char, 64 << 10> up_buffer_, down_buffer_;

  std::mutex mutex_;                   // guards what follows
  bool cut_ = false;
  std::string cut_why_;
  int remote_fd_ = -1, client_fd_ = -1;
  std::shared_ptr<LookUp> looking_up_;
};

}  // namespace fbroker::broker
