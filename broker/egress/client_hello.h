// What a TLS ClientHello says of the server that it wants.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "policy/base/result.h"

namespace fbroker::broker {

struct ClientHello {
  std::optional<std::string> server_name;   // RFC 6066 section 3, as it was sent
};

// `message` is one whole handshake message, its four bytes of header included.
// Errors: it is no ClientHello that OpenSSL would accept; several names.
Result<ClientHello> read_client_hello(std::string_view message);

}  // namespace fbroker::broker
