#include "broker/watch/host_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <linux/magic.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>

#include "broker/files/file_stat.h"
#include "broker/watch/own_changes.h"
#include "broker/watch/watch_table.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

namespace {

using Clock = std::chrono::steady_clock;
using protocol::EventKind;
using protocol::FileIdentity;
using namespace std::chrono_literals;

// What makes a name appear, vanish or be another file.
constexpr std::uint32_t kEntryMask = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;
// What changes a file in place. IN_CLOSE_WRITE besides IN_MODIFY: stores through
// a mapping make no IN_MODIFY, but their file is closed some time.
constexpr std::uint32_t kContentMask = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE;
// The directory itself goes away or elsewhere.
constexpr std::uint32_t kSelfMask = IN_DELETE_SELF | IN_MOVE_SELF;
constexpr std::uint32_t kMask = kEntryMask | kContentMask | kSelfMask | IN_ONLYDIR | IN_EXCL_UNLINK;

// The broker notes its own change after the system call. Waiting this long
// before looking lets it, and gathers what belongs together.
constexpr auto kGather = 2ms;
// A name the session changed just now, found in another state: most likely in
// the middle of its next change. Looked at again so often before it is told.
constexpr unsigned kSecondLooks = 3;
constexpr auto kJustNow = 100ms;
constexpr auto kBurstWindow = 100ms;
constexpr unsigned kBurstLimit = 128;        // events of one directory told one by one in a window
constexpr std::size_t kMaxRechecks = 4096;
constexpr auto kUnusedLongEnough = 30s;      // younger watches are not given up for new ones
constexpr std::size_t kMostWatches = 65'536;

// File systems that change without this kernel's doing: inotify does not see it.
constexpr std::array<std::uint32_t, 10> kRemote{
    NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, 0xFF534D42 /* CIFS */, 0xFE534D42 /* SMB2 */,
    FUSE_SUPER_MAGIC, V9FS_MAGIC, CEPH_SUPER_MAGIC, AFS_SUPER_MAGIC, AFS_FS_MAGIC, CODA_SUPER_MAGIC};
// File systems with FS_MGTIME: a change after a look gets a change time of its own.
constexpr std::array<std::uint32_t, 4> kFineTimes{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,
                                                  BTRFS_SUPER_MAGIC, TMPFS_MAGIC};
constexpr auto kCoarsestTick = 20ms;         // two ticks at 100 Hz

bool kernel_has_fine_times() {
  utsname name{};
  unsigned major = 0, minor = 0;
  if (::uname(&name) != 0 || std::sscanf(name.release, "%u.%u", &major, &minor) != 2) return false;
  return major > 6 || (major == 6 && minor >= 13);
}

std::size_t default_limit() {
  std::size_t allowed = 8192;   // the kernel's oldest default
  std::ifstream("/proc/sys/fs/inotify/max_user_watches") >> allowed;
  return std::min(allowed / 2, kMostWatches);
}

std::string host_path_of(int fd) {
  char path[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = ::readlink(link.c_str(), path, sizeof path);
  return size > 0 ? std::string(path, static_cast<std::size_t>(size)) : std::string();
}

// What is to be told, gathered under the mutex and published without it.
struct Telling {
  EventKind kind;
  WorkspacePath path;
  FileIdentity identity;
};
using Tellings = std::vector<Telling>;

}  // namespace

struct HostWatch::Impl {
  Impl(EventBus& e, HostWatchOptions o, UniqueFd i, UniqueFd w)
      : events(e), options(o), inotify(std::move(i)), wake(std::move(w)),
        limit(o.max_watches != 0 ? o.max_watches : default_limit()) {}

  // One name of a watched directory ("" = the directory itself) to look at.
  struct Look {
    int watch;
    std::string name;
    bool entry;                  // else content
    bool directory;              // it is one, as far as the event says
    bool left;                   // it went from this name
    unsigned looks_left = kSecondLooks;
    bool tell_anyway = false;    // its state cannot show whether it changed again
  };
  using Descriptors = std::map<int, UniqueFd>;   // of watched directories, for one round

  void run();
  bool wait();
  std::vector<Look> read_events(Tellings& tellings);
  void take(const inotify_event& event, std::string_view name, std::vector<Look>& looks, Tellings&);
  void self_gone(Watch& watch, std::uint32_t mask, Tellings& tellings);
  void look(const Look& look, Descriptors& open, Tellings& tellings);
  bool is_echo(const Watch& watch, const Look& look, const Result<FileStat, Errno>& now);
  void tell(Watch& watch, const Look& look, const FileIdentity& identity, Tellings& tellings);
  void forget_subtree(const WorkspacePath& path, Tellings& tellings);
  void drop(Watch& watch);
  void end_bursts(Tellings& tellings);
  void later(Look look, Clock::duration delay);
  int directory_of(const Watch& watch, Descriptors& open) const;
  bool make_room(Tellings& tellings);
  bool add(int directory_fd, const FileIdentity& directory, const WorkspacePath& as, Tellings&);
  void publish(const Tellings& tellings);

  EventBus& events;
  const HostWatchOptions options;
  const UniqueFd inotify;
  const UniqueFd wake;             // eventfd: stop
  const std::size_t limit;
  const bool fine_times = kernel_has_fine_times();

  std::mutex mutex;                // guards all below; not held while publishing
  WatchTable watches;
  OwnChanges own;
  std::multimap<Clock::time_point, Look> rechecks;
  std::optional<Clock::time_point> bursts_end;   // the earliest

  std::thread thread;
};

// ---- watching ----------------------------------------------------------------

bool HostWatch::watch(int directory_fd, const FileIdentity& directory, const WorkspacePath& as) {
  Tellings tellings;
  bool watched = true;
  {
    const std::lock_guard lock(impl_->mutex);
    Watch* const found = impl_->watches.find(directory);
    if (found == nullptr) {
      watched = impl_->add(directory_fd, directory, as, tellings);
    } else {
      impl_->watches.touch(*found);
      if (found->path_is_stale) {
        found->host_path = host_path_of(directory_fd);
        found->path_is_stale = false;
      }
      if (std::find(found->names.begin(), found->names.end(), as) == found->names.end()) {
        watched = found->names.size() < WatchTable::kMaxNames;
        if (watched) found->names.push_back(as);
      }
    }
  }
  impl_->publish(tellings);
  return watched;
}

// ATTACK: by name, somebody could put another directory in its place between
//   opening and watching. /proc/self/fd/N is the opened directory itself.
bool HostWatch::Impl::add(int directory_fd, const FileIdentity& directory, const WorkspacePath& as,
                          Tellings& tellings) {
  struct statfs fs {};
  if (::fstatfs(directory_fd, &fs) != 0) return false;
  const auto type = static_cast<std::uint32_t>(fs.f_type);
  if (std::find(kRemote.begin(), kRemote.end(), type) != kRemote.end()) return false;
  if (watches.size() >= limit && !make_room(tellings)) return false;
  const std::string itself = "/proc/self/fd/" + std::to_string(directory_fd);
  const int number = ::inotify_add_watch(inotify.get(), itself.c_str(), kMask);
  if (number < 0) return false;
  if (Watch* same = watches.find(number)) {
    // The kernel knows it as one it watches, we by another identity: ours is old.
    for (const WorkspacePath& name : same->names) tellings.push_back({EventKind::forget, name, {}});
    watches.remove(*same);
  }
  Watch& watch = watches.add(number, directory);
  watch.host_path = host_path_of(directory_fd);
  watch.exact_times = !options.clock_tick && fine_times &&
                      std::find(kFineTimes.begin(), kFineTimes.end(), type) != kFineTimes.end();
  watch.names.push_back(as);
  return true;
}

// What is no longer watched must not be kept.
bool HostWatch::Impl::make_room(Tellings& tellings) {
  Watch* const oldest = watches.longest_unused();
  if (oldest == nullptr || Clock::now() - oldest->used < kUnusedLongEnough) return false;
  for (const WorkspacePath& name : oldest->names) tellings.push_back({EventKind::forget, name, {}});
  drop(*oldest);
  return true;
}

void HostWatch::Impl::drop(Watch& watch) {
  ::inotify_rm_watch(inotify.get(), watch.number);
  watches.remove(watch);
}

void HostWatch::own_change(const FileIdentity& directory, std::string_view name,
                           const FileIdentity& identity, const timespec& changed) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->watches.find(directory) == nullptr) return;
  impl_->own.note(directory, name == "." ? "" : name, {identity, changed, Clock::now()});
}

void HostWatch::moved(const WorkspacePath& from, const WorkspacePath& to) {
  const std::lock_guard lock(impl_->mutex);
  impl_->watches.rename(from, to);
}

// ---- the thread ----------------------------------------------------------------

void HostWatch::Impl::run() {
  while (wait()) {
    Tellings tellings;
    {
      const std::lock_guard lock(mutex);
      Descriptors open;
      for (const Look& one : read_events(tellings)) look(one, open, tellings);
      const auto now = Clock::now();
      while (!rechecks.empty() && rechecks.begin()->first <= now) {
        const Look again = std::move(rechecks.extract(rechecks.begin()).mapped());
        look(again, open, tellings);
      }
      end_bursts(tellings);
    }
    publish(tellings);
  }
}

// Until there is something to do; false: stop.
bool HostWatch::Impl::wait() {
  int timeout = -1;
  {
    const std::lock_guard lock(mutex);
    std::optional<Clock::time_point> next = bursts_end;
    if (!rechecks.empty() && (!next || rechecks.begin()->first < *next)) next = rechecks.begin()->first;
    if (next)
      timeout = std::max(0, static_cast<int>(
          std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now()).count()));
  }
  pollfd ends[] = {{inotify.get(), POLLIN, 0}, {wake.get(), POLLIN, 0}};
  ::poll(ends, 2, timeout);
  if ((ends[0].revents & POLLIN) != 0 && (ends[1].revents & POLLIN) == 0)
    ::poll(ends + 1, 1, static_cast<int>(std::chrono::milliseconds(kGather).count()));
  return (ends[1].revents & POLLIN) == 0;
}

// Events of one name and kind become one look: what counts is how it is now.
std::vector<HostWatch::Impl::Look> HostWatch::Impl::read_events(Tellings& tellings) {
  std::vector<Look> looks;
  alignas(inotify_event) char buffer[64 << 10];
  for (int rounds = 0; rounds < 16; ++rounds) {   // bounded; the rest is read next time
    const ssize_t size = ::read(inotify.get(), buffer, sizeof buffer);
    if (size <= 0) break;
    for (ssize_t at = 0; at < size;) {
      const auto& event = *reinterpret_cast<const inotify_event*>(buffer + at);
      const std::string_view name(event.len > 0 ? event.name : "", event.len > 0 ? ::strnlen(event.name, event.len) : 0);
      take(event, name, looks, tellings);
      at += static_cast<ssize_t>(sizeof event + event.len);
    }
  }
  const auto order = [](const Look& a, const Look& b) {
    return std::tie(a.watch, a.name, b.entry) < std::tie(b.watch, b.name, a.entry);  // entry first
  };
  std::stable_sort(looks.begin(), looks.end(), order);
  std::vector<Look> one_each;
  for (Look& one : looks) {
    if (!one_each.empty() && one_each.back().watch == one.watch && one_each.back().name == one.name) {
      one_each.back().left |= one.left;
      one_each.back().directory |= one.directory;
    } else {
      one_each.push_back(std::move(one));
    }
  }
  return one_each;
}

void HostWatch::Impl::take(const inotify_event& event, std::string_view name,
                           std::vector<Look>& looks, Tellings& tellings) {
  if ((event.mask & IN_Q_OVERFLOW) != 0) {
    tellings.push_back({EventKind::forget_all, {}, {}});
    own.clear();
    watches.for_each([](Watch& watch) { watch.own_moves = 0; });
    return;
  }
  Watch* const watch = watches.find(event.wd);
  if (watch == nullptr) return;   // given up meanwhile
  if ((event.mask & (kSelfMask | IN_IGNORED | IN_UNMOUNT)) != 0)
    return self_gone(*watch, event.mask, tellings);
  looks.push_back({event.wd, std::string(name), (event.mask & kEntryMask) != 0,
                   (event.mask & IN_ISDIR) != 0,
                   (event.mask & (IN_MOVED_FROM | IN_DELETE)) != 0});
}

// A directory that was moved away lives on under a name we do not know: what
// happens there is no longer ours to tell, and what was kept of it is wrong.
void HostWatch::Impl::self_gone(Watch& watch, std::uint32_t mask, Tellings& tellings) {
  if ((mask & IN_MOVE_SELF) != 0 && watch.own_moves > 0) {
    --watch.own_moves;
    return;
  }
  const std::vector<WorkspacePath> names = watch.names;
  if ((mask & IN_IGNORED) != 0) watches.remove(watch);
  for (const WorkspacePath& name : names) forget_subtree(name, tellings);
}

void HostWatch::Impl::forget_subtree(const WorkspacePath& path, Tellings& tellings) {
  tellings.push_back({EventKind::forget, path, {}});
  for (const int number : watches.drop_names(path))
    if (Watch* nameless = watches.find(number)) drop(*nameless);
}

// The directory open at its last known place, if it is the one; else -1.
int HostWatch::Impl::directory_of(const Watch& watch, Descriptors& open) const {
  const auto [slot, fresh] = open.try_emplace(watch.number);
  if (!fresh) return slot->second.get();
  if (open.size() > 64) {   // bounded; looks are sorted by directory
    open.clear();
    return directory_of(watch, open);
  }
  UniqueFd fd(::open(watch.host_path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  const auto stat = fd ? stat_of(fd.get()) : Result<FileStat, Errno>(Errno{ENOENT});
  if (stat && stat->identity == watch.directory) slot->second = std::move(fd);
  return slot->second.get();
}

void HostWatch::Impl::look(const Look& look, Descriptors& open, Tellings& tellings) {
  Watch* const watch = watches.find(look.watch);
  if (watch == nullptr) return;
  const int directory = directory_of(*watch, open);
  if (directory < 0) return tell(*watch, look, {}, tellings);
  const auto now = look.name.empty() ? stat_of(directory) : stat_at(directory, look.name.c_str());
  if (!look.tell_anyway && is_echo(*watch, look, now)) return;
  const bool moved_away = look.left && look.directory;
  if (moved_away)
    for (const WorkspacePath& as : std::vector<WorkspacePath>(watch->names))
      if (auto path = as.child(look.name)) forget_subtree(*path, tellings);
  if (Watch* still = watches.find(look.watch))
    tell(*still, look, now ? now->identity : FileIdentity{}, tellings);
}

// INVARIANT: silent only where the name is in the very state that the session
//   left it in, and that state can be no other's.
bool HostWatch::Impl::is_echo(const Watch& watch, const Look& look, const Result<FileStat, Errno>& now) {
  const auto noted = own.find(watch.directory, look.name);
  if (!noted) return false;
  const auto age = Clock::now() - noted->noted;
  const bool gone = !now && now.error() == Errno{ENOENT};
  const bool same = noted->identity.any()
                        ? gone
                        : now && now->identity == noted->identity &&
                              now->changed.tv_sec == noted->changed.tv_sec &&
                              now->changed.tv_nsec == noted->changed.tv_nsec;
  if (!same) {
    if (age > kJustNow || look.looks_left == 0) return false;
    Look again = look;
    --again.looks_left;
    later(std::move(again), kGather);
    return true;
  }
  // On a coarse clock the host may have changed it in the same tick, after us:
  // rather tell one event too many.
  const auto tick = options.clock_tick.value_or(watch.exact_times ? 0ms : kCoarsestTick);
  if (!gone && tick > 0ms && age <= tick) {
    Look again = look;
    again.tell_anyway = true;
    later(std::move(again), tick);
  }
  return true;
}

void HostWatch::Impl::later(Look look, Clock::duration delay) {
  const auto same = [&](const auto& item) {
    return item.second.watch == look.watch && item.second.name == look.name;
  };
  // Bounded; and one name needs no more than one. (Few wait at a time.)
  if (const auto found = std::find_if(rechecks.begin(), rechecks.end(), same); found != rechecks.end()) {
    found->second.entry |= look.entry;
    found->second.tell_anyway |= look.tell_anyway;
    return;
  }
  if (rechecks.size() >= kMaxRechecks) {
    look.tell_anyway = true;
    rechecks.emplace(Clock::now(), std::move(look));   // this round
    return;
  }
  rechecks.emplace(Clock::now() + delay, std::move(look));
}

void HostWatch::Impl::tell(Watch& watch, const Look& look, const FileIdentity& identity,
                           Tellings& tellings) {
  const auto now = Clock::now();
  if (now >= watch.window_end) {
    watch.window_end = now + kBurstWindow;
    watch.told_in_window = 0;
  }
  if (++watch.told_in_window > kBurstLimit) {
    if (watch.told_in_window == kBurstLimit + 1)
      for (const WorkspacePath& as : watch.names) tellings.push_back({EventKind::forget, as, {}});
    else
      watch.forget_at_end = true;
    bursts_end = std::min(bursts_end.value_or(watch.window_end), watch.window_end);
    return;
  }
  for (const WorkspacePath& as : watch.names) {
    const auto path = look.name.empty() ? Result<WorkspacePath, Errno>(as) : as.child(look.name);
    if (path) tellings.push_back({look.entry ? EventKind::entry : EventKind::content, *path, identity});
  }
}

void HostWatch::Impl::end_bursts(Tellings& tellings) {
  const auto now = Clock::now();
  if (!bursts_end || *bursts_end > now) return;
  bursts_end.reset();
  watches.for_each([&](Watch& watch) {
    if (!watch.forget_at_end) return;
    if (watch.window_end > now) {
      bursts_end = std::min(bursts_end.value_or(watch.window_end), watch.window_end);
      return;
    }
    watch.forget_at_end = false;
    for (const WorkspacePath& as : watch.names) tellings.push_back({EventKind::forget, as, {}});
  });
}

void HostWatch::Impl::publish(const Tellings& tellings) {
  for (const Telling& telling : tellings) events.publish(telling.kind, telling.path, telling.identity);
}

// ---- the class -------------------------------------------------------------------

Result<std::unique_ptr<HostWatch>> HostWatch::start(EventBus& events, HostWatchOptions options) {
  UniqueFd inotify(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify)
    return Error{"inotify", std::string("cannot be had: ") + std::strerror(errno) +
                                " (see fs.inotify.max_user_instances)"};
  UniqueFd wake(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake) return Error{"eventfd", std::strerror(errno)};
  auto impl = std::make_unique<Impl>(events, options, std::move(inotify), std::move(wake));
  impl->thread = std::thread([running = impl.get()] { running->run(); });
  return std::unique_ptr<HostWatch>(new HostWatch(std::move(impl)));
}

HostWatch::HostWatch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HostWatch::~HostWatch() {
  const std::uint64_t one = 1;
  (void)!::write(impl_->wake.get(), &one, sizeof one);
  impl_->thread.join();
}

}  // namespace fbroker::broker
