// The guard "git" by itself: where it stands, whatever else is said of the place.
#pragma once

#include <memory>
#include <vector>

#include "policy/snapshot.h"

namespace fbroker::broker {

inline constexpr const char* kGitGuard = "base:git";

// A snapshot of the guard's rules alone, which deny; all else is denied by
// "default". ATTACK: in a whole snapshot one reason is given for each operation:
// any deny of the person's own would hide that the guard holds there too.
inline Result<std::shared_ptr<const policy::Snapshot>> git_guard_of(const std::vector<policy::Rule>& rules) {
  policy::SnapshotInput input;
  for (const policy::Rule& rule : rules)
    if (rule.id == kGitGuard && rule.unless_created) input.rules.push_back(rule);
  return policy::Snapshot::compile(std::move(input));
}

// Whether it says no there, to any of the operations.
inline bool git_guard_holds(const policy::Snapshot* guard, const WorkspacePath& path,
                            policy::OperationSet operations = policy::OperationSet::all()) {
  if (guard == nullptr) return true;
  const policy::PathDecision decision = guard->decide(path);
  for (std::size_t at = 0; at < policy::kOperations; ++at)
    if (operations.has(static_cast<policy::Operation>(at)) &&
        guard->reason(decision.entries[at].reason).id == kGitGuard)
      return true;
  return false;
}

}  // namespace fbroker::broker
