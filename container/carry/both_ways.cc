#include "container/carry/both_ways.h"

#include <sys/socket.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

namespace fbroker::carry {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::size_t kBuffer = 32 << 10;
constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

asio::awaitable<void> one_way(Stream& from, Stream& to) {
  std::array<char, kBuffer> buffer;  // in the coroutine's frame, not on a stack
  error_code ignored;
  for (;;) {
    const auto [error, got] = co_await from.async_read_some(asio::buffer(buffer), kTuple);
    if (error == asio::error::eof) {
      to.shutdown(Stream::shutdown_send, ignored);
      co_return;
    }
    if (error) {
      // Broken, not ended: what the other direction brings has no reader.
      from.close(ignored);
      to.close(ignored);
      co_return;
    }
    const auto [failed, put] = co_await asio::async_write(to, asio::buffer(buffer, got), kTuple);
    if (failed) {
      // Its reader left. It may still have something to say (an early answer
      // to a long request), which the other direction carries.
      from.shutdown(Stream::shutdown_receive, ignored);
      co_return;
    }
  }
}

}  // namespace

Result<Stream, Errno> adopt(const asio::any_io_executor& executor, UniqueFd fd) {
  int family = 0;
  socklen_t size = sizeof family;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &family, &size) < 0) return Errno::last();
  Stream stream(executor);
  error_code error;
  stream.assign(asio::generic::stream_protocol(family, 0), fd.get(), error);
  if (error) return Errno{error.value()};
  fd.release();
  return stream;
}

asio::awaitable<void> both_ways(Stream& one, Stream& other) {
  using namespace asio::experimental::awaitable_operators;
  co_await (one_way(one, other) && one_way(other, one));
  error_code ignored;
  one.close(ignored);
  other.close(ignored);
}

}  // namespace fbroker::carry
