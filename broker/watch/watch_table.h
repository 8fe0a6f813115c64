// WatchTable: which directories are watched, under which names, and which of
// them was needed longest ago. Knows nothing of inotify but its numbers.
#pragma once

#include <chrono>
#include <cstddef>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/protocol/file_service.h"

namespace fbroker::broker {

struct IdentityHash {
  std::size_t operator()(const protocol::FileIdentity& id) const noexcept {
    return std::hash<std::uint64_t>()(id.inode * 0x9E3779B97F4A7C15u ^ id.device ^
                                      static_cast<std::uint64_t>(id.birth_ns));
  }
};

struct Watch {
  int number = -1;                      // inotify's
  protocol::FileIdentity directory;
  std::string host_path;                // a hint; what is found there is compared with `directory`
  bool path_is_stale = false;
  bool exact_times = false;             // no two changes with one change time
  unsigned own_moves = 0;               // renames of our own whose IN_MOVE_SELF is on its way
  std::vector<WorkspacePath> names;     // never empty
  std::chrono::steady_clock::time_point used;
  // A burst: told one by one up to a limit, then as a whole.
  std::chrono::steady_clock::time_point window_end{};
  unsigned told_in_window = 0;
  bool forget_at_end = false;
  std::list<int>::iterator place;       // in the order of use
};

// Threads: one at a time (HostWatch's mutex).
class WatchTable {
 public:
  static constexpr std::size_t kMaxNames = 16;   // of one directory (overlapping exports)

  Watch* find(int number);
  Watch* find(const protocol::FileIdentity& directory);
  Watch& add(int number, const protocol::FileIdentity& directory);
  void touch(Watch& watch);
  void remove(Watch& watch);
  std::size_t size() const noexcept { return by_number_.size(); }
  Watch* longest_unused();

  // Takes the names at or below `path` away from every directory. The watches
  // that are left without one: the caller removes them.
  std::vector<int> drop_names(const WorkspacePath& path);
  // Names at or below `from` are below `to` now.
  void rename(const WorkspacePath& from, const WorkspacePath& to);

  template <class F>
  void for_each(F&& visit) {
    for (auto& [number, watch] : by_number_) visit(watch);
  }

 private:
  std::unordered_map<int, Watch> by_number_;
  std::unordered_map<protocol::FileIdentity, int, IdentityHash> by_directory_;
  std::list<int> order_;                // longest unused first
};

}  // namespace fbroker::broker
