// Files of a git repository that make git run programs or look for its
// configuration elsewhere: what a session may write into those that it made.
//
// The guard "git" keeps the person's own repository from being changed. A
// repository that the session makes (git init, clone, submodule, worktree) is
// its own, and yet the person's git obeys it: a plain `git status` above enters
// whatever the index calls a submodule and runs its core.fsmonitor there. So
// configuration is written only with keys that are known to run nothing, hooks
// only as samples, and what says where a repository lies may only name a place
// that the guard watches too. A folder is a repository by its HEAD, whatever
// it is called: none is made in a folder that is not called "*.git". Sources:
// git-config(1), githooks(5), gitrepository-layout(5), gitfile in gitglossary(7).
//
// Pure; any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "policy/base/workspace_path.h"

namespace fbroker::broker::git {

enum class Role {
  none,       // git takes nothing from it that matters here
  config,     // "config", "config.worktree" and the lock files that become them
  gitfile,    // a file ".git": says where the repository lies
  commondir,  // of a worktree: where the repository's common part lies
  hooks,      // the directory: only a directory may have that name
  head,       // a file "HEAD" in no repository: makes its folder a bare one
  closed,     // a hook that is no sample; a commondir where git makes none
};

// What the path is to git, by its name alone.
Role role_of(const WorkspacePath& path);

// Nothing, or what is wrong with that content there, in words for the audit log.
std::optional<std::string> objection(const WorkspacePath& path, std::string_view content);

// Larger files of a role are refused unseen.
inline constexpr std::size_t kMaxBytes = 256 * 1024;

// Whether it lies in a folder that is called as a repository is.
bool is_within_repository(const WorkspacePath& path);

// Whether what lies in a folder that is moved so has another role there: nobody
// has looked at it for that, or nobody will any more.
bool roles_differ_below(const WorkspacePath& from, const WorkspacePath& to);

// Whether a symlink there could lead git to a repository that no guard
// watches, or its writing into one: a link that is called as a repository or
// its HEAD is, lies within one or names one. (But `git init` tries out whether links can be
// made.)
bool link_misleads(const WorkspacePath& path, std::string_view target);

}  // namespace fbroker::broker::git
