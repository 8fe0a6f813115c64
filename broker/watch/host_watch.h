// HostWatch: tells a session's clients what changed on the host behind their
// backs (design section 11, point 1), with inotify(7).
//
// One per session. The file service names each directory whose entries a
// client may keep; changes made there by anybody else become events.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string_view>

#include "broker/protocol/file_service.h"
#include "broker/sessions/event_bus.h"

namespace fbroker::broker {

class HostWatch {
 public:
  static Result<std::unique_ptr<HostWatch>> start(EventBus& events);
  ~HostWatch();

  // Whether changes in the directory open at `directory_fd`, known to the
  // agent as `as`, will be told from now on. False: the limit of watches is
  // reached or the file system has none; what it holds may be kept one second.
  // Cheap when it is already watched. A directory may be watched under several
  // names (overlapping exports): each is told.
  bool watch(int directory_fd, const protocol::FileIdentity& directory, const WorkspacePath& as);

  // The session's own change of the name `name` in that directory: the name is
  // now `identity` with change time `changed` (any() identity = gone). Events
  // that find the host in just this state are echoes and not told.
  void own_change(const protocol::FileIdentity& directory, std::string_view name,
                  const protocol::FileIdentity& identity, const timespec& changed);

  // The directory at or below `from` is called `to` now (a rename of our own).
  void moved(const WorkspacePath& from, const WorkspacePath& to);

 private:
  struct Impl;
  explicit HostWatch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbroker::broker
