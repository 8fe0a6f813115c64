// The agent's terminal.
#pragma once

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"
#include "shim/init/options.h"

namespace fbroker::init {

// Makes a terminal on this container's own devpts, gives it the size asked
// for, and sends its master over options.console_fd. Returns the agent's side.
Result<UniqueFd> make_terminal(const Options& options);

// Gives stdin's terminal up, so that the agent's session can have it (a
// container runtime makes it the first process's).
void release_terminal() noexcept;

// Makes stdin this session's controlling terminal. Precondition: setsid() was called.
bool take_terminal() noexcept;

}  // namespace fbroker::init
