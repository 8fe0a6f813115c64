// TlsGuard: lets a TLS connection pass only to the server that was asked for.
//
// It does not take the encryption off. It reads the client's ClientHello, which
// is plain, and compares its server name with the host that was allowed; what
// comes behind is not understood by anybody here.
// ATTACK: a name that is allowed on an address that serves many (a CDN): with
//   another server name the same connection would lead elsewhere. Also in the
//   second ClientHello, which a client can provoke (RFC 8446 section 4.1.4,
//   HelloRetryRequest) or send before it is asked for.
// It cannot see an encrypted name (ECH) or an HTTP Host inside: who serves them
// decides (SECURITY.md, "Where it ends").
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "policy/network.h"

namespace fbroker::broker {

// Threads: none.
class TlsGuard {
 public:
  static constexpr std::size_t kMaxHello = 64 << 10;

  TlsGuard(policy::Host host, policy::TlsCheck check);

  // The client's bytes, in order. Errors: why it must end; then nothing of what
  // was not yet taken may reach the server.
  Result<void> from_client(std::string_view bytes);
  // What may be sent on.
  std::string take();
  // Whether the first ClientHello was seen and is right.
  bool opened() const noexcept { return state_ != State::hello; }

  // The server's bytes, in order. They may all be sent on.
  void from_server(std::string_view bytes);

 private:
  enum class State : std::uint8_t {
    hello,         // waits for the first ClientHello
    answer,        // waits for the server's first message
    second_hello,  // the server asked for another one
    open,          // nothing is looked at
  };
  Result<void> records();
  Result<void> handshake(std::string_view payload);
  Result<void> check_hello();

  policy::Host host_;
  policy::TlsCheck check_;
  State state_;
  std::string held_;       // not yet taken; [0, passed_) may be
  std::size_t passed_ = 0;
  std::size_t read_ = 0;   // of held_: whole records up to here are understood
  std::string hello_;      // of the message being put together
  std::string answer_;     // the server's first bytes
};

}  // namespace fbroker::broker
