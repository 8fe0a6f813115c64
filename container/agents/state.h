// State: what an agent keeps from one run to the next, and how a login of the
// person's comes into it.
//
//   ${XDG_STATE_HOME:-~/.local/state}/fbroker/.agents/AGENT/NAME/   0700
//     .claude/  …                       each mounted at its place in HOME
//
// HOME itself is in memory. The person's own ~/.claude is never mounted.
#pragma once

#include <string>
#include <vector>

#include "container/agents/profile.h"
#include "container/preconditions.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::container::agents {

inline constexpr std::size_t kMaxLoginBytes = 1024 * 1024;

// One kept directory, open.
struct Kept {
  std::string below_home;   // ".config/opencode"
  std::string path;         // on the host
  UniqueFd fd;
  UniqueFd lock;             // of the first: who shares the state, for as long as it is open
};

// Where this agent's state of that name lies; nothing is made.
// INVARIANT: no two pairs of names have one directory, and none lies in another's.
std::string state_directory(const Profile& profile, const std::string& name);

// Makes what is missing of it.
// `alone`: no other run has it meanwhile; others share it. Errors: in use.
// Precondition: `name` is a session's name (broker::is_session_name).
Result<std::vector<Kept>> open_state(const Profile& profile, const std::string& name, HostUser user, bool alone = false);

// --share-login: copies the profile's login files, and nothing else, out of the
// person's HOME into the kept state. Returns a line for each copy.
// Errors: none of them is there (all are named); one is a link, no regular
// file, another user's or too large.
Result<std::vector<std::string>> share_login(const Profile& profile, const std::string& home,
                                             const std::vector<Kept>& state, HostUser user);

}  // namespace fbroker::container::agents
