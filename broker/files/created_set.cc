#include "broker/files/created_set.h"

#include <algorithm>
#include <vector>

namespace fbroker::broker {

void CreatedSet::add(const HostLocation& path, const protocol::FileIdentity& identity) {
  const std::lock_guard lock(mutex_);
  directories_.erase(path);   // one that was there before is gone: this one is new
  if (was_persons_locked(path)) return;
  if (directories_.size() >= kMaxDirectories || covering_locked(path)) return;
  directories_.emplace(path, identity);
}

void CreatedSet::add_persons(const HostLocation& path) {
  const std::lock_guard lock(mutex_);
  directories_.insert_or_assign(path, std::nullopt);
}

bool CreatedSet::has_room() const {
  const std::lock_guard lock(mutex_);
  return directories_.size() < kMaxDirectories;
}

void CreatedSet::persons_was(const HostLocation& path, Gone how) {
  const std::lock_guard lock(mutex_);
  if (persons_places_.size() >= kMaxDirectories) places_forgotten_ = true;
  else if (!persons_places_.emplace(path, how).second && how == Gone::moved) persons_places_[path] = how;
}

bool CreatedSet::was_persons(const HostLocation& path) const {
  const std::lock_guard lock(mutex_);
  return was_persons_locked(path);
}

bool CreatedSet::was_persons_locked(const HostLocation& path) const {
  if (places_forgotten_) return true;
  if (persons_places_.contains(path)) return true;
  for (HostLocation at = path; at.path != "/";) {
    at = at.parent();
    if (const auto place = persons_places_.find(at); place != persons_places_.end() && place->second == Gone::moved)
      return true;
  }
  return false;
}

bool CreatedSet::made_any_of(const HostLocation& path) const {
  const std::lock_guard lock(mutex_);
  return covering_locked(path) || std::ranges::any_of(directories_, [&](const auto& entry) {
           return entry.second && entry.first.below(path).has_value();
         });
}

std::optional<CreatedSet::Directory> CreatedSet::covering(const HostLocation& path) const {
  const std::lock_guard lock(mutex_);
  return covering_locked(path);
}

std::optional<CreatedSet::Directory> CreatedSet::covering_locked(const HostLocation& path) const {
  std::size_t levels = 0;
  for (HostLocation at = path;; at = at.parent(), ++levels) {
    if (const auto found = directories_.find(at); found != directories_.end()) {
      if (!found->second) return std::nullopt;
      return Directory{levels, *found->second};
    }
    if (at.path == "/") return std::nullopt;
  }
}

void CreatedSet::forget(const HostLocation& path) {
  const std::lock_guard lock(mutex_);
  std::erase_if(directories_, [&](const auto& entry) { return entry.first.below(path).has_value(); });
}

void CreatedSet::moved(const HostLocation& from, const HostLocation& to) {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<HostLocation, std::optional<protocol::FileIdentity>>> moving;
  for (auto at = directories_.begin(); at != directories_.end();) {
    const auto rest = at->first.below(from);
    if (!rest) {
      ++at;
      continue;
    }
    moving.emplace_back(to.at(*rest), at->second);
    at = directories_.erase(at);
  }
  for (auto& entry : moving) directories_.insert(std::move(entry));
}

}  // namespace fbroker::broker
