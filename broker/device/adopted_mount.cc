#include "broker/device/adopted_mount.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "broker/device/helper_notifier.h"

namespace fbroker::broker {

using protocol::Event;
using protocol::EventKind;
using std::chrono::milliseconds;

namespace {

// Shorter than what a revoke waits, so that it does not wait for a second try.
constexpr milliseconds kTellBound{1500};
constexpr milliseconds kFirstPause{10}, kLongestPause{1000};   // between tries to catch up
constexpr milliseconds kForEver{24 * 3600 * 1000};

// INVARIANT: all that we answer for belongs to the connection that we notify
//   and can abort.
// ATTACK: a second mount's device offered as a channel of the first; nothing
//   would ever make that kernel forget. Where the kernel does not say whose a
//   device is, only the first is used.
Result<void> keep_channels_of(const FuseConnection& connection, std::vector<UniqueFd>& devices) {
  for (std::size_t i = devices.size(); i-- > 1;) {
    const auto number = FuseConnection::number_of(devices[i].get());
    if (number && *number != connection.number()) return Error{"device", "its channels are of several mounts"};
    if (!number) devices.erase(devices.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return ok;
}

// A FUSE mount may have little dirty before its writers are held up (1 % of what
// all may have, strictly). Where we may not lift that (who is not root), it stays.
void lift_dirty_limit(std::uint32_t connection) {
  const std::string limit = "/sys/class/bdi/0:" + std::to_string(connection) + "/strict_limit";   // Linux 6.2
  const UniqueFd fd(::open(limit.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd) [[maybe_unused]] const auto written = ::write(fd.get(), "0", 1);
}

}  // namespace

Result<std::unique_ptr<AdoptedMount>> AdoptedMount::start(OfferedDevice device, pid_t mounted_by,
                                                          protocol::FileService& files, EventBus& events,
                                                          std::unique_ptr<MountState> state, bool write_back) {
  const int first = device.devices.front().get();
  FBROKER_TRY(FuseConnection connection, FuseConnection::of(first, mounted_by));
  FBROKER_TRY_VOID(keep_channels_of(connection, device.devices));
  FBROKER_TRY(auto notifier, HelperNotifier::start(first, kTellBound));
  std::unique_ptr<AdoptedMount> mount(new AdoptedMount(std::move(connection), std::move(state)));
  fuse::Options options;
  options.uid = device.offer.uid;
  options.gid = device.offer.gid;
  options.threads = static_cast<unsigned>(device.devices.size());
  options.on_ready = [raw = mount.get()] {
    const std::lock_guard lock(raw->mutex_);
    raw->ready_ = true;
    raw->changed_.notify_all();
  };
  if (write_back) lift_dirty_limit(mount->connection());
  std::optional<Error> lost;
  options.write_back = write_back;
  options.state = mount->state_->files();
  options.resume = mount->state_->resumes();
  options.keeping = mount->state_.get();
  options.on_state_lost = [&lost](const Error& why) { lost = why; };   // during create() alone
  FBROKER_TRY(mount->front_,
              fuse::FuseFront::create(files, std::move(device.devices), std::move(options), std::move(notifier)));
  if (lost) return *lost;
  mount->listen(events);
  mount->serving_ = std::thread([raw = mount.get()] {
    (void)raw->front_->run();   // why it ended is nobody's to mend
    raw->ended_ = true;
  });
  return mount;
}

AdoptedMount::~AdoptedMount() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (telling_.joinable()) telling_.join();   // first: a notification may wait for a request
  front_->stop();
  if (serving_.joinable()) serving_.join();
}

bool AdoptedMount::wait_ready(milliseconds bound) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, bound, [this] { return ready_; });
}

bool AdoptedMount::write_back(std::span<const WorkspacePath> places, std::span<const protocol::FileIdentity> files) {
  return ended() || front_->write_back(places, files, kTellBound);
}

// ---- events

void AdoptedMount::listen(EventBus& events) {
  subscription_ = events.subscribe([this] {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  });
  telling_ = std::thread([this] { tell_events(); });
}

bool AdoptedMount::wait_woken(milliseconds bound) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, bound, [this] { return woken_ || stopping_; });
  woken_ = false;
  return !stopping_;
}

void AdoptedMount::tell_events() {
  while (wait_woken(kForEver)) {
    for (const Event& event : subscription_->take()) {
      if (!front_->tell(event)) behind_ = true;
      taken_ = std::max(taken_, event.sequence);
      // INVARIANT: an acknowledgement speaks for all events before it.
      if (!behind_) subscription_->acknowledge(event.sequence);
    }
    if (behind_) catch_up();
  }
}

// What could not be told is told as "everything". What a retirement did to the
// tables was done at once; only the kernel's part is behind.
void AdoptedMount::catch_up() {
  for (milliseconds pause = kFirstPause; behind_; pause = std::min(2 * pause, kLongestPause)) {
    {
      std::unique_lock lock(mutex_);
      if (changed_.wait_for(lock, pause, [this] { return stopping_; })) return;
    }
    for (const Event& event : subscription_->take()) {
      if (event.kind == EventKind::retire) (void)front_->tell(event);
      taken_ = std::max(taken_, event.sequence);
    }
    behind_ = !front_->tell({0, EventKind::forget_all, {}, {}});
  }
  subscription_->acknowledge(taken_);
}

}  // namespace fbroker::broker
