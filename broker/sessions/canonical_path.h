// Where a person's path really lies, and the links that lead there.
#pragma once

#include <string>
#include <vector>

#include "policy/base/result.h"

namespace fbroker::broker {

struct CanonicalPath {
  std::string path;                 // absolute, no link in it, as realpath(3)
  std::vector<std::string> links;   // each link that was followed, by its own place
};

// Precondition: `path` is absolute. Errors: a part is missing or cannot be
// entered; more than 40 links.
Result<CanonicalPath> canonical_path(const std::string& path);

}  // namespace fbroker::broker
