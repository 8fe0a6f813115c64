#include "shim/relay/relay.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "container/carry/hand_over.h"
#include "shim/relay/conversation.h"
#include "shim/relay/dial.h"

namespace fbroker::relay {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr auto kPause = std::chrono::milliseconds(100);

}  // namespace

Relay::Relay(asio::io_context& io, const std::string& socket, Limits limits)
    : io_(io), broker_(socket), limits_(limits), listener_(io), channel_(io) {}

Result<void, Errno> Relay::serve_proxy(UniqueFd listener) {
  boost::system::error_code error;
  listener_.assign(tcp::v4(), listener.get(), error);  // the family matters to nobody once it listens
  if (error) return Errno{error.value()};
  listener.release();
  // INVARIANT: as many attendants, so many connections, and no more memory.
  for (std::size_t i = 0; i < limits_.connections; ++i) asio::co_spawn(io_, attend(), asio::detached);
  return ok;
}

Result<void, Errno> Relay::serve_published(UniqueFd channel) {
  boost::system::error_code error;
  channel_.assign(channel.get(), error);
  if (error) return Errno{error.value()};
  channel.release();
  asio::co_spawn(io_, take_published(), asio::detached);
  return ok;
}

// Serves one connection after another, whatever becomes of each.
asio::awaitable<void> Relay::attend() {
  for (;;) {
    auto [error, client] = co_await listener_.async_accept(kTuple);
    if (error) {
      co_await after(kPause);  // out of descriptors: the connection waits in the backlog
      continue;
    }
    try {
      Conversation conversation(Stream(std::move(client)), broker_, limits_);
      co_await conversation.run();
    } catch (const std::exception&) {
      // Out of memory or descriptors: this connection is closed, others go on.
    }
  }
}

asio::awaitable<void> Relay::take_published() {
  for (;;) {
    const auto [error] = co_await channel_.async_wait(Channel::wait_read, kTuple);
    if (error) co_return;
    auto taken = carry::take_over(channel_.native_handle());
    if (!taken && taken.error().value == EAGAIN) continue;
    if (!taken || !*taken) co_return;  // the launcher ended, and soon so do we
    carry::HandedOver& one = **taken;
    // How many there are at a time the launcher bounds.
    if (one.end) asio::co_spawn(io_, carry_published(std::move(one.end), one.port), asio::detached);
  }
}

asio::awaitable<void> Relay::carry_published(UniqueFd end, std::uint16_t port) {
  auto outside = carry::adopt(io_.get_executor(), std::move(end));
  if (!outside) co_return;
  // A program that listens on "localhost" has taken the one or the other.
  auto inside = co_await dial(tcp::endpoint(asio::ip::address_v4::loopback(), port), limits_.dial);
  if (!inside) inside = co_await dial(tcp::endpoint(asio::ip::address_v6::loopback(), port), limits_.dial);
  if (inside) co_await carry::both_ways(*outside, *inside);
}

}  // namespace fbroker::relay
