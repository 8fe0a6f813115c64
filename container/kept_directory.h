// A directory of ours that a sandbox writes and that outlives it.
#pragma once

#include <string>

#include "container/preconditions.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::container {

// `name` in the directory `parent`, made (0700) unless it is there, and given
// to the sandbox's user where we are root. `path` is its name for errors.
// Errors: it is no directory, or belongs to another user than this run's.
Result<UniqueFd> kept_directory(int parent, const std::string& name, const std::string& path, HostUser user);

}  // namespace fbroker::container
