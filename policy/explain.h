// A decision in words for people, and as JSON for tools.
#pragma once

#include <string>

#include "policy/snapshot.h"

namespace fbroker::policy {

// One or two lines, without a newline at the end:
//   read /.env: deny, by base:env (environment files hold passwords and tokens)
//     a person can lift it: fbroker grant .env --read --override-deny --for 15m
std::string explain_text(const Snapshot& snapshot, const WorkspacePath& path, Operation operation,
                         const PathDecision& decision);

// {"path":…,"operation":…,"effect":…,"rule":…,"because":…,"visible":…} and, where
// a grant would lift it, "lift". A path that is not UTF-8 is {"b64":…}.
std::string explain_json(const Snapshot& snapshot, const WorkspacePath& path, Operation operation,
                         const PathDecision& decision);

// The command that would lift a refusal, "" where it was not refused.
std::string lifting_command(const Snapshot& snapshot, const WorkspacePath& path,
                            Operation operation, const PathDecision& decision);

}  // namespace fbroker::policy
