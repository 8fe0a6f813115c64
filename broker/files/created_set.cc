#include "broker/files/created_set.h"

#include <algorithm>
#include <vector>

namespace fbroker::broker {

void CreatedSet::add(const WorkspacePath& path, const protocol::FileIdentity& identity) {
  const std::lock_guard lock(mutex_);
  directories_.erase(path);   // one that was there before is gone: this one is new
  if (was_persons_locked(path)) return;
  if (directories_.size() >= kMaxDirectories || covering_locked(path)) return;
  directories_.emplace(path, identity);
}

void CreatedSet::add_persons(const WorkspacePath& path) {
  const std::lock_guard lock(mutex_);
  directories_.insert_or_assign(path, std::nullopt);
}

bool CreatedSet::has_room() const {
  const std::lock_guard lock(mutex_);
  return directories_.size() < kMaxDirectories;
}

void CreatedSet::persons_was(const WorkspacePath& path, Gone how) {
  const std::lock_guard lock(mutex_);
  if (persons_places_.size() >= kMaxDirectories) places_forgotten_ = true;
  else if (!persons_places_.emplace(path, how).second && how == Gone::moved) persons_places_[path] = how;
}

bool CreatedSet::was_persons(const WorkspacePath& path) const {
  const std::lock_guard lock(mutex_);
  return was_persons_locked(path);
}

bool CreatedSet::was_persons_locked(const WorkspacePath& path) const {
  if (places_forgotten_) return true;
  if (persons_places_.contains(path)) return true;
  for (WorkspacePath at = path; !at.is_root();) {
    at = at.parent();
    if (const auto place = persons_places_.find(at); place != persons_places_.end() && place->second == Gone::moved)
      return true;
  }
  return false;
}

bool CreatedSet::made_any_of(const WorkspacePath& path) const {
  const std::lock_guard lock(mutex_);
  return covering_locked(path) || std::ranges::any_of(directories_, [&](const auto& entry) {
           return entry.second && entry.first.is_at_or_below(path);
         });
}

std::optional<CreatedSet::Directory> CreatedSet::covering(const WorkspacePath& path) const {
  const std::lock_guard lock(mutex_);
  return covering_locked(path);
}

std::optional<CreatedSet::Directory> CreatedSet::covering_locked(const WorkspacePath& path) const {
  for (WorkspacePath at = path;; at = at.parent()) {
    if (const auto found = directories_.find(at); found != directories_.end()) {
      if (!found->second) return std::nullopt;
      return Directory{found->first, *found->second};
    }
    if (at.is_root()) return std::nullopt;
  }
}

void CreatedSet::forget(const WorkspacePath& path) {
  const std::lock_guard lock(mutex_);
  std::erase_if(directories_, [&](const auto& entry) { return entry.first.is_at_or_below(path); });
}

void CreatedSet::moved(const WorkspacePath& from, const WorkspacePath& to) {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<WorkspacePath, std::optional<protocol::FileIdentity>>> moving;
  for (auto at = directories_.begin(); at != directories_.end();) {
    if (!at->first.is_at_or_below(from)) {
      ++at;
      continue;
    }
    if (auto path = at->first.moved(from, to)) moving.emplace_back(std::move(*path), at->second);
    at = directories_.erase(at);
  }
  for (auto& entry : moving) directories_.insert(std::move(entry));
}

}  // namespace fbroker::broker
