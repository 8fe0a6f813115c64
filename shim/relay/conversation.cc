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

// In this file no co_await stands in a condition or beside another one: GCC 12.2
// destroys the wrong things there (`if (!co_await f()) co_return …;` in a
// coroutine whose result has a destructor ends in a jump to nowhere).

constexpr std::size_t kPiece = 4096;
constexpr auto kLinger = std::chrono::milliseconds(1000);

asio::awaitable<void> discard(Stream& from) {
  std::array<char, kPiece> buffer;
  for (;;) {
    const auto [error, got] = co_await from.async_read_some(asio::buffer(buffer), kTuple);
    if (error) co_return;
  }
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
  bool open = false;
  if (broker) open = co_await send(*broker, wanted.request);
  if (!open) {
    const std::string away = socks ? request_answer(SocksReply::failure)
                                   : http_answer("502 Bad Gateway", "the broker does not answer");
    co_await refuse(away);
    co_return;
  }
  if (socks) open = co_await granted(*broker);
  if (open) co_await carry::both_ways(client_, *broker);
}

asio::awaitable<std::optional<Conversation::Wanted>> Conversation::begin() {
  std::optional<Wanted> wanted;
  const bool any = co_await more();
  if (!any) co_return wanted;
  if (bytes_.front() == kSocks5) {
    wanted = co_await begin_socks();
  } else if (bytes_.front() == kSocks4) {
    const std::string refusal = socks4_refusal();
    co_await refuse(refusal);
  } else {
    wanted = co_await begin_http();
  }
  co_return wanted;
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
    const bool some = co_await more();
    if (!some) co_return Refusal::failure;
  }
}

asio::awaitable<std::optional<Conversation::Wanted>> Conversation::begin_socks() {
  std::optional<Wanted> wanted;
  const auto greeting = co_await read(&read_greeting);
  const std::string met = greeting_answer(greeting.has_value());
  if (!greeting) {
    co_await refuse(met);
    co_return wanted;
  }
  co_await send(client_, met);
  const auto request = co_await read(&read_request);
  if (!request) {
    const std::string refusal = request_answer(request.error());
    co_await refuse(refusal);
    co_return wanted;
  }
  wanted = Wanted{Language::socks, connect_request(request->authority)};
  co_return wanted;
}

asio::awaitable<std::optional<Conversation::Wanted>> Conversation::begin_http() {
  std::optional<Wanted> wanted;
  bool some = true;
  while (some && bytes_.find('\n') == bytes_.npos) some = co_await more();
  const std::size_t end = bytes_.find('\n');
  const bool whole = end != bytes_.npos && end > 0 && bytes_[end - 1] == '\r';
  const auto line = check_request_line(whole ? std::string_view(bytes_).substr(0, end - 1) : "");
  if (!line) {
    co_await refuse(line.error());
    co_return wanted;
  }
  wanted = Wanted{Language::http, std::move(bytes_)};
  co_return wanted;
}

asio::awaitable<bool> Conversation::granted(Stream& broker) {
  auto answered = co_await (read_head(broker) || after(limits_.answer));
  const std::string head = answered.index() == 0 ? std::move(std::get<0>(answered)) : "";
  const SocksReply reply = reply_for(head);
  if (reply != SocksReply::granted) {
    const std::string refusal = request_answer(reply);
    co_await refuse(refusal);
    co_return false;
  }
  // What the server said already, and what the client did not wait to say.
  const std::string first = request_answer(reply) + head.substr(head.find("\r\n\r\n") + 4);
  bool sent = co_await send(client_, first);
  if (sent) sent = co_await send(broker, bytes_);
  co_return sent;
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
asio::awaitable<void> Conversation::refuse(const std::string& answer) {
  co_await send(client_, answer);
  boost::system::error_code ignored;
  client_.shutdown(Stream::shutdown_send, ignored);
  co_await (discard(client_) || after(kLinger));
}

}  // namespace fbroker::relay
