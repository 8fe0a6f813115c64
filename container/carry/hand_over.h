// One end of a connection goes into the sandbox: the launcher's messages to the
// relay (--publish), each the port that is wanted inside and one descriptor.
//
// INVARIANT: what goes in is an end of a Unix socket pair, and the relay takes
//   nothing else.
// ATTACK: a TCP socket of the host's, inside, would be a way out: it belongs to
//   the host's network for ever, and connect(AF_UNSPEC) and another connect()
//   lead it to any address.
#pragma once

#include <cstdint>
#include <optional>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::carry {

struct Ends {
  UniqueFd launcher, relay;
};

// Keeps messages apart (SOCK_SEQPACKET); nothing can be sent to the launcher.
Result<Ends, Errno> make_channel();

// Never blocks. Errors: EAGAIN: too many are waiting; EPIPE: the relay is gone.
Result<void, Errno> hand_over(int channel, std::uint16_t port, int end);

struct HandedOver {
  std::uint16_t port = 0;
  UniqueFd end;          // empty: it was not what it has to be, and is closed
};

// Never blocks. Nothing: the launcher's end is closed. Errors: EAGAIN.
Result<std::optional<HandedOver>, Errno> take_over(int channel);

// Whether it is a Unix stream socket.
bool is_unix_stream(int fd) noexcept;

}  // namespace fbroker::carry
