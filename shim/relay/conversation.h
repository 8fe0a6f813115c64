// Conversation: one client of the proxy, from its first byte to its last.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <optional>
#include <string>

#include "shim/relay/dial.h"
#include "shim/relay/relay.h"

namespace fbroker::relay {

class Conversation {
 public:
  Conversation(Stream client, Endpoint broker, const Limits& limits)
      : client_(std::move(client)), broker_(std::move(broker)), limits_(limits) {}

  boost::asio::awaitable<void> run();

 private:
  enum class Language : std::uint8_t { http, socks };
  struct Wanted {
    Language language;
    std::string request;   // what the broker is sent
  };

  // Nothing: it was refused, and that was answered.
  boost::asio::awaitable<std::optional<Wanted>> begin();
  boost::asio::awaitable<std::optional<Wanted>> begin_socks();
  boost::asio::awaitable<std::optional<Wanted>> begin_http();
  template <class Message, class Refusal>
  boost::asio::awaitable<Result<Message, Refusal>> read(
      Result<std::optional<Message>, Refusal> (*parse)(std::string_view));

  // The broker's answer to a SOCKS client's CONNECT, passed on as SOCKS says it.
  boost::asio::awaitable<bool> granted(Stream& broker);

  boost::asio::awaitable<bool> more();   // false: the end, or bytes_ is full
  boost::asio::awaitable<bool> send(Stream& to, std::string_view text);
  boost::asio::awaitable<void> refuse(const std::string& answer);

  Stream client_;
  Endpoint broker_;
  const Limits& limits_;
  std::string bytes_;   // read and not yet used; at most kMaxHead
};

}  // namespace fbroker::relay
