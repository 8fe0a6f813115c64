// Export: one host directory (or file) placed at a workspace path, and the one
// gate through which anything below it is opened. ExportTable: all of a session.
//
// Immutable. A table is replaced as a whole (with the policy: sessions/view.h);
// an export that did not change is the same object in both, with the same
// descriptor of its root.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "broker/files/file_stat.h"
#include "broker/files/host_location.h"
#include "broker/files/owner.h"
#include "policy/base/unique_fd.h"
#include "policy/base/workspace_path.h"
#include "policy/model.h"

namespace fbroker::broker {

// A place to begin from: an open directory and a name in it ("." = itself).
struct Place {
  UniqueFd directory;   // O_PATH
  std::string name;
};

// Threads: immutable after open(); every member is const and safe from any thread.
class Export {
 public:
  // `host_path` is absolute and the person's own word: links in it are followed,
  // once, here. Errors: it does not exist or is neither directory nor regular file.
  static Result<std::shared_ptr<const Export>> open(const policy::Export& wanted,
                                                    std::string host_path);

  const WorkspacePath& at() const noexcept { return at_; }
  const Owner& owner() const noexcept { return owner_; }
  bool is_file() const noexcept { return !file_name_.empty(); }
  bool submounts() const noexcept { return submounts_; }
  bool is_static() const noexcept { return static_; }
  int root() const noexcept { return root_.get(); }
  const FileStat& root_stat() const noexcept { return root_stat_; }
  // Where the root directory lies (for an export of a file: its parent).
  const std::optional<HostLocation>& location() const noexcept { return location_; }
  // The path that was asked for, before links were followed.
  const std::string& wanted_path() const noexcept { return wanted_path_; }

  // INVARIANT: every descriptor the broker opens for a session comes from here
  //   or from open_child().
  // Opens exactly the file at `path`: never through a link, never out of the
  // export, never on another mount (unless the export shows submounts).
  // Precondition: path.is_at_or_below(at()).
  // Errors: openat2(2)'s; ELOOP for a link, EXDEV for another mount, EACCES
  //   when the kernel could not say within 128 attempts.
  Result<UniqueFd, Errno> open(const WorkspacePath& path, int flags, mode_t mode = 0) const;

  // The same for one name in a directory that came from this export.
  Result<UniqueFd, Errno> open_child(int directory, const char* name, int flags,
                                     mode_t mode = 0) const;

  // The directory that holds `path`, open, and its name there. For the root of
  // the export that is the root itself and ".".
  Result<Place, Errno> place_of(const WorkspacePath& path) const;

  // Whether something found by stat lies on a mount that is not shown.
  bool is_foreign_mount(const FileStat& found) const noexcept {
    return !submounts_ && found.mount != root_stat_.mount;
  }

  // For the audit alone.
  std::string host_path(const WorkspacePath& path) const;

  // Where that lies; what is mounted below counts as lying on the export's own
  // file system. None: the export's mount is not to be seen.
  std::optional<HostLocation> location_of(const WorkspacePath& path) const;

  // What the kernel calls the open file now, as a workspace path; none when it
  // is not below this export's root any more.
  std::optional<WorkspacePath> current_name(int fd) const;

 private:
  Export() = default;

  WorkspacePath at_;
  UniqueFd root_;            // O_PATH|O_DIRECTORY
  std::string file_name_;    // an export of one file: its name below root_
  std::string wanted_path_;
  std::string host_root_;
  FileStat root_stat_;
  std::optional<HostLocation> location_;
  Owner owner_;
  bool submounts_ = false;
  bool static_ = false;
};

struct ExportTableInput {
  std::string root;                       // of the run; absolute
  std::string home;                       // what "~" stands for; absolute
  std::vector<policy::Export> exports;    // the policy's
  std::vector<policy::Export> temporary;  // granted host files and directories
};

class ExportTable {
 public:
  // Exports that are in `previous` under the same name and host path are kept.
  // A temporary export that is gone from the host is left out (unavailable()):
  // one deleted file must not keep a policy from being put in place.
  // Errors: a policy's `from` that cannot be opened, two exports at one path.
  static Result<std::shared_ptr<const ExportTable>> build(
      const ExportTableInput& input, const ExportTable* previous = nullptr);

  // The export that `path` lies in: the longest `at` wins. None: synthetic or nothing.
  const Export* find(const WorkspacePath& path) const noexcept;
  std::shared_ptr<const Export> share(const Export* found) const;

  // Whether an export lies strictly below: such a directory exists, synthetic
  // where the disk has none.
  bool leads_to_export(const WorkspacePath& path) const;
  // Whether `path` is the place of an export.
  bool is_export(const WorkspacePath& path) const;
  // The next components of the exports strictly below `directory`, sorted.
  const std::set<std::string>& names_below(const WorkspacePath& directory) const;

  // For the audit alone; "" where no export is.
  std::string host_path(const WorkspacePath& path) const;

  // Other names that overlapping exports give to the file at `path`.
  std::vector<WorkspacePath> other_names(const WorkspacePath& path) const;
  // The place of the host behind a path, the same for all of its names; where
  // that cannot be known, one of its own.
  HostLocation location_of(const WorkspacePath& path) const;
  // "writer": "agent". Here and not in the export: a policy that says otherwise
  // of it leaves its open files what they are.
  bool agent_is_only_writer(const Export* of) const { return written_by_agent_.contains(of); }
  // Whether the policy says so of every export that it has. (What a person
  // grants besides it says nothing of.)
  bool agent_is_only_writer() const noexcept { return agent_is_only_writer_; }
  // Whether two names may mean one file: some exports lie in others.
  bool overlapping() const noexcept { return overlapping_; }
  // Whether the root of an export, or an exported file, lies at or below.
  bool holds_export(const HostLocation& place) const;
  // Every name at which a place of the host is seen through these exports.
  std::vector<WorkspacePath> names_of(const HostLocation& place) const;

  std::span<const std::shared_ptr<const Export>> exports() const noexcept { return exports_; }
  std::span<const Error> unavailable() const noexcept { return unavailable_; }

 private:
  ExportTable() = default;
  Result<void> add(const policy::Export& wanted, const ExportTableInput& input,
                   const ExportTable* previous);

  std::vector<std::shared_ptr<const Export>> exports_;   // longest `at` first
  std::map<WorkspacePath, std::set<std::string>> above_; // synthetic: names that lead to exports
  std::vector<Error> unavailable_;
  bool overlapping_ = false;
  bool agent_is_only_writer_ = false;
  std::set<const Export*> written_by_agent_;
};

}  // namespace fbroker::broker
