// The system calls that an agent is refused.
//
// Most calls stay open: agents run compilers, node, databases, shells. Refused
// is what only makes sense for somebody who builds, leaves or looks into
// sandboxes, and what has been the kernel's soft spot for unprivileged users.
// The filter is the second fence; the first is that the agent holds no
// capability over any namespace.
#pragma once

#include "policy/base/result.h"

namespace fbroker::hardening {

// Installs the filter for the calling thread and all that it starts, and sets
// no_new_privs where that was not done yet. Neither can be taken back.
// Calls of another architecture (i386, x32) end the process.
Result<void> apply_seccomp();

}  // namespace fbroker::hardening
