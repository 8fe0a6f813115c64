// OwnChanges: the state in which the session itself left a name. An event that
// finds a name in that state tells nobody anything new.
#pragma once

#include <chrono>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "broker/watch/watch_table.h"

namespace fbroker::broker {

// Threads: one at a time (HostWatch's mutex).
class OwnChanges {
 public:
  struct State {
    protocol::FileIdentity identity;   // any() = the name is gone
    timespec changed{};
    std::chrono::steady_clock::time_point noted;
  };
  static constexpr std::size_t kMax = 8192;   // the oldest are forgotten: their echoes are told

  void note(const protocol::FileIdentity& directory, std::string_view name, const State& state) {
    const Key key{directory, std::string(name)};
    if (const auto found = states_.find(key); found != states_.end()) {
      found->second.state = state;
      order_.splice(order_.end(), order_, found->second.place);
      return;
    }
    if (states_.size() >= kMax) {
      states_.erase(order_.front());
      order_.pop_front();
    }
    states_.emplace(key, Item{state, order_.insert(order_.end(), key)});
  }

  std::optional<State> find(const protocol::FileIdentity& directory, std::string_view name) const {
    const auto found = states_.find({directory, std::string(name)});
    return found == states_.end() ? std::nullopt : std::optional(found->second.state);
  }

  void clear() {
    states_.clear();
    order_.clear();
  }

 private:
  struct Key {
    protocol::FileIdentity directory;
    std::string name;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const noexcept {
      return IdentityHash()(key.directory) ^ std::hash<std::string>()(key.name);
    }
  };
  struct Item {
    State state;
    std::list<Key>::iterator place;
  };
  std::unordered_map<Key, Item, KeyHash> states_;
  std::list<Key> order_;
};

}  // namespace fbroker::broker
