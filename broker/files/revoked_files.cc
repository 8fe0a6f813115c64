#include "broker/files/revoked_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace fbroker::broker {

namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const noexcept { ::closedir(directory); }
};

class Search {
 public:
  Search(const ExportTable& exports, SearchBudget& budget) : exports_(exports), budget_(budget) {}

  FilesBelow below(const Export& on, const WorkspacePath& place) {
    found_ = {};
    const auto start = on.place_of(place);
    if (!start) {
      found_.complete = is_absent(start.error());
      return std::move(found_);
    }
    look(on, start->directory.get(), start->name.c_str(), place);
    while (!left_.empty() && found_.complete) {
      const WorkspacePath directory = std::move(left_.back());
      left_.pop_back();
      walk(on, directory);
    }
    left_.clear();
    return std::move(found_);
  }

  // Files with one link, of every search so far.
  const std::vector<protocol::FileIdentity>& singles() const { return singles_; }

 private:
  // What is gone, or can only be reached over a link or another mount: not by us, so not by the agent.
  static bool is_absent(Errno error) {
    return error.value == ENOENT || error.value == ENOTDIR || error.value == ELOOP || error.value == EXDEV;
  }

  bool spend() {
    if (budget_.entries == 0) return false;
    --budget_.entries;
    return budget_.entries % 256 != 0 || std::chrono::steady_clock::now() < budget_.until;
  }

  void look(const Export& on, int directory, const char* name, const WorkspacePath& path) {
    const auto stat = stat_at(directory, name);
    if (!stat || on.is_foreign_mount(*stat)) return;
    if (stat->is_directory()) left_.push_back(path);
    if (!stat->is_regular()) return;
    if (stat->links > 1) found_.files.insert(stat->identity);
    else singles_.push_back(stat->identity);
  }

  void walk(const Export& on, const WorkspacePath& path) {
    auto fd = on.open(path, O_RDONLY | O_DIRECTORY);
    if (!fd) {
      found_.complete = is_absent(fd.error());
      return;
    }
    const std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(fd->get()));
    if (!stream) {
      found_.complete = false;
      return;
    }
    const int self = fd->release();
    while (const dirent* entry = ::readdir(stream.get())) {
      const std::string_view name(entry->d_name);
      if (name == "." || name == "..") continue;
      const auto child = path.child(name);
      // ATTACK: deeper than a path can say, or more than we can look at.
      if (!child || !spend()) {
        found_.complete = false;
        return;
      }
      if (exports_.is_export(*child)) continue;   // shadows what lies here
      if (entry->d_type != DT_LNK) look(on, self, entry->d_name, *child);
    }
  }

  const ExportTable& exports_;
  SearchBudget& budget_;
  FilesBelow found_;
  std::vector<protocol::FileIdentity> singles_;
  std::vector<WorkspacePath> left_;
};

}  // namespace

void FilesBelow::add(const FilesBelow& more) {
  files.insert(more.files.begin(), more.files.end());
  complete = complete && more.complete;
}

FilesBelow files_below(const ExportTable& exports, const WorkspacePath& place, SearchBudget& budget,
                       const std::function<bool(const protocol::FileIdentity&)>& is_open) {
  FilesBelow found;
  Search search(exports, budget);
  if (const Export* on = exports.find(place)) found.add(search.below(*on, place));
  for (const auto& candidate : exports.exports())
    if (candidate->at() != place && candidate->at().is_at_or_below(place))
      found.add(search.below(*candidate, candidate->at()));
  // ATTACK: another name is opened, and unlinked, while we look. What had one
  //   link when it was looked at was open by then, or never will be by that name.
  for (const auto& file : search.singles())
    if (is_open(file)) found.files.insert(file);
  return found;
}

void RevokedFiles::add(std::uint64_t order, const FilesBelow& found) {
  for (const auto& identity : found.files) files_[identity] = std::max(files_[identity], order);
  if (!found.complete) unknown_ = std::max(unknown_, order);
}

std::uint64_t RevokedFiles::denied_by(const protocol::FileIdentity& identity,
                                      bool may_have_other_names) const {
  const auto known = files_.find(identity);
  const std::uint64_t order = known == files_.end() ? 0 : known->second;
  return may_have_other_names ? std::max(order, unknown_) : order;
}

}  // namespace fbroker::broker
