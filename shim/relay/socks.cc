#include "shim/relay/socks.h"

#include <arpa/inet.h>

#include <array>

namespace fbroker::relay {
namespace {

constexpr std::uint8_t kNoAuthentication = 0, kConnect = 1;
constexpr std::uint8_t kIPv4 = 1, kDomain = 3, kIPv6 = 4;
constexpr std::size_t kHead = 4;  // version, command, reserved, address type

struct Answer {
  std::string_view status;
  SocksReply reply;
};
constexpr std::array kAnswers{
    Answer{"200", SocksReply::granted},          Answer{"400", SocksReply::not_allowed},
    Answer{"403", SocksReply::not_allowed},
    Answer{"502", SocksReply::host_unreachable}, Answer{"504", SocksReply::expired},
    Answer{"503", SocksReply::failure},
};

std::uint8_t byte(std::string_view bytes, std::size_t at) { return static_cast<std::uint8_t>(bytes[at]); }

// Every byte that no name has as %XX. The broker knows no such name: it is
// refused there, and so on the record.
// ATTACK: bytes that end the CONNECT line, or begin another request.
std::string escaped(std::string_view name) {
  constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : name) {
    const auto value = static_cast<std::uint8_t>(c);
    if (kPlain.find(c) != kPlain.npos) out += c;
    else out.append({'%', kHex[value >> 4], kHex[value & 15]});
  }
  return out;
}

std::string printed(int family, std::string_view address) {
  char text[INET6_ADDRSTRLEN];
  ::inet_ntop(family, address.data(), text, sizeof text);
  return family == AF_INET6 ? "[" + std::string(text) + "]" : text;
}

// Where the address lies: after the head, for a name also after its length.
struct Place {
  std::size_t begin, size;
};
std::optional<Place> place_of(std::string_view bytes) {
  switch (byte(bytes, 3)) {
    case kIPv4: return Place{kHead, 4};
    case kIPv6: return Place{kHead, 16};
    default: break;  // kDomain
  }
  if (bytes.size() == kHead) return std::nullopt;
  return Place{kHead + 1, byte(bytes, kHead)};
}

Result<void, SocksReply> check_head(std::string_view bytes) {
  if (byte(bytes, 0) != kSocks5 || byte(bytes, 2) != 0) return SocksReply::failure;
  if (byte(bytes, 1) != kConnect) return SocksReply::command_unknown;
  const std::uint8_t type = byte(bytes, 3);
  if (type != kIPv4 && type != kDomain && type != kIPv6) return SocksReply::address_unknown;
  return ok;
}

Result<std::string, SocksReply> host_of(std::uint8_t type, std::string_view address) {
  if (type == kIPv4) return printed(AF_INET, address);
  if (type == kIPv6) return printed(AF_INET6, address);
  if (address.empty()) return SocksReply::not_allowed;
  return escaped(address);
}

}  // namespace

Result<std::optional<SocksGreeting>, SocksReply> read_greeting(std::string_view bytes) {
  if (!bytes.empty() && bytes[0] != kSocks5) return SocksReply::no_method;
  if (bytes.size() < 2) return std::optional<SocksGreeting>();
  const std::size_t size = 2u + byte(bytes, 1);
  if (bytes.size() < size) return std::optional<SocksGreeting>();
  if (bytes.substr(2, size - 2).find(static_cast<char>(kNoAuthentication)) == bytes.npos)
    return SocksReply::no_method;
  return std::optional(SocksGreeting{size});
}

Result<std::optional<SocksRequest>, SocksReply> read_request(std::string_view bytes) {
  if (bytes.size() < kHead) return std::optional<SocksRequest>();
  FBROKER_TRY_VOID(check_head(bytes));
  const auto place = place_of(bytes);
  if (!place) return std::optional<SocksRequest>();
  const std::size_t port_at = place->begin + place->size;
  if (bytes.size() < port_at + 2) return std::optional<SocksRequest>();
  FBROKER_TRY(std::string host, host_of(byte(bytes, 3), bytes.substr(place->begin, place->size)));
  const unsigned port = byte(bytes, port_at) * 256u + byte(bytes, port_at + 1);
  return std::optional(SocksRequest{port_at + 2, std::move(host) + ":" + std::to_string(port)});
}

std::string greeting_answer(bool accepted) {
  return {kSocks5, static_cast<char>(accepted ? kNoAuthentication : 0xff)};
}

std::string request_answer(SocksReply reply) {
  // The address that we are bound to is nobody's business: 0.0.0.0:0.
  return {kSocks5, static_cast<char>(reply), 0, kIPv4, 0, 0, 0, 0, 0, 0};
}

std::string socks4_refusal() { return {0, 0x5b, 0, 0, 0, 0, 0, 0}; }

std::string connect_request(const std::string& authority) {
  return "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n\r\n";
}

SocksReply reply_for(std::string_view head) {
  // "HTTP/1.1 200", and no fourth digit.
  constexpr std::size_t kStatusAt = 9, kStatusEnd = 12;
  if (!head.starts_with("HTTP/1.") || head.size() <= kStatusEnd || head[kStatusAt - 1] != ' ')
    return SocksReply::failure;
  if (head[kStatusEnd] != ' ' && head[kStatusEnd] != '\r') return SocksReply::failure;
  for (const Answer& answer : kAnswers)
    if (head.substr(kStatusAt, 3) == answer.status) return answer.reply;
  return SocksReply::failure;
}

}  // namespace fbroker::relay
