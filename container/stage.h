// Stage: where root puts what an unprivileged sandbox must reach.
//
// The sandbox that root starts runs as another user, who cannot walk through
// /root or a 0700 runtime directory. So the launcher's child makes a mount
// namespace of its own and binds there, in one flat directory, exactly what
// the sandbox shall see. The machine's own mounts stay as they are.
#pragma once

#include <vector>

#include "container/preconditions.h"
#include "container/spec.h"
#include "policy/base/result.h"

namespace fbroker::container {

// Renames the sources of everything that carries a descriptor, and of the FUSE
// device, to their places on the stage. Returns what has to be put there.
// Errors: no directory to use as the stage.
Result<std::vector<Mount>> plan_stage(SandboxSpec& spec);

// In the child, as root: builds the stage.
Result<void> build_stage(const std::vector<Mount>& staged);

// In the child: becomes that user for good, in no other group.
Result<void> become(HostUser user);

}  // namespace fbroker::container
