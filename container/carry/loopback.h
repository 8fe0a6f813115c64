// Loopback: a port of this machine that only this machine can reach.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::carry {

// INVARIANT: there is no way to name another address than these two, so that
//   nothing that listens or dials by it can be reached, or reach, from elsewhere.
struct Loopback {
  enum class Family : std::uint8_t { v4, v6 };  // 127.0.0.1, ::1

  Family family = Family::v4;
  std::uint16_t port = 0;

  std::string text() const;  // "127.0.0.1:3128", "[::1]:3128"

  friend bool operator==(const Loopback&, const Loopback&) = default;
};

// "127.0.0.1:PORT" or "[::1]:PORT".
Result<Loopback> parse_loopback(std::string_view text);

// 1 to 65535, digits only.
Result<std::uint16_t> parse_port(std::string_view text);

// A listening socket, non-blocking. Errors: errno of what failed.
Result<UniqueFd, Errno> listen_on(const Loopback& at);

}  // namespace fbroker::carry
