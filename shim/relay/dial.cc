#include "shim/relay/dial.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace fbroker::relay {
namespace {

namespace asio = boost::asio;
constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr auto kPause = std::chrono::milliseconds(20);

asio::awaitable<std::optional<Stream>> try_until_connected(Endpoint to) {
  std::optional<Stream> connected;
  for (;;) {
    Stream stream(co_await asio::this_coro::executor);
    const auto [error] = co_await stream.async_connect(to, kTuple);
    if (error) co_return connected;
    // A Unix listener whose backlog is full answers EAGAIN, which Asio takes for
    // "in progress", and the socket, which is writable, for connected. Nothing
    // tells when there is room.
    boost::system::error_code alone;
    stream.remote_endpoint(alone);
    if (!alone) {
      connected = std::move(stream);
      co_return connected;
    }
    co_await after(kPause);
  }
}

}  // namespace

asio::awaitable<void> after(std::chrono::milliseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(kTuple);
}

asio::awaitable<std::optional<Stream>> dial(Endpoint to, std::chrono::milliseconds bound) {
  using namespace asio::experimental::awaitable_operators;
  auto first = co_await (try_until_connected(std::move(to)) || after(bound));
  std::optional<Stream> connected;
  if (first.index() == 0) connected = std::move(std::get<0>(first));
  co_return connected;
}

}  // namespace fbroker::relay
