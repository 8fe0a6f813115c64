// Walk: where a path leads, and every symbolic link on the way.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "container/spec.h"
#include "policy/base/result.h"

namespace fbroker::container::agents {

struct Walk {
  std::string real;             // canonical; exists
  // Each link that was followed, in order, by its canonical place. Made anew
  // inside, they lead along the same way to the same file.
  std::vector<Symlink> links;
};

// Precondition: `path` is absolute.
// Errors: a missing component, a loop (more than 40 links), one that cannot be read.
Result<Walk> walk(const std::string& path);

// Whether `path` is `place` or lies below it, by components; no place holds "".
bool at_or_below(std::string_view path, std::string_view place);

// Whether every sandbox shows it, at this path: the host's /usr and what stands beside it.
bool system_shows(std::string_view path);

// With the home directory written as "~".
std::string shortened(const std::string& path, const std::string& home);

}  // namespace fbroker::container::agents
