// The workspace's mount, and the program that answers for it.
#pragma once

#include <sys/types.h>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"
#include "shim/init/options.h"

namespace fbroker::init {

// Opens the FUSE device and mounts it. The device must be opened in the user
// namespace that mounts it (fuse_fill_super), so nobody outside can do this
// for us.
// Errors: with the cure, where one is known.
Result<UniqueFd> mount_workspace(const Options& options);

// Starts fbroker-fuse without any capability and waits, at most options.wait,
// until it answers for the mount.
// Afterwards the device belongs to it alone: a copy kept here would make calls
// hang, instead of failing, when it ends.
Result<pid_t> start_file_service(const Options& options, UniqueFd device);

}  // namespace fbroker::init
