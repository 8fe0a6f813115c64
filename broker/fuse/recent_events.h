// RecentEvents: whether an event has touched a path since a given moment.
//
// A request that the service answered before an event must not be allowed to
// install, after it, what the event made the kernel forget. So a reply that
// the kernel may keep compares: the count taken before the service was asked,
// and what has happened since.
// Threads: not locked; the front's gate guards it.
#pragma once

#include <array>
#include <cstdint>

#include "broker/protocol/event.h"

namespace fbroker::fuse {

class RecentEvents {
 public:
  std::uint64_t count() const noexcept { return count_; }

  void add(const protocol::Event& event) { ring_[count_++ % ring_.size()] = event; }

  // Whether what was learnt of `path` when `since` events were known may be
  // out of date. True also where that can no longer be told.
  bool touched(std::uint64_t since, const WorkspacePath& path,
               const protocol::FileIdentity& identity) const {
    if (count_ - since > ring_.size()) return true;
    for (std::uint64_t i = since; i < count_; ++i)
      if (touches(ring_[i % ring_.size()], path, identity)) return true;
    return false;
  }

 private:
  static bool touches(const protocol::Event& event, const WorkspacePath& path,
                      const protocol::FileIdentity& identity) {
    if (event.kind == protocol::EventKind::forget_all) return true;
    if (!identity.any() && event.identity == identity) return true;
    // The thing itself, what is below it, and the directories that lead to it
    // (their times and listings).
    return path.is_at_or_below(event.path) || event.path.is_at_or_below(path);
  }

  std::array<protocol::Event, 64> ring_;
  std::uint64_t count_ = 0;
};

}  // namespace fbroker::fuse
