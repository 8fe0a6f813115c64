#include "shim/relay/conversation.h"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "shim/relay/http.h"
#include "shim/relay/socks.h"

namespace fbroker::relay {
namespace {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;
constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

constexpr std::size_t kPiece = 4096;
constexpr auto kLinger = std::chrono::milliseconds(1000);

asio::awaitable<void> discard(Stream& from) {
  std::array<char, kPiece> buffer;
  for (;;)
    if (const auto [error, got] = co_await from.async_read_some(asio::buffer(buffer), kTuple); error) co_return;
}

// An answer's head and what came with it; empty: there was none.
asio::awaitable<std::string> read_head(Stream& from) {
  std::string head;
  const auto [error, size] =
      co_await asio::async_read_until(from, asio::dynamic_buffer(head, kMaxHead), "\r\n\r\n", kTuple);
  if (error) head.clear();
  co_return head;
}

}  // namespace

asio::awaitable<void> Conversation::run() {
  auto begun = co_await (begin() || after(limits_.first_bytes));
  if (begun.index() != 0 || !std::get<0>(begun)) co_return;
  const Wanted wanted = std::move(*std::get<0>(begun));
  const bool socks = wanted.language == Language::socks;

  auto broker = co_await dial(broker_, limits_.first_bytes);
  if (!broker || !co_await send(*broker, wanted.request)) {
    co_await refuse(socks ? request_answer(SocksReply::failure)
                          : http_answer("502 Bad Gateway", "the broker does not answer"));
    co_return;
  }
  if (socks && !co_await granted(*broker)) co_return;
  co_await carry::both_ways(client_, *broker);
}

asio::awaitable<std::optional<Conversation::Wanted>> Conversation::begin() {
  if (!co_await more()) co_return std::nullopt;
  if (bytes_.front() == kSocks5) co_return co_await begin_socks();
  if (bytes_.front() == kSocks4) {
    co_await refuse(socks4_refusal());
    co_return std::nullopt;
  }
  co_return co_await begin_http();
}

template <class Message, class Refusal>
asio::awaitable<Result<Message, Refusal>> Conversation::read(
    Result<std::optional<Message>, Refusal> (*parse)(std::string_view)) {
  for (;;) {
    auto parsed = parse(bytes_);
    if (!parsed) co_return parsed.error();
    if (*parsed) {
      bytes_.erase(0, (*parsed)->size);
      co_return std::move(**parsed);
    }
    if (!co_await more()) co_return Refusal::failure;
  }
}

asio::awaitable<std::optional<Conversation::Wanted>> Conversation::begin_socks() {
  const auto greeting = co_await read(&read_greeting);
  if (!greeting) {
    co_await refuse(greeting_answer(false));
    co_return std::nullopt;
  }
  if (!co_await send(client_, greeting_answer(true))) co_return std::nullopt;
  const auto request = co_await read(&read_request);
  if (!request) {
    co_await refuse(request_answer(request.error()));
    co_return std::nullopt;
  }
  co_return Wanted{Language::socks, connect_request(request->authority)};
}

asio::awaitable<std::optional<Conversation::Wanted>> Conversation::begin_http() {
  std::size_t end;
  while ((end = bytes_.find('\n')) == bytes_.npos)
    if (!co_await more()) break;
  const bool whole = end != bytes_.npos && end > 0 && bytes_[end - 1] == '\r';
  const auto line = check_request_line(whole ? std::string_view(bytes_).substr(0, end - 1) : "");
  if (!line) {
    co_await refuse(line.error());
    co_return std::nullopt;
  }
  co_return Wanted{Language::http, std::move(bytes_)};
}

asio::awaitable<bool> Conversation::granted(Stream& broker) {
  auto answered = co_await (read_head(broker) || after(limits_.answer));
  const std::string head = answered.index() == 0 ? std::move(std::get<0>(answered)) : "";
  const SocksReply reply = reply_for(head);
  if (reply != SocksReply::granted) {
    co_await refuse(request_answer(reply));
    co_return false;
  }
  // What the server said already, and what the client did not wait to say.
  const std::string rest = head.substr(head.find("\r\n\r\n") + 4);
  co_return co_await send(client_, request_answer(reply) + rest) && co_await send(broker, bytes_);
}

asio::awaitable<bool> Conversation::more() {
  const std::size_t had = bytes_.size();
  if (had == kMaxHead) co_return false;
  bytes_.resize(std::min(had + kPiece, kMaxHead));
  const auto [error, got] =
      co_await client_.async_read_some(asio::buffer(bytes_.data() + had, bytes_.size() - had), kTuple);
  bytes_.resize(had + (error ? 0 : got));
  co_return !error;
}

asio::awaitable<bool> Conversation::send(Stream& to, std::string_view text) {
  const auto [error, put] = co_await asio::async_write(to, asio::buffer(text), kTuple);
  co_return !error;
}

// Closing a socket that has unread bytes resets the connection, and the answer
// with it: they are taken first, for a while.
asio::awaitable<void> Conversation::refuse(std::string answer) {
  co_await send(client_, answer);
  boost::system::error_code ignored;
  client_.shutdown(Stream::shutdown_send, ignored);
  co_await (discard(client_) || after(kLinger));
}

}  // namespace fbroker::relay
