// Lint: what a policy says that its writer can hardly have meant. Needs no disk.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "policy/policy.h"

namespace fbroker::policy {

struct Finding {
  enum class Level { note, warning };
  Level level = Level::warning;
  std::string rule;     // a rule's id, "exports" or "base"
  std::string message;
};

// Precondition: `policy` comes from parse_policy or default_policy.
std::vector<Finding> lint(const Policy& policy);

// Files (workspace paths, such as a version control system tracks) that the
// policy hides although their directory is exported, with the rule that does.
struct Hidden {
  WorkspacePath path;
  std::string rule;
};
std::vector<Hidden> hidden_files(const Snapshot& snapshot,
                                 const std::vector<WorkspacePath>& tracked);

}  // namespace fbroker::policy
