// Giving the workspace's device to the broker, which then answers the kernel
// itself (docs/protocol.md, "The device").
#pragma once

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"
#include "shim/init/options.h"

namespace fbroker::init {

// Waits, at most options.wait, until the broker serves the mount. On success
// nothing of the device is left here; otherwise it is as it was.
// Errors: the broker is not there, or does not take it, in its words.
Result<void> give_device(const Options& options, const UniqueFd& device);

}  // namespace fbroker::init
