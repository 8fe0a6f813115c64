// CreatedSet: which directories this session itself made.
//
// A guard denies writing to what the session did not create (design section 4).
// Kept are directories only, the topmost of each tree, with their identity: a
// directory that somebody else put in the same place later is not the session's.
// Neither is one of the person's that the session moved below one of its own: it is
// kept as an exception. All go by their place on the host: overlapping exports
// give a directory several names, and none of them is too long. And where a directory of the person's was, the session
// makes none of its own: what the person's tools are told to run lies by name.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>

#include "broker/files/host_location.h"
#include "broker/protocol/file_service.h"

namespace fbroker::broker {

// Threads: all members, any thread.
class CreatedSet {
 public:
  // Beyond it nothing more is remembered, and guards hold: the safe side.
  static constexpr std::size_t kMaxDirectories = 65536;

  struct Directory {
    std::size_t levels = 0;   // above the path that was asked for; 0 = itself
    protocol::FileIdentity identity;
  };

  void add(const HostLocation& path, const protocol::FileIdentity& identity);
  // The person's directory, and all below it, whatever covers it there.
  // Precondition: has_room().
  void add_persons(const HostLocation& path);
  bool has_room() const;
  // The person's directory there was removed, or moved away with all below it:
  // what comes to lie there does not count as created.
  enum class Gone { removed, moved };
  void persons_was(const HostLocation& path, Gone how);
  bool was_persons(const HostLocation& path) const;
  // Whether the session made it, or anything at or below it.
  bool made_any_of(const HostLocation& path) const;
  // The directory at or above `path`; the caller verifies its identity.
  std::optional<Directory> covering(const HostLocation& path) const;
  // It and everything below is gone.
  void forget(const HostLocation& path);
  void moved(const HostLocation& from, const HostLocation& to);

 private:
  std::optional<Directory> covering_locked(const HostLocation& path) const;
  bool was_persons_locked(const HostLocation& path) const;

  mutable std::mutex mutex_;   // guards all
  std::map<HostLocation, std::optional<protocol::FileIdentity>> directories_;   // none: the person's
  std::map<HostLocation, Gone> persons_places_;
  bool places_forgotten_ = false;            // more than fit: every place counts as one
};

}  // namespace fbroker::broker
