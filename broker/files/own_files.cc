#include "broker/files/own_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "broker/files/owner.h"

namespace fbroker::broker {

namespace {

// Deeper than any directory can be below PATH_MAX.
constexpr int kMaxDepth = 4096;

std::pair<std::uint64_t, std::uint64_t> key_of(const FileStat& stat) {
  return {stat.identity.device, stat.identity.inode};
}

// The place of a path whose end may not exist yet.
std::optional<HostLocation> place_of(const std::string& host_path) {
  std::filesystem::path existing = std::filesystem::path(host_path).lexically_normal();
  if (existing.filename().empty()) existing = existing.parent_path();
  std::string rest;
  for (;;) {
    const UniqueFd fd(::open(existing.c_str(), O_PATH | O_CLOEXEC));
    if (fd) {
      auto place = locate(fd.get());
      if (place && !rest.empty()) place->path = (place->path == "/" ? "" : place->path) + rest;
      return place;
    }
    if (existing == existing.root_path()) return std::nullopt;
    rest.insert(0, "/" + existing.filename().string());
    existing = existing.parent_path();
  }
}

}  // namespace

void OwnFiles::add_file(const std::string& host_path) { add(host_path, false, place_of(host_path)); }
void OwnFiles::add_directory(const std::string& host_path) { add(host_path, true, place_of(host_path)); }

void OwnFiles::add_link(const std::string& host_path) {
  const std::filesystem::path path = std::filesystem::path(host_path).lexically_normal();
  auto place = place_of(path.parent_path().string());
  if (place) place->path = (place->path == "/" ? "" : place->path) + "/" + path.filename().string();
  add(host_path, false, place);
}

void OwnFiles::add(const std::string& host_path, bool directory, const std::optional<HostLocation>& place) {
  const std::unique_lock lock(mutex_);
  entries_.push_back({host_path, directory, place.value_or(HostLocation{})});
  ++version_;
  scan();
}

std::uint64_t OwnFiles::version() const {
  const std::shared_lock lock(mutex_);
  return version_;
}

std::vector<WorkspacePath> OwnFiles::paths_in(const ExportTable& table) const {
  const std::shared_lock lock(mutex_);
  std::vector<WorkspacePath> paths;
  for (const Entry& entry : entries_) {
    if (entry.place.path.empty()) continue;
    for (WorkspacePath& name : table.names_of(entry.place)) paths.push_back(std::move(name));
    if (!entry.directory) continue;
    // The other way round: an export that begins inside one of our directories.
    for (const auto& candidate : table.exports())
      if (candidate->location() && candidate->location()->below(entry.place))
        paths.push_back(candidate->at());
  }
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  return paths;
}

// Precondition: mutex_ is held alone.
void OwnFiles::scan() const {
  // ATTACK: whoever owns an export may not see them; what was not seen would be served.
  const ActAsItself itself;
  files_.clear();
  directories_.clear();
  scanned_.clear();
  const auto take = [this](const std::string& path) {
    const auto stat = stat_at(AT_FDCWD, path.c_str());
    if (!stat) return;
    if (!stat->is_directory()) {
      files_.insert(key_of(*stat));
      return;
    }
    directories_.insert(key_of(*stat));
    scanned_.emplace_back(path, stat->changed);
  };
  for (const Entry& entry : entries_) {
    take(entry.host_path);
    if (!entry.directory) continue;
    std::error_code error;
    using Walk = std::filesystem::recursive_directory_iterator;
    for (Walk at(entry.host_path, error), end; !error && at != end; at.increment(error)) {
      take(at->path().string());
      // What agents keep there (homes): large, and by its place alone.
      if (at.depth() == 0 && at->path().filename().native().starts_with('.')) at.disable_recursion_pending();
    }
  }
}

// Precondition: mutex_ is held.
bool OwnFiles::scan_is_old() const {
  const ActAsItself itself;
  return std::any_of(scanned_.begin(), scanned_.end(), [](const auto& directory) {
    const auto now = stat_at(AT_FDCWD, directory.first.c_str());
    return !now || now->changed.tv_sec != directory.second.tv_sec ||
           now->changed.tv_nsec != directory.second.tv_nsec;
  });
}

bool OwnFiles::contains(const FileStat& found) const {
  // A file with one name is found by that name (paths_in); only one with more
  // can be new here and reached by another, so only then is the disk asked.
  if (found.is_regular() && found.links > 1) {
    const std::unique_lock lock(mutex_);
    if (scan_is_old()) scan();
  }
  {
    const std::shared_lock lock(mutex_);
    if (!is_known(found)) return false;
  }
  // A file of ours that was replaced leaves its inode number to the next file
  // that anybody makes: what looks like ours is looked for anew.
  const std::unique_lock lock(mutex_);
  scan();
  return is_known(found);
}

// Precondition: mutex_ is held.
bool OwnFiles::is_known(const FileStat& found) const {
  return found.is_directory() ? directories_.contains(key_of(found))
                              : files_.contains(key_of(found));
}

bool OwnFiles::holds(int directory) const {
  {
    const std::unique_lock lock(mutex_);
    if (scan_is_old()) scan();
  }
  std::string up = ".";
  auto here = stat_at(directory, up.c_str());
  for (int depth = 0; depth < kMaxDepth; ++depth) {
    if (!here || contains(*here)) return true;   // what cannot be looked at is not served
    up += "/..";
    auto above = up.size() < 4000 ? stat_at(directory, up.c_str())
                                  : Result<FileStat, Errno>(Errno{ENAMETOOLONG});
    if (above && above->identity == here->identity) return false;
    here = above;
  }
  return true;
}

}  // namespace fbroker::broker
