// RevokedFiles: the files that a revoke took away, by identity.
//
// A revoke is of a path, and a file may have other names: hard links, or a
// handle whose own name is gone. So what lies at the revoked places with more
// than one link, or is open, is kept here, part of the View, and is not there
// under any name until a newer grant of that name or until the session deny is
// lifted. A file with one link that nobody has open has no other way to it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "broker/files/export.h"
#include "broker/handles/node_table.h"

namespace fbroker::broker {

// What was found at and below a place.
struct FilesBelow {
  std::unordered_set<protocol::FileIdentity, IdentityHash> files;
  // Not all could be looked at: every file with more than one link counts as
  // one of them.
  bool complete = true;

  bool empty() const { return files.empty() && complete; }
  void add(const FilesBelow& more);
};

// How long, and at how much, a search may look; shared by all of one revoke.
struct SearchBudget {
  std::size_t entries = 200'000;
  std::chrono::steady_clock::time_point until =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(1000);
};

// Regular files at or below `place` with more than one link, or that `is_open`
// says yes to. Looks with the broker's own rights: no file is opened, nothing is told.
FilesBelow files_below(const ExportTable& exports, const WorkspacePath& place, SearchBudget& budget,
                       const std::function<bool(const protocol::FileIdentity&)>& is_open);

// Threads: immutable once it is in a View.
class RevokedFiles {
 public:
  // `order`: the session deny's among all grants.
  void add(std::uint64_t order, const FilesBelow& found);

  // The order of the newest deny that took the file away; 0 = none did.
  std::uint64_t denied_by(const protocol::FileIdentity& identity, bool may_have_other_names) const;

 private:
  std::unordered_map<protocol::FileIdentity, std::uint64_t, IdentityHash> files_;
  std::uint64_t unknown_ = 0;   // newest deny whose places could not be searched to the end
};

}  // namespace fbroker::broker
