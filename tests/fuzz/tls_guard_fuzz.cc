// A client's and a server's bytes, in pieces: nothing passes before a
// ClientHello for the host, and what passes is what came, in order.
// Input: pieces of one length byte (high bit: from the server) and its bytes.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "broker/egress/tls_guard.h"

using namespace fbroker;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  broker::TlsGuard guard(policy::Host::parse("api.example.com").value(), policy::TlsCheck::sni);
  std::string came, passed;
  for (std::size_t at = 0; at < size;) {
    const bool server = (data[at] & 0x80) != 0;
    const std::size_t length = std::min<std::size_t>((data[at] & 0x7f) * 8u, size - at - 1);
    const std::string_view piece(reinterpret_cast<const char*>(data) + at + 1, length);
    at += 1 + length;
    if (server) {
      guard.from_server(piece);
      continue;
    }
    came += piece;
    if (!guard.from_client(piece)) return 0;
    passed += guard.take();
    if (!came.starts_with(passed)) std::abort();
    if (!guard.opened() && !passed.empty()) std::abort();
  }
  return 0;
}
