#include "broker/egress/tunnel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cstring>

namespace fbroker::broker {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using policy::Address;
using policy::TlsCheck;

namespace {

// In this file no co_await stands in a condition or beside another expression:
// GCC 12.2 destroys the wrong things there.
constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

constexpr std::string_view kEstablished = "HTTP/1.1 200 Connection established\r\n\r\n";

// RFC 8446 section 6: what a TLS client understands, after it was told "200".
constexpr unsigned char kInternalError = 80, kUnrecognizedName = 112;
std::array<unsigned char, 7> fatal_alert(unsigned char what) { return {21, 3, 3, 0, 2, 2, what}; }

tcp::endpoint to_endpoint(const Address& address, std::uint16_t port) {
  return {asio::ip::make_address(address.text()), port};
}

EgressRefusal was_not_found(const std::string& name) { return {502, name + " is not known by any name server", "egress:name"}; }

}  // namespace

bool Tunnel::cut(const std::string& why) noexcept {
  const std::lock_guard lock(mutex_);
  if (!cut_) cut_why_ = why;
  cut_ = true;
  if (looking_up_) looking_up_->wake();
  if (remote_fd_ < 0) return false;   // and there will be none (start_connecting)
  // Not shutdown(2): bytes that wait in the socket would still be sent. This
  // drops them, and the server is told with a reset (connect(2), AF_UNSPEC).
  sockaddr none{};
  none.sa_family = AF_UNSPEC;
  (void)::connect(remote_fd_, &none, sizeof none);
  // ATTACK: a client that does not read, so that the tunnel waits for it.
  ::shutdown(client_fd_, SHUT_RDWR);
  return true;
}

std::optional<EgressRefusal> Tunnel::was_cut() {
  const std::lock_guard lock(mutex_);
  if (!cut_) return std::nullopt;
  return EgressRefusal{403, target_.text() + " is not allowed any more", cut_why_};
}

std::optional<EgressRefusal> Tunnel::failed(const EgressRefusal& why, int error) {
  const bool recorded = gate_.record(*this, {.decision = error == EACCES ? "deny" : "allow", .rule = why.rule,
                                             .error = error, .detail = why.what}).has_value();
  return recorded ? why : EgressRefusal{503, "the audit log takes no records", "egress:audit"};
}

Tunnel::Awaitable<std::optional<EgressRefusal>> Tunnel::run(Side side) {
  struct AtEnd {
    std::shared_ptr<Tunnel> tunnel;
    ~AtEnd() { tunnel->end(); }
  } const at_end{shared_from_this()};
  {
    const std::lock_guard lock(mutex_);
    client_fd_ = side.socket.native_handle();
  }
  std::optional<EgressRefusal> refused;
  // ATTACK: plain HTTP to a port where the rule wants TLS. (Port 80 is for nothing else.)
  if (side.forward && decision_.tls != TlsCheck::off && target_.port != policy::kHttpPort)
    co_return failed({403, "the rule for " + target_.text() + " wants TLS", "egress:sni"}, EACCES);
  auto found = co_await addresses(side);
  if (!found) refused = found.error();
  if (!refused && decision_.tls != TlsCheck::off && !side.forward) refused = co_await hello(side);
  if (!refused) refused = co_await connect(side, std::move(*found));
  if (!refused) {
    co_await carry(side);
  } else if (answered_) {
    // There was a TLS client; it is told in its own words.
    const auto alert = fatal_alert(refused->status == 403 ? kUnrecognizedName : kInternalError);
    co_await asio::async_write(side.socket, asio::buffer(alert), kTuple);
    refused.reset();
  }
  co_return refused;
}

// Under the lock, so that a cut comes before it or wakes it.
std::shared_ptr<LookUp> Tunnel::start_look_up() {
  const std::lock_guard lock(mutex_);
  if (!looking_up_) looking_up_ = LookUp::start(target_.host.text(), gate_.look_ups_);
  if (looking_up_ && cut_) looking_up_->wake();
  return looking_up_;
}

// INVARIANT: what is connected to is one of these, and every one of them was
//   checked. Names are looked up once and only after they were allowed.
// ATTACK: a name of the agent's own that leads to this machine, its network or
//   a cloud's metadata; or that leads elsewhere when it is asked for again.
Tunnel::Awaitable<Result<std::vector<Address>, EgressRefusal>> Tunnel::addresses(const Side& side) {
  std::vector<Address> found;
  port_ = target_.port;
  if (decision_.instead) {
    port_ = decision_.instead->port;
    co_return std::vector{*decision_.instead->host.address()};
  }
  if (target_.host.address()) {
    found = {*target_.host.address()};
  } else if (gate_.options_.resolve) {
    auto resolved = gate_.options_.resolve(target_.host.text());
    if (resolved) found = std::move(*resolved);
  } else {
    const auto look_up = start_look_up();
    if (!look_up) co_return *failed({503, "too many names are being looked up", "egress:limit"}, EAGAIN);
    side.deadline(gate_.options_.resolve_bound + std::chrono::seconds(5));
    auto answer = co_await look_up->answer(side.socket.get_executor(), gate_.options_.resolve_bound);
    if (answer) found = std::move(*answer);
  }
  if (auto cut = was_cut()) co_return *failed(*cut, EACCES);
  if (found.empty()) co_return *failed(was_not_found(target_.host.text()), EHOSTUNREACH);
  for (const Address& address : found) {
    if (address.is_public()) continue;
    address_ = address;   // for the record
    auto refused = *failed({403, target_.host.text() + " leads to an address that is not public; a service of this "
                            "machine or network is reached by an alias", "egress:address"}, EACCES);
    co_return refused;
  }
  co_return found;
}

// Waits for the ClientHello, after a "200" without which no client sends one.
Tunnel::Awaitable<std::optional<EgressRefusal>> Tunnel::hello(Side& side) {
  guard_.emplace(target_.host, decision_.tls);
  side.deadline(gate_.options_.hello_bound);
  answered_ = true;
  const auto [unsent, sent] = co_await asio::async_write(side.socket, asio::buffer(kEstablished), kTuple);
  if (unsent) co_return failed({400, "the client left before it was answered", "egress:tls"}, EPIPE);
  std::string bytes = std::exchange(side.early, {});
  while (true) {
    if (auto taken = guard_->from_client(bytes); !taken)
      co_return failed({403, taken.error().text(), "egress:sni"}, EACCES);
    if (guard_->opened()) break;
    const auto [error, size] = co_await side.socket.async_read_some(asio::buffer(up_buffer_), kTuple);
    if (error) co_return failed({400, "the client sent no ClientHello", "egress:tls"}, EPIPE);
    bytes.assign(up_buffer_.data(), size);
  }
  side.early = guard_->take();
  co_return std::nullopt;
}

Tunnel::Awaitable<std::optional<EgressRefusal>> Tunnel::connect(Side& side, std::vector<Address> addresses) {
  for (const Address& address : addresses) {
    if (auto cut = was_cut()) co_return failed(*cut, EACCES);
    address_ = address;
    // INVARIANT: no packet before its record.
    if (!gate_.record(*this, {.decision = "allow", .rule = decision_.rule}))
      co_return EgressRefusal{503, "the audit log takes no records", "egress:audit"};
    connected_ = true;   // from here on there is an end to be recorded
    begun_ = Clock::now();
    const bool made = co_await connect_to(side, address);
    if (made) co_return std::nullopt;
    if (auto cut = was_cut()) co_return cut;
    connected_ = false;
    (void)gate_.record(*this, {.operation = "disconnect", .rule = decision_.rule, .error = EHOSTUNREACH, .detail = "no answer", .ended = true});
  }
  co_return EgressRefusal{502, target_.text() + " does not answer", "egress:connect"};
}

// Under the lock, so that a cut comes before the first packet or resets it.
bool Tunnel::start_connecting(const Strand& strand, const Address& address) {
  const std::lock_guard lock(mutex_);
  if (cut_) return false;
  const tcp::endpoint to = to_endpoint(address, port_);
  error_code error;
  remote_.reset();
  remote_fd_ = -1;
  remote_.emplace(strand);
  remote_->open(to.protocol(), error);
  if (error) return false;
  remote_->non_blocking(true, error);
  ::fcntl(remote_->native_handle(), F_SETFD, FD_CLOEXEC);
  remote_->set_option(tcp::no_delay(true), error);
  remote_->set_option(asio::socket_base::keep_alive(true), error);
  remote_fd_ = remote_->native_handle();
  return ::connect(remote_fd_, to.data(), static_cast<socklen_t>(to.size())) == 0 || errno == EINPROGRESS;
}

Tunnel::Awaitable<bool> Tunnel::connect_to(Side& side, const Address& address) {
  if (!start_connecting(side.socket.get_executor(), address)) co_return false;
  side.deadline(gate_.options_.connect_bound + std::chrono::seconds(5));
  asio::steady_timer late(side.socket.get_executor(), gate_.options_.connect_bound);
  late.async_wait([self = shared_from_this()](const error_code& error) {
    error_code ignored;
    if (!error && self->remote_) self->remote_->cancel(ignored);
  });
  const auto [error] = co_await remote_->async_wait(tcp::socket::wait_write, kTuple);
  late.cancel();
  int failure = 0;
  socklen_t size = sizeof failure;
  co_return !error && ::getsockopt(remote_fd_, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 && failure == 0;
}

// ---- bytes ---------------------------------------------------------------------

Tunnel::Awaitable<void> Tunnel::carry(Side& side) {
  if (!answered_ && !side.forward) {
    answered_ = true;
    const auto [unsent, sent] = co_await asio::async_write(side.socket, asio::buffer(kEstablished), kTuple);
    if (unsent) co_return;
  }
  side.deadline(gate_.options_.idle_bound);
  bool up_done = false;
  asio::steady_timer waiting(side.socket.get_executor(), asio::steady_timer::time_point::max());
  asio::co_spawn(side.socket.get_executor(), upwards(side), [&](std::exception_ptr) {
    up_done = true;
    waiting.cancel();
  });
  co_await downwards(side);
  while (!up_done) {
    co_await waiting.async_wait(kTuple);
  }
}

// Whether the other side of a Unix socket is closed, and not only for writing.
bool Tunnel::is_gone(Client& client) {
  pollfd state{client.native_handle(), 0, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0;
}

// What of `bytes` may go to the server, taken out of them.
Result<Tunnel::Piece> Tunnel::next_piece(Side& side, std::string& bytes) {
  Piece piece;
  if (guard_) {
    FBROKER_TRY_VOID(guard_->from_client(std::exchange(bytes, {})));
    piece.bytes = guard_->take();
  } else if (side.forward && side.forward->body) {
    FBROKER_TRY(const ForwardedRequest::Body body, side.forward->body(bytes));
    piece.bytes = bytes.substr(0, body.used);
    piece.last = body.done;
    bytes.erase(0, body.used);
    if (bytes.size() > up_buffer_.size()) return Error{"body", "is not framed as its header says"};
  } else {
    piece.bytes = std::exchange(bytes, {});
    piece.last = side.forward.has_value();
  }
  return piece;
}

Tunnel::Awaitable<bool> Tunnel::send_up(std::string bytes) {
  if (bytes.empty()) co_return true;
  const auto [error, sent] = co_await asio::async_write(*remote_, asio::buffer(bytes), kTuple);
  up_ += sent;
  co_return !error;
}

Tunnel::Awaitable<void> Tunnel::upwards(Side& side) {
  error_code ignored;
  std::string bytes = std::exchange(side.early, {});
  bool good = true;
  // What came with the ClientHello was looked at with it.
  if (guard_) good = co_await send_up(std::exchange(bytes, {}));
  if (side.forward) good = co_await send_up(side.forward->head);
  if (side.forward && !side.forward->body) co_return;
  while (good) {
    auto piece = next_piece(side, bytes);
    if (!piece) cut(piece.error().text());
    if (piece) good = co_await send_up(std::move(piece->bytes));
    good = good && piece;
    if (!good || piece->last) break;
    const auto [error, size] = co_await side.socket.async_read_some(asio::buffer(up_buffer_), kTuple);
    if (error == asio::error::eof && !is_gone(side.socket)) {
      remote_->shutdown(tcp::socket::shutdown_send, ignored);
      co_return;
    }
    good = !error;
    bytes.append(up_buffer_.data(), size);
    side.deadline(gate_.options_.idle_bound);
  }
  if (!good) remote_->cancel(ignored);
}

Tunnel::Awaitable<void> Tunnel::downwards(Side& side) {
  error_code end;
  while (!end) {
    const auto [error, size] = co_await remote_->async_read_some(asio::buffer(down_buffer_), kTuple);
    end = error;
    if (error) break;
    side.deadline(gate_.options_.idle_bound);
    if (guard_) guard_->from_server({down_buffer_.data(), size});
    const auto [unsent, sent] = co_await asio::async_write(side.socket, asio::buffer(down_buffer_.data(), size), kTuple);
    down_ += sent;
    end = unsent;
  }
  // A server that closed one way may still be told something; one that is gone,
  // or has answered a forwarded request, may not.
  error_code ignored;
  side.socket.shutdown(asio::socket_base::shutdown_send, ignored);
  if (end != asio::error::eof || side.forward) side.socket.cancel(ignored);
}

void Tunnel::end() noexcept {
  {
    const std::lock_guard lock(mutex_);
    remote_fd_ = client_fd_ = -1;
    remote_.reset();
  }
  if (connected_) {
    const auto cut = was_cut();
    (void)gate_.record(*this, {.operation = "disconnect", .rule = decision_.rule,
                               .detail = cut ? "cut: " + cut->rule : "", .ended = true});
  }
  gate_.remove(*this);
}

}  // namespace fbroker::broker
