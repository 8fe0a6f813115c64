// HostWatch: tells a session's clients what changed on the host behind their
// backs (design section 11, point 1), with inotify(7).
//
// One per session. The file service names each directory whose entries a
// client may keep; changes made there by anybody else become events.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string_view>

#include "broker/protocol/file_service.h"
#include "broker/sessions/event_bus.h"

namespace fbroker::broker {

struct HostWatchOptions {
  std::size_t max_watches = 0;   // 0 = half of fs.inotify.max_user_watches, at most 65,536
  // Until when a change time can be that of an earlier change too. None: the
  // kernel gives each change that follows a look its own (Linux 6.13, on file
  // systems that take part), found out per directory.
  std::optional<std::chrono::milliseconds> clock_tick;
};

// Where it ends: stores through a shared mapping on the host are told when the
// file is closed; changes through another hard link in a directory that is not
// watched, and two writers, agent and host, of one file within some 2 ms, may
// not be.
// Threads: all members, any thread; one thread of its own.
class HostWatch {
 public:
  // Errors: no inotify instance to be had (fs.inotify.max_user_instances).
  static Result<std::unique_ptr<HostWatch>> start(EventBus& events, HostWatchOptions options = {});
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
