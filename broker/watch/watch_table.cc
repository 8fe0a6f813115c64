#include "broker/watch/watch_table.h"

#include <algorithm>

namespace fbroker::broker {

Watch* WatchTable::find(int number) {
  const auto found = by_number_.find(number);
  return found == by_number_.end() ? nullptr : &found->second;
}

Watch* WatchTable::find(const protocol::FileIdentity& directory) {
  const auto found = by_directory_.find(directory);
  return found == by_directory_.end() ? nullptr : find(found->second);
}

Watch& WatchTable::add(int number, const protocol::FileIdentity& directory) {
  Watch& watch = by_number_[number];
  watch.number = number;
  watch.directory = directory;
  watch.place = order_.insert(order_.end(), number);
  watch.used = std::chrono::steady_clock::now();
  by_directory_[directory] = number;
  return watch;
}

void WatchTable::touch(Watch& watch) {
  order_.splice(order_.end(), order_, watch.place);
  watch.used = std::chrono::steady_clock::now();
}

void WatchTable::remove(Watch& watch) {
  order_.erase(watch.place);
  by_directory_.erase(watch.directory);
  by_number_.erase(watch.number);
}

Watch* WatchTable::longest_unused() { return order_.empty() ? nullptr : find(order_.front()); }

std::vector<int> WatchTable::drop_names(const WorkspacePath& path) {
  std::vector<int> nameless;
  for (auto& [number, watch] : by_number_) {
    std::erase_if(watch.names, [&](const WorkspacePath& name) { return name.is_at_or_below(path); });
    if (watch.names.empty()) nameless.push_back(number);
  }
  return nameless;
}

void WatchTable::rename(const WorkspacePath& from, const WorkspacePath& to) {
  for (auto& [number, watch] : by_number_)
    for (WorkspacePath& name : watch.names) {
      if (!name.is_at_or_below(from)) continue;
      if (name == from) ++watch.own_moves;
      watch.path_is_stale = true;
      // Too long a path is one nobody can ask for; its old name is harmless.
      if (auto moved = name.moved(from, to)) name = std::move(*moved);
    }
}

}  // namespace fbroker::broker
