// Address: an IP address, and whether the whole internet knows it by that.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fbroker::policy {

// Threads: a value.
class Address {
 public:
  // Network byte order.
  static Address v4(std::array<std::uint8_t, 4> bytes) noexcept;
  static Address v6(std::array<std::uint8_t, 16> bytes) noexcept;

  // As inet_pton(3) reads it: four decimal numbers, or RFC 4291 section 2.2.
  // No zone, no brackets, none of the older spellings ("127.1", "0x7f.1").
  static std::optional<Address> parse(std::string_view text);

  bool is_v6() const noexcept { return v6_; }
  std::string text() const;   // as inet_ntop(3) writes it

  // Whether it is one public host's: not loopback, private, link-local, shared
  // (100.64/10), multicast, documentation, reserved or unspecified, and not an
  // IPv6 form that another address hides in (mapped, NAT64, 6to4, Teredo).
  // Source: the IANA special-purpose registries (RFC 6890 and its updates);
  //   what they do not call globally reachable is not public here.
  bool is_public() const noexcept;

  friend bool operator==(const Address&, const Address&) = default;

 private:
  std::array<std::uint8_t, 16> bytes_{};   // IPv4: the first four
  bool v6_ = false;
};

}  // namespace fbroker::policy
