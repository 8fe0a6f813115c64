// Which files git tracks in a directory of the person's.
#pragma once

#include <string>
#include <vector>

namespace fbroker::container {

// Names relative to `directory`. Empty where git has no answer: no repository,
// no git, somebody else's directory.
std::vector<std::string> git_tracked(const std::string& directory);

}  // namespace fbroker::container
