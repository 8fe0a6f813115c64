// SOCKS5 as its server reads it (RFC 1928): CONNECT without authentication,
// told to the broker as an HTTP CONNECT. Pure.
//
// INVARIANT: of a client's bytes only letters, digits, ".", "_" and "-" (a
//   name) or what we print ourselves (an address) reach that CONNECT.
// ATTACK: a "name" with CR LF in it would end the line and begin a request of
//   its own; one with "@", "/" or ":" would name another host than it seems to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "policy/base/result.h"

namespace fbroker::relay {

inline constexpr char kSocks5 = 5;   // a client's first byte
inline constexpr char kSocks4 = 4;

// RFC 1928 section 6. no_method is section 3's answer to a greeting.
enum class SocksReply : std::uint8_t {
  granted = 0,
  failure = 1,
  not_allowed = 2,
  host_unreachable = 4,
  refused = 5,
  expired = 6,
  command_unknown = 7,
  address_unknown = 8,
  no_method = 0xff,
};

struct SocksGreeting {
  std::size_t size = 0;      // of the bytes that are done with
};

struct SocksRequest {
  std::size_t size = 0;
  std::string authority;     // "host:port", "[2001:db8::1]:443"
};

// Each reads the beginning of `bytes`. Nothing: it is not all there yet (it
// never takes more than kMaxSocksBytes). Errors: what to answer before closing.
Result<std::optional<SocksGreeting>, SocksReply> read_greeting(std::string_view bytes);
Result<std::optional<SocksRequest>, SocksReply> read_request(std::string_view bytes);

inline constexpr std::size_t kMaxSocksBytes = 4 + 1 + 255 + 2;

// The answers, as they are sent.
std::string greeting_answer(bool accepted);
std::string request_answer(SocksReply reply);
std::string socks4_refusal();

// What the broker is asked. Precondition: from read_request.
std::string connect_request(const std::string& authority);

// The broker's status line and headers, up to and with the empty line:
// what the client is told.
SocksReply reply_for(std::string_view head);

}  // namespace fbroker::relay
