// Repositories that are not called ".git", and hooks that lie outside of them:
// what the guard "git" cannot know by name.
//
// A file ".git" says where the repository is (worktrees, "git clone --bare x
// .bare"), any folder with HEAD, objects and refs is one, and core.hooksPath
// takes hooks from the tree itself. The guards for these are looked up on the
// host when a session starts and when its policy is read anew; what the person
// sets up later is guarded from then on.
//
// Nothing is run: git is not asked. ATTACK: a session before this one may have
// written what is read here; all that can come of it is one more guard.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "broker/files/export.h"
#include "policy/model.h"

namespace fbroker::broker {

struct RepositoryBounds {
  std::size_t visited = 50'000;              // names looked at
  std::size_t repositories = 256;
  std::chrono::milliseconds time{1000};
};

// `home`: the person's, for "~" and its .gitconfig. Named "base:git".
std::vector<policy::Rule> guards_of_repositories(const ExportTable& exports, const std::string& home,
                                                 RepositoryBounds bounds = {});

// What a configuration says of where else git looks, as it is written there:
// core.hooksPath and the files it includes.
struct GitPaths {
  std::vector<std::string> hooks, includes;
};
GitPaths git_paths_in(std::string_view config);

}  // namespace fbroker::broker
