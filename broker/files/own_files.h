// OwnFiles: the broker's own files (policy, state, audit log, sockets), which
// no session may see or change through any export, wherever they lie.
//
// Recognised in two ways, because each alone has a hole. By place: where the
// host location of one is seen through a table's exports (bind mounts too),
// that workspace path is denied before anything is opened. By identity: what
// was opened is compared by device and inode, which catches hard links.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "broker/files/export.h"
#include "broker/files/file_stat.h"
#include "broker/files/host_location.h"

namespace fbroker::broker {

// Threads: all members, any thread.
class OwnFiles {
 public:
  // Absolute host paths. They need not exist yet (their nearest existing
  // directory is located, the rest is taken literally).
  void add_file(const std::string& host_path);
  // A link that leads to one of them: by its own place, wherever it points.
  void add_link(const std::string& host_path);
  // The directory and everything that is or comes to be below it; below its
  // entries whose names begin with a dot, by place only.
  void add_directory(const std::string& host_path);

  // Counts up with every add: what was computed from paths_in() is then old.
  std::uint64_t version() const;

  // The workspace paths at which they are seen; sorted. Everything at or below
  // one of them is the broker's.
  std::vector<WorkspacePath> paths_in(const ExportTable& table) const;

  // Whether the file is one of them, under whatever name it was opened.
  bool contains(const FileStat& found) const;

  // Whether a directory is one of theirs or lies below one, found by walking
  // up; for exports that show submounts, where a place can have any name. Asks
  // the disk for directories that are new, which contains() then knows.
  bool holds(int directory) const;

 private:
  using Key = std::pair<std::uint64_t, std::uint64_t>;   // device, inode

  struct Entry {
    std::string host_path;
    bool directory = false;
    HostLocation place;
  };
  void add(const std::string& host_path, bool directory, const std::optional<HostLocation>& place);
  void scan() const;
  bool scan_is_old() const;
  bool is_known(const FileStat& found) const;

  mutable std::shared_mutex mutex_;   // guards everything below
  std::vector<Entry> entries_;
  std::uint64_t version_ = 1;
  mutable std::set<Key> files_;
  // Directories with the change time they had when they were scanned.
  mutable std::vector<std::pair<std::string, timespec>> scanned_;
  mutable std::set<Key> directories_;
};

}  // namespace fbroker::broker
