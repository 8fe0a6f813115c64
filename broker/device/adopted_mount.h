// AdoptedMount: a sandbox's workspace, served over the device that its first
// process gave away (design section 6, way 2).
//
// It listens to the session's events as every client does, and acknowledges
// one when the kernel has forgotten. Where the kernel does not within a bound
// (helper_notifier.h), it goes on trying; until then nothing is acknowledged,
// and a revoke that waits for it has the sandbox killed and the connection
// aborted.
//
// It outlives its broker (design section 9): the kept state says what the
// kernel knows, and the keeper has the device.
// Threads: all members, any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "broker/device/fuse_connection.h"
#include "broker/device/mount_state.h"
#include "broker/device/receive.h"
#include "broker/fuse/front.h"
#include "broker/sessions/event_bus.h"

namespace fbroker::broker {

class AdoptedMount {
 public:
  // Serves at once; the kernel's first request is waiting. All of it outlives the mount.
  // `state`: where it goes on from, and keeps what the next broker needs.
  // Errors: the connection cannot be aborted, a process or thread not started;
  // what was kept is damaged: then the kernel holds what nobody can make it forget.
  // `write_back`: as fuse::Options'; of no effect on one that is gone on with.
  static Result<std::unique_ptr<AdoptedMount>> start(OfferedDevice device, pid_t mounted_by,
                                                     protocol::FileService& files, EventBus& events,
                                                     std::unique_ptr<MountState> state, bool write_back);
  // Stops serving: calls fail from then on, as nobody has the device any more.
  ~AdoptedMount();

  // Whether the kernel has begun to use it, or does within `bound`.
  bool wait_ready(std::chrono::milliseconds bound);
  // Unmounted, or aborted: what the kernel knew of it is gone.
  bool ended() const noexcept { return ended_.load(); }
  void abort() const noexcept { connection_.abort(); }

  // As fuse::FuseFront's, with a bound. Blocks; not to be called while serving.
  bool write_back(std::span<const WorkspacePath> places, std::span<const protocol::FileIdentity> files);
  bool writes_back() const { return front_->writes_back(); }

  std::uint32_t connection() const noexcept { return connection_.number(); }
  const fuse::FuseFront& front() const noexcept { return *front_; }

 private:
  AdoptedMount(FuseConnection connection, std::unique_ptr<MountState> state)
      : connection_(std::move(connection)), state_(std::move(state)) {}
  void listen(EventBus& events);
  void tell_events();
  void catch_up();
  bool wait_woken(std::chrono::milliseconds bound);

  FuseConnection connection_;
  std::unique_ptr<MountState> state_;
  std::unique_ptr<fuse::FuseFront> front_;
  std::thread serving_, telling_;
  std::atomic<bool> ended_{false};

  std::mutex mutex_;                  // guards what follows; a leaf
  std::condition_variable changed_;
  bool ready_ = false;
  bool woken_ = false;                // there are events to take
  bool stopping_ = false;

  // Of the telling thread alone.
  std::unique_ptr<EventBus::Subscription> subscription_;
  std::uint64_t taken_ = 0;           // the last event that was taken
  bool behind_ = false;               // one of them could not be told
};

}  // namespace fbroker::broker
