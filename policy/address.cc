#include "policy/address.h"

#include <arpa/inet.h>

#include <algorithm>

namespace fbroker::policy {
namespace {

struct Block {
  std::array<std::uint8_t, 4> start;
  unsigned bits;
};

constexpr Block kNotPublicV4[]{
    {{0, 0, 0, 0}, 8},        // "this network"
    {{10, 0, 0, 0}, 8},       // private
    {{100, 64, 0, 0}, 10},    // shared by carriers
    {{127, 0, 0, 0}, 8},      // loopback
    {{169, 254, 0, 0}, 16},   // link-local: cloud machines' metadata among it
    {{172, 16, 0, 0}, 12},    // private
    {{192, 0, 0, 0}, 24},     // protocol assignments
    {{192, 0, 2, 0}, 24},     // documentation
    {{192, 88, 99, 0}, 24},   // 6to4 relays
    {{192, 168, 0, 0}, 16},   // private
    {{198, 18, 0, 0}, 15},    // benchmarks
    {{198, 51, 100, 0}, 24},  // documentation
    {{203, 0, 113, 0}, 24},   // documentation
    {{224, 0, 0, 0}, 4},      // multicast
    {{240, 0, 0, 0}, 4},      // reserved, broadcast
};

// Of 2000::/3, which is all that is given to hosts.
constexpr Block kNotPublicV6[]{
    {{0x20, 0x01, 0x00, 0x00}, 23},  // protocol assignments: Teredo, ORCHID, benchmarks, …
    {{0x20, 0x01, 0x0d, 0xb8}, 32},  // documentation
    {{0x20, 0x02, 0x00, 0x00}, 16},  // 6to4: an IPv4 address hides in it
    {{0x3f, 0xff, 0x00, 0x00}, 20},  // documentation
};

template <class Bytes>
std::uint32_t first_word(const Bytes& bytes) {
  std::uint32_t word = 0;
  for (std::size_t i = 0; i < 4; ++i) word = word << 8 | bytes[i];
  return word;
}

bool lies_in(std::uint32_t word, const Block& block) {
  return (word ^ first_word(block.start)) >> (32 - block.bits) == 0;
}

}  // namespace

Address Address::v4(std::array<std::uint8_t, 4> bytes) noexcept {
  Address address;
  std::ranges::copy(bytes, address.bytes_.begin());
  return address;
}

Address Address::v6(std::array<std::uint8_t, 16> bytes) noexcept {
  Address address;
  address.bytes_ = bytes;
  address.v6_ = true;
  return address;
}

std::optional<Address> Address::parse(std::string_view text) {
  if (text.size() >= INET6_ADDRSTRLEN || text.find('\0') != text.npos) return std::nullopt;
  const std::string terminated(text);
  std::array<std::uint8_t, 4> four{};
  if (::inet_pton(AF_INET, terminated.c_str(), four.data()) == 1) return v4(four);
  std::array<std::uint8_t, 16> sixteen{};
  if (::inet_pton(AF_INET6, terminated.c_str(), sixteen.data()) == 1) return v6(sixteen);
  return std::nullopt;
}

std::string Address::text() const {
  char text[INET6_ADDRSTRLEN];
  return ::inet_ntop(v6_ ? AF_INET6 : AF_INET, bytes_.data(), text, sizeof text);
}

bool Address::is_public() const noexcept {
  const std::uint32_t word = first_word(bytes_);
  const auto contains = [word](const Block& block) { return lies_in(word, block); };
  if (!v6_) return std::ranges::none_of(kNotPublicV4, contains);
  return word >> 29 == 1 && std::ranges::none_of(kNotPublicV6, contains);
}

}  // namespace fbroker::policy
