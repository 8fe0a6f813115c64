// PATH as a person gives it: as their shell knows it (relative, absolute, ~) or
// as the agent sees it (/workspace/…); and what that is in a session.
//
// The person is trusted, so links are followed here: what is granted is the
// file that they mean, under its canonical name.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/files/export.h"
#include "broker/files/own_files.h"
#include "policy/base/workspace_path.h"

namespace fbroker::control {

inline constexpr std::string_view kAgentRoot = "/workspace";
// Host files outside every export appear below it, one name each.
inline constexpr std::string_view kGrantedRoot = "/.fbroker/granted";

struct PersonPath {
  std::string text;   // as written
  std::string cwd;    // absolute: where the person's shell is
  std::string home;   // absolute: what ~ stands for
};

// Where the session's exports show it.
struct Placed {
  WorkspacePath path;        // the first of its names; without `outside` alone
  std::string host;          // canonical host path, "" when there is none (yet)
  bool outside = false;      // a host file in no export
  bool exists = false;
};

// `path` as the agent says it: "/workspace/src".
std::string shown_to_agent(const WorkspacePath& path);

// The text as an absolute host path, or as a workspace path; nothing is looked
// at. Errors: empty, NUL, "~user", relative without a cwd.
struct Meant {
  std::optional<WorkspacePath> workspace;
  std::string host;
};
Result<Meant> meant_by(const PersonPath& path);

// Where it is. What does not exist yet is placed by its nearest existing
// directory.
Result<Placed> place(const PersonPath& path, const broker::ExportTable& exports);

// As place(), for a grant.
// Errors: the broker's own files; neither a regular file nor a directory; "/"
// and the home directory; outside every export and not there.
Result<Placed> place_for_grant(const PersonPath& path, const broker::ExportTable& exports,
                               const broker::OwnFiles& own);

// Every name under which it, or something below it, is seen in this session:
// other exports of the same place, exports that lie below it, the link and what
// it leads to. Never empty, but for a host path that no export shows.
Result<std::vector<WorkspacePath>> places_for_revoke(const PersonPath& path,
                                                     const broker::ExportTable& exports);

// A name below kGrantedRoot that no export has: the file's own, or "name-2", ….
WorkspacePath free_granted_path(std::string_view host, const broker::ExportTable& exports);

}  // namespace fbroker::control
