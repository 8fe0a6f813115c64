// The relay's process.
#pragma once

#include <sys/types.h>

#include <optional>

#include "policy/base/result.h"
#include "shim/init/options.h"

namespace fbroker::init {

// Listens and starts the relay beside fbroker-fuse, as powerless as that is.
// Nothing: neither a proxy nor a published port was asked for.
// What it was given is closed here afterwards: the agent inherits none of it.
Result<std::optional<pid_t>> start_relay(const Options& options);

}  // namespace fbroker::init
