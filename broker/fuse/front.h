// FuseFront: a FUSE file system over any FileService.
//
// The same code runs in the container (over RemoteFileService) and in the
// broker (over LocalFileService and a device adopted from a container), so it
// knows nothing of HTTP and trusts nothing that comes from the device.
//
// The kernel is let keep names, attributes, listings and pages as long as the
// service says (Lifetime); handle() makes it forget. How no stale answer can
// slip in between:
//   1. handle() first counts the event, under the gate that every cacheable
//      reply passes. A reply later than that sees the event and is told as
//      not to be kept.
//   2. A reply sent earlier is in the kernel, but the process that asked may
//      not have installed it yet. It holds the directory's lock until it has;
//      a name's notification takes that lock, so it waits for it. Names are
//      therefore told before inodes, and a change of content alone is preceded
//      by a notification about no name ("fence").
//
// INVARIANT: no lock of ours is held during a call of the service, and none
//   during a notification: both can wait for other requests of this mount.
// Restart: with Options::state a killed process's successor goes on with the
// same devices. It knows the nodes and handles (journal.h), what was being
// done (intents.h), and has the kernel ask again and forget what it cached:
// nobody watched the host meanwhile. Handles are opened again when they are
// used, under the policy of then.
// INVARIANT: notifications are never written by a thread that serves requests.
// Threads: run() once; tell(), handle() one at a time and stop() from any other thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "broker/fuse/notifier.h"
#include "broker/protocol/event.h"
#include "broker/protocol/file_service.h"
#include "policy/base/unique_fd.h"

namespace fbroker::fuse {

// Descriptors that only a live process can keep: of open files that have no
// name any more, or that could not be opened again under it. Handles are the
// front's numbers, never used twice. Calls may come from any thread; a call of
// take() comes only from a front that resumes.
class Keeping {
 public:
  virtual ~Keeping() = default;
  // Returns when the descriptor (borrowed) is safe. Again for the same handle: in place of the earlier one.
  virtual void keep(std::uint64_t handle, int fd) = 0;
  virtual void drop(std::uint64_t handle) = 0;
  // A copy; it stays kept until drop(). None: nothing is kept for it.
  virtual UniqueFd take(std::uint64_t handle) = 0;
};

struct Options {
  uid_t uid = 0;        // who owns everything, as the mount's user namespace sees it
  gid_t gid = 0;
  unsigned threads = 4;                  // that serve requests, 1 to 16
  std::size_t max_nodes = 4'000'000;     // about 250 bytes each
  std::size_t max_handles = 65'536;      // open files and directories
  std::function<void()> on_ready;        // the kernel's INIT has been answered
  bool use_epoch = true;                 // FUSE_NOTIFY_INC_EPOCH where there is one (Linux 6.16)

  // The kernel may collect what is written (FUSE_WRITEBACK_CACHE), and keeps
  // sizes and times itself. To be set only where whoever writes a file writes
  // it through this mount; what the service says that others write too
  // (Opened::agent_alone) goes past the cache. A mount that is gone on with
  // stays as it was begun.
  bool write_back = false;

  // A place for files (this path and an ending each) from which another
  // process goes on when this one is killed; "" = none. The directory is the
  // caller's alone. Needs a notifier that is another process: one that waits
  // in a notification ends only when somebody serves again.
  std::string state;
  // The devices were served before, by a process with the same `state`.
  bool resume = false;
  Keeping* keeping = nullptr;            // borrowed
  // The files at `state` are damaged, and say no more what the kernel knows.
  // The front starts with nothing: every file that is open and every name
  // that is held is ESTALE and looked up anew. Pages of files that are open
  // may stay readable until they are closed: who has promised otherwise aborts
  // the connection.
  std::function<void(const Error&)> on_state_lost;
};

class FuseFront final : public protocol::EventSink {
 public:
  // `devices`: channels of one connection, mounted and not yet initialised;
  // threads share them evenly. `notifier`: none = tell() writes to the first
  // itself.
  static Result<std::unique_ptr<FuseFront>> create(protocol::FileService& service,
                                                   std::vector<UniqueFd> devices, Options options,
                                                   std::unique_ptr<Notifier> notifier = nullptr);
  ~FuseFront() override;

  // Serves until the file system is unmounted, the connection aborted or
  // stop() called. Open handles are closed at the service before it returns.
  Result<void> run();

  // Async-signal-safe. Requests being served are finished.
  void stop() noexcept;

  // Whether the kernel has forgotten what the event is about. run() has to go
  // on until it returns: a notification may wait for a request.
  bool tell(const protocol::Event&);

  // Has the kernel write back what it has collected of files at or below these
  // places, of `files` whatever their names, and of files without a name.
  // False: not within the bound (and that of the notifier).
  bool write_back(std::span<const WorkspacePath> places, std::span<const protocol::FileIdentity> files,
                  std::chrono::milliseconds bound);
  bool writes_back() const;
  void handle(const protocol::Event&) override;

  // For tests and status.
  std::size_t nodes() const;
  std::size_t open_handles() const;
  // What the kernel has asked, by the request's name ("LOOKUP"), and how often.
  std::vector<std::pair<std::string, std::uint64_t>> requests() const;
  // Whether a successor could go on from here: false without `state`, and when no space was left for it.
  bool state_kept() const;

  struct Impl;

 private:
  explicit FuseFront(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbroker::fuse
