// Descriptors: one that is sent along, and how many a process may have.
#pragma once

#include <cstddef>
#include <span>

#include "policy/base/errno.h"
#include "policy/base/result.h"

namespace fbroker::carry {

// One message with `fd` beside it (SCM_RIGHTS). `flags` as for sendmsg(2); a
// reader that is gone raises no SIGPIPE.
Result<void, Errno> send_descriptor(int socket, std::span<const std::byte> message, int fd, int flags = 0);

// As many as the hard limit lets this process have: each connection is two.
void allow_many_descriptors() noexcept;

}  // namespace fbroker::carry
