// CreatedSet: which directories this session itself made.
//
// A guard denies writing to what the session did not create (design section 4).
// Kept are directories only, the topmost of each tree, with their identity: a
// directory that somebody else put in the same place later is not the session's.
#pragma once

#include <map>
#include <mutex>
#include <optional>

#include "broker/protocol/file_service.h"
#include "policy/base/workspace_path.h"

namespace fbroker::broker {

// Threads: all members, any thread.
class CreatedSet {
 public:
  // Beyond it nothing more is remembered, and guards hold: the safe side.
  static constexpr std::size_t kMaxDirectories = 65536;

  struct Directory {
    WorkspacePath path;
    protocol::FileIdentity identity;
  };

  void add(const WorkspacePath& path, const protocol::FileIdentity& identity);
  // The directory at or above `path`; the caller verifies its identity.
  std::optional<Directory> covering(const WorkspacePath& path) const;
  // It and everything below is gone.
  void forget(const WorkspacePath& path);
  void moved(const WorkspacePath& from, const WorkspacePath& to);

 private:
  std::optional<Directory> covering_locked(const WorkspacePath& path) const;

  mutable std::mutex mutex_;   // guards directories_
  std::map<WorkspacePath, protocol::FileIdentity> directories_;
};

}  // namespace fbroker::broker
