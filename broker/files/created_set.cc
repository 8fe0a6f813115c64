#include "broker/files/created_set.h"

#include <iterator>
#include <vector>

namespace fbroker::broker {

namespace {

// The places at and below `path` in a map by place: itself, and those whose
// paths begin with it and a slash, which stand next to one another.
template <class Map, class Act>
void for_each_below(Map& map, const HostLocation& path, Act act) {
  if (const auto itself = map.find(path); itself != map.end()) act(itself);
  const std::string prefix = path.path == "/" ? path.path : path.path + "/";
  for (auto at = map.lower_bound(HostLocation{path.device, prefix});
       at != map.end() && at->first.device == path.device && at->first.path.starts_with(prefix);) {
    const auto next = std::next(at);
    if (at->first != path) act(at);
    at = next;
  }
}

}  // namespace

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
  bool made = covering_locked(path).has_value();
  for_each_below(directories_, path, [&](auto at) { made = made || at->second.has_value(); });
  return made;
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
  for_each_below(directories_, path, [&](auto at) { directories_.erase(at); });
}

void CreatedSet::moved(const HostLocation& from, const HostLocation& to) {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<HostLocation, std::optional<protocol::FileIdentity>>> moving;
  for_each_below(directories_, from, [&](auto at) {
    moving.emplace_back(to.at(*at->first.below(from)), at->second);
    directories_.erase(at);
  });
  for (auto& entry : moving) directories_.insert(std::move(entry));
}

}  // namespace fbroker::broker
