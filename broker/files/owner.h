// Owner: on whose behalf the broker touches an export's files.
//
// A broker that runs as root acts under the user, group and groups of whoever
// owns the export, and without the capabilities that overrule permissions, so
// that the host's own rules hold for the agent as they would for that user. A
// broker that does not run as root acts as itself; all this is then nothing.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

namespace fbroker::broker {

struct Owner {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;

  // The user `uid` with the groups that the host's user database gives it.
  // `gid` holds where the database does not know the user.
  static Owner of(uid_t uid, gid_t gid);
  // Whom this process acts as on files of that user: them, when it runs as
  // root; else itself.
  static Owner acting_for(uid_t uid, gid_t gid);

  bool in_group(gid_t group) const noexcept;
};

// For its lifetime the calling thread acts as `owner`, which must outlive it.
// One within another of the same owner costs nothing: a call steps down once.
// Uses the raw, per-thread system calls: glibc's setgroups and capset would
// change every thread of the process.
// INVARIANT: failing to step down ends the process: going on would be acting as root.
class ActAs {
 public:
  explicit ActAs(const Owner& owner);
  ~ActAs();
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;

 private:
  const Owner* before_;
  bool active_ = false;
};

// For its lifetime the thread is the broker itself again: for the broker's own
// files, which an owner of exports may not even see.
class ActAsItself {
 public:
  ActAsItself();
  ~ActAsItself();
  ActAsItself(const ActAsItself&) = delete;
  ActAsItself& operator=(const ActAsItself&) = delete;

 private:
  const Owner* before_;
};

}  // namespace fbroker::broker
