// MadeLinks: the hard links that this session made.
//
// A revoke is of a path. A file to which the agent gave a second name before
// would stay open to it there, with all that the person writes later; so a
// revoke of one name asks for the others. Names that others made are not known
// here: those the person chose.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "policy/base/workspace_path.h"

namespace fbroker::broker {

// Threads: all members, any thread.
class MadeLinks {
 public:
  static constexpr std::size_t kMaxNames = 65536;

  // False: no room for another; then no link may be made.
  bool has_room() const;
  // Precondition: has_room(), and both are names of one file.
  void add(const WorkspacePath& existing, const WorkspacePath& added);
  // The name is gone.
  void forget(const WorkspacePath& name);
  // Precondition: fits(from, to).
  void moved(const WorkspacePath& from, const WorkspacePath& to);
  // Whether every name at or below `from` is still one when it has moved.
  bool fits(const WorkspacePath& from, const WorkspacePath& to) const;

  // For files with a name at or below one of `places`: their names elsewhere.
  std::vector<WorkspacePath> elsewhere(const std::vector<WorkspacePath>& places) const;

 private:
  using File = std::uint64_t;
  void enter(const WorkspacePath& name, File file);
  void forget_locked(const WorkspacePath& name);

  mutable std::mutex mutex_;   // guards all
  File last_ = 0;
  std::map<WorkspacePath, File> files_;
  std::map<File, std::set<WorkspacePath>> names_;
};

}  // namespace fbroker::broker
