// Which profiles there are: the shipped ones, and a person's own in
// ${XDG_CONFIG_HOME:-~/.config}/fbroker/agents/NAME.json, which stand in for
// the shipped ones of the same name.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "container/agents/profile.h"
#include "policy/base/result.h"

namespace fbroker::container::agents {

// Where a person's own profiles lie.
std::string own_profiles_directory();

// Sorted, each once.
std::vector<std::string> profile_names();

// The profile that --agent NAME means.
// `workspace_root`: a profile that lies in it is refused; "" = none.
// Errors: no such name (all names and the nearest); a file of the person's
// that others can write, or with mistakes in it.
Result<Profile> load_profile(const std::string& name, const std::string& workspace_root);

// The name of the profile that starts this program; "" = none does. Shipped ones only.
std::string profile_of_program(std::string_view program);

}  // namespace fbroker::container::agents
