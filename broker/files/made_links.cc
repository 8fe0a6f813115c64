#include "broker/files/made_links.h"

#include <algorithm>

namespace fbroker::broker {

bool MadeLinks::has_room() const {
  const std::lock_guard lock(mutex_);
  return files_.size() + 2 <= kMaxNames;
}

void MadeLinks::add(const WorkspacePath& existing, const WorkspacePath& added) {
  const std::lock_guard lock(mutex_);
  const auto known = files_.find(existing);
  const File file = known != files_.end() ? known->second : ++last_;
  enter(existing, file);
  enter(added, file);
}

void MadeLinks::enter(const WorkspacePath& name, File file) {
  if (const auto known = files_.find(name); known != files_.end() && known->second != file) forget_locked(name);
  files_[name] = file;
  names_[file].insert(name);
}

void MadeLinks::forget(const WorkspacePath& name) {
  const std::lock_guard lock(mutex_);
  forget_locked(name);
}

void MadeLinks::forget_locked(const WorkspacePath& name) {
  const auto at = files_.find(name);
  if (at == files_.end()) return;
  const auto names = names_.find(at->second);
  names->second.erase(name);
  if (names->second.empty()) names_.erase(names);
  files_.erase(at);
}

void MadeLinks::moved(const WorkspacePath& from, const WorkspacePath& to) {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<WorkspacePath, File>> moving;
  // Names below `from` follow it in the order of bytes, among others that only begin so.
  for (auto at = files_.lower_bound(from); at != files_.end() && at->first.bytes().starts_with(from.bytes()); ++at)
    if (at->first.is_at_or_below(from)) moving.push_back(*at);
  for (const auto& [name, file] : moving) forget_locked(name);
  for (const auto& [name, file] : moving)
    if (const auto path = name.moved(from, to)) enter(*path, file);
}

bool MadeLinks::fits(const WorkspacePath& from, const WorkspacePath& to) const {
  const std::lock_guard lock(mutex_);
  for (auto at = files_.lower_bound(from); at != files_.end() && at->first.bytes().starts_with(from.bytes()); ++at)
    if (at->first.is_at_or_below(from) && !at->first.moved(from, to)) return false;
  return true;
}

std::vector<WorkspacePath> MadeLinks::elsewhere(const std::vector<WorkspacePath>& places) const {
  const auto among = [&](const WorkspacePath& name) {
    return std::ranges::any_of(places, [&](const WorkspacePath& place) { return name.is_at_or_below(place); });
  };
  const std::lock_guard lock(mutex_);
  std::vector<WorkspacePath> found;
  for (const auto& [file, names] : names_)
    if (std::ranges::any_of(names, among)) std::ranges::remove_copy_if(names, std::back_inserter(found), among);
  return found;
}

}  // namespace fbroker::broker
