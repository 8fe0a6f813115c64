// Base rules where an export begins inside what they name.
//
// "**/.config/gh" hides gh's token wherever a .config is seen. Of a session
// whose root is ~/.config nothing is called so any more: the pattern's first
// names lie above the root. So the names on the host count as well: for each
// export what is left of a pattern there is added, as a pattern below the
// export's place ("/gh"). Only base rules: what a person writes is about
// workspace paths. Still a step per component: they are patterns like others.
//
// Pure: the host's names are an argument.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "policy/model.h"

namespace fbroker::policy {

struct HostName {
  WorkspacePath at;    // of the export
  std::string path;    // what it shows: absolute, no "." or ".." in it
};

void add_host_names(std::vector<Rule>& rules, std::span<const HostName> exports);

// The base rule that hides all of an export, as add_host_names() left it; none:
// something of it may be seen.
std::optional<std::string> hidden_whole(std::span<const Rule> rules, const WorkspacePath& at);

// A guard that holds for what the session creates, too.
Rule always(Rule guard);

// A name or path as a pattern that matches just it.
std::string literal_pattern(const std::string& path);

}  // namespace fbroker::policy
