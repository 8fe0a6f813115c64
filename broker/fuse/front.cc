#include "broker/fuse/front.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "broker/fuse/device.h"
#include "broker/fuse/front_impl.h"

namespace fbroker::fuse {

using protocol::Event;
using protocol::EventKind;

namespace {

constexpr std::size_t kManyNames = 20'000;

// The channel of the request being served: an answer must go where the
// request came from. -1 in threads that serve none.
thread_local int t_channel = -1;

ssize_t channel_read(int fd, void* into, size_t size, void*) { return ::read(fd, into, size); }

// libfuse prints every error but ENOENT to stderr. What fails here (a mount
// that is gone, an inode the kernel has dropped) is no news to anybody.
ssize_t channel_write(int fd, iovec* parts, int count, void*) {
  // INVARIANT: what a change answered is stored before it is sent (intents.h).
  if (const Serving& now = serving(); now.slot != nullptr || now.swallow != nullptr)
    if (const auto swallowed = note_answer(now, {parts, static_cast<std::size_t>(count)})) return *swallowed;
  const ssize_t written = ::writev(t_channel >= 0 ? t_channel : fd, parts, count);
  if (written < 0) errno = ENOENT;
  return written;
}

constexpr fuse_custom_io kChannelIo{channel_write, channel_read, nullptr, nullptr};

Error system_error(const char* what) {
  return Error{what, std::strerror(errno)};
}

// ---- serving

// One thread's epoll set: its channel, and the end. EPOLLEXCLUSIVE, so that a
// request wakes one thread and not all of them.
Result<UniqueFd> waiting_for(int channel, int stop_event) {
  UniqueFd set(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event request{EPOLLIN | EPOLLEXCLUSIVE, {.fd = channel}};
  epoll_event stop{EPOLLIN, {.fd = stop_event}};
  if (!set || ::epoll_ctl(set.get(), EPOLL_CTL_ADD, channel, &request) != 0 ||
      ::epoll_ctl(set.get(), EPOLL_CTL_ADD, stop_event, &stop) != 0)
    return system_error("epoll");
  return set;
}

enum class Wait { request, stop };

Wait wait_for_request(int set, int stop_event) {
  for (;;) {
    epoll_event ready[2];
    const int count = ::epoll_wait(set, ready, 2, -1);
    if (count < 0 && errno == EINTR) continue;
    for (int i = 0; i < count; ++i)
      if (ready[i].data.fd == stop_event) return Wait::stop;
    return count > 0 ? Wait::request : Wait::stop;
  }
}

// What an earlier process left comes first.
void serve_sent_again(FuseFront::Impl& front, IntentSlot* slot) {
  t_channel = front.devices.front().get();
  for (;;) {
    std::vector<std::byte> request;
    {
      const std::lock_guard lock(front.sent_again_mutex);
      if (front.sent_again.empty()) return;
      request = std::move(front.sent_again.front());
      front.sent_again.pop_front();
    }
    serve_request(front, t_channel, request, slot);
  }
}

void serve(FuseFront::Impl& front, int channel, int set) {
  // Written to now: a page that is not there makes the kernel look for a
  // signal in the middle of a request, and a process that is being killed
  // would answer it with EIO.
  const auto memory = std::make_unique<std::byte[]>(kBufferBytes);
  IntentSlot* const slot = front.intents ? front.intents->take() : nullptr;
  serve_sent_again(front, slot);
  t_channel = channel;
  while (!fuse_session_exited(front.session.get())) {
    if (wait_for_request(set, front.stop_event.get()) == Wait::stop && !front.forgetting) break;
    const ssize_t size = ::read(channel, memory.get(), kBufferBytes);
    if (size < 0) {
      // EAGAIN: another thread has it. ENOENT: it was interrupted meanwhile.
      if (errno == EAGAIN || errno == EINTR || errno == ENOENT) continue;
      if (errno != ENODEV) front.failure = errno;  // ENODEV: unmounted or aborted
      break;
    }
    serve_request(front, channel, {memory.get(), static_cast<std::size_t>(size)}, slot);
    if (front.initialised && front.init_answer.empty() && !front.announced.exchange(true) &&
        front.options.on_ready)
      front.options.on_ready();
  }
  if (slot != nullptr) front.intents->give_back(slot);
  fuse_session_exit(front.session.get());
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(front.stop_event.get(), &one, sizeof one);
}

// ---- telling the kernel

bool kernel_has(const FuseFront::Impl& front, unsigned minor) { return front.kernel_minor.load() >= minor; }

void tell_names(const FuseFront::Impl& front, const std::vector<Affected::Entry>& entries, bool keep_directories,
                Notices& notices) {
  for (const Affected::Entry& entry : entries) {
    // An expired directory is looked up again and stays what it is for those
    // who stand in it; an invalidated one would be cut off from its parent.
    if (keep_directories && entry.directory && kernel_has(front, kMinorOfExpire))
      notices.expire_name(entry.parent, entry.name);
    else
      notices.forget_name(entry.parent, entry.name);
  }
}

// Waits until look-ups whose answers are on their way have installed them:
// takes and gives back each directory's lock. No directory has a name ".".
void fence(const std::vector<NodeId>& directories, Notices& notices) {
  for (const NodeId directory : directories) notices.forget_name(directory, ".");
}

void sort_unique(std::vector<NodeId>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

// `forget_names`: what has changed on the host loses its names, too. A kernel
// that writes back keeps a file's size until it has let go of the file.
Affected affected_by(InodeTable& nodes, const Event& event, bool forget_names) {
  switch (event.kind) {
    case EventKind::forget: return nodes.below(event.path, event.identity, false);
    case EventKind::retire: return nodes.below(event.path, event.identity, true);
    case EventKind::entry: return nodes.entry(event.path, event.identity);
    case EventKind::content: return nodes.content(event.path, event.identity, forget_names);
    case EventKind::forget_all: break;
  }
  return nodes.everything();
}

}  // namespace

// ---- life

FuseFront::FuseFront(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FuseFront::~FuseFront() = default;

Result<std::unique_ptr<FuseFront>> FuseFront::create(protocol::FileService& service,
                                                     std::vector<UniqueFd> devices,
                                                     Options options,
                                                     std::unique_ptr<Notifier> notifier) {
  if (devices.empty()) return Error{"fuse", "no device"};
  options.threads = std::clamp(options.threads, 1U, 16U);
  auto impl = std::make_unique<Impl>(service, std::move(options));
  impl->stop_event = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->stop_event) return system_error("eventfd");
  for (const UniqueFd& device : devices) {
    // A thread must never be held in a read by whoever else has the device.
    const int flags = ::fcntl(device.get(), F_GETFL);
    if (flags < 0 || ::fcntl(device.get(), F_SETFL, flags | O_NONBLOCK) != 0)
      return system_error("fuse device");
  }

  std::string program = "fbroker", option = "-o", max_read = "max_read=" + std::to_string(kMaxTransfer);
  char* arguments[] = {program.data(), option.data(), max_read.data(), nullptr};
  fuse_args args = FUSE_ARGS_INIT(3, arguments);
  impl->session.reset(fuse_session_new(&args, &operations(), sizeof(fuse_lowlevel_ops), impl.get()));
  fuse_opt_free_args(&args);
  if (!impl->session) return Error{"fuse", "libfuse refused the session"};
  // libfuse closes the descriptor that it is given.
  const int first = ::fcntl(devices.front().get(), F_DUPFD_CLOEXEC, 3);
  if (first < 0) return system_error("fuse device");
  if (fuse_session_custom_io(impl->session.get(), &kChannelIo, first) != 0) {
    ::close(first);
    return Error{"fuse", "libfuse refused the device"};
  }
  impl->devices = std::move(devices);
  impl->notifier = std::move(notifier);
  if (!impl->notifier) impl->notifier = std::make_unique<DirectNotifier>(impl->devices.front().get());
  if (!impl->options.state.empty()) FBROKER_TRY_VOID(open_state(*impl));
  return std::unique_ptr<FuseFront>(new FuseFront(std::move(impl)));
}

Result<void> FuseFront::run() {
  std::vector<UniqueFd> sets;
  for (unsigned i = 0; i < impl_->options.threads; ++i) {
    const int channel = impl_->devices[i % impl_->devices.size()].get();
    FBROKER_TRY(UniqueFd set, waiting_for(channel, impl_->stop_event.get()));
    sets.push_back(std::move(set));
  }
  const bool resumed = !impl_->init_answer.empty();
  if (resumed) ask_again(*impl_);
  impl_->forgetting = resumed;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < impl_->options.threads; ++i) {
    const int channel = impl_->devices[i % impl_->devices.size()].get();
    threads.emplace_back([this, channel, set = sets[i].get()] { serve(*impl_, channel, set); });
  }
  if (resumed) {
    // Nobody has watched the host since the earlier process was killed.
    Event everything;
    everything.kind = EventKind::forget_all;
    tell(everything);
    impl_->forgetting = false;
    if (!impl_->announced.exchange(true) && impl_->options.on_ready) impl_->options.on_ready();
  }
  for (std::thread& thread : threads) thread.join();
  for (const OpenHandle& handle : impl_->handles.take_all())
    if (handle.service != 0) impl_->service.close({}, handle.service);
  if (impl_->failure != 0)
    return Error{"fuse device", std::strerror(impl_->failure)};
  return ok;
}

void FuseFront::stop() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(impl_->stop_event.get(), &one, sizeof one);
}

bool FuseFront::tell(const Event& event) {
  const std::lock_guard telling(impl_->telling);
  {
    // INVARIANT: counted before anything is forgotten, so that a reply that is
    // not in the kernel by now cannot be kept there.
    const std::unique_lock lock(impl_->gate);
    impl_->events.add(event);
  }
  Affected affected = affected_by(impl_->nodes, event, impl_->writes_back);
  sort_unique(affected.directories);
  sort_unique(affected.nodes);
  // An epoch makes the kernel let go of every name and with them of pages
  // everywhere: for when everything is meant, or next to it.
  const bool everything = event.kind == EventKind::forget_all || event.path.is_root();
  const bool by_epoch = (everything || affected.entries.size() > kManyNames) && impl_->options.use_epoch &&
                        kernel_has(*impl_, kMinorOfEpoch);
  Notices notices;
  if (by_epoch) notices.next_epoch();
  else tell_names(*impl_, affected.entries, !everything, notices);
  fence(affected.directories, notices);
  for (const NodeId node : affected.nodes) notices.forget_inode(node);
  return notices.empty() || impl_->notifier->tell(notices);
}

void FuseFront::handle(const Event& event) { tell(event); }

// Invalidating an inode writes its dirty pages first (invalidate_inode_pages2).
bool FuseFront::write_back(std::span<const WorkspacePath> places, std::span<const protocol::FileIdentity> files,
                           std::chrono::milliseconds bound) {
  if (!impl_->writes_back) return true;
  // Who closes a file waits until it is written: only open files have dirty pages.
  std::vector<NodeId> written = impl_->handles.written();
  sort_unique(written);
  Notices notices;
  for (const NodeId node : written) {
    const auto view = impl_->nodes.view(node);
    if (!view) continue;   // retired: nothing of it would be taken
    const bool meant =
        view->names.empty() || std::ranges::find(files, view->identity) != files.end() ||
        std::ranges::any_of(view->names, [&](const NodeName& name) {
          return std::ranges::any_of(places, [&](const WorkspacePath& place) { return name.path.is_at_or_below(place); });
        });
    if (meant) notices.forget_inode(node);
  }
  if (notices.empty()) return true;
  const std::unique_lock telling(impl_->telling, bound);
  return telling.owns_lock() && impl_->notifier->tell(notices);
}

bool FuseFront::writes_back() const { return impl_->writes_back; }

std::size_t FuseFront::nodes() const { return impl_->nodes.size(); }
std::size_t FuseFront::open_handles() const { return impl_->handles.size(); }
std::vector<std::pair<std::string, std::uint64_t>> FuseFront::requests() const {
  constexpr std::pair<std::uint32_t, const char*> kNames[]{
      {FUSE_LOOKUP, "LOOKUP"},   {FUSE_FORGET, "FORGET"},   {FUSE_BATCH_FORGET, "BATCH_FORGET"},
      {FUSE_GETATTR, "GETATTR"}, {FUSE_SETATTR, "SETATTR"}, {FUSE_ACCESS, "ACCESS"},
      {FUSE_READLINK, "READLINK"}, {FUSE_SYMLINK, "SYMLINK"}, {FUSE_MKNOD, "MKNOD"},
      {FUSE_MKDIR, "MKDIR"},     {FUSE_UNLINK, "UNLINK"},   {FUSE_RMDIR, "RMDIR"},
      {FUSE_RENAME, "RENAME"},   {FUSE_RENAME2, "RENAME2"}, {FUSE_LINK, "LINK"},
      {FUSE_OPEN, "OPEN"},       {FUSE_CREATE, "CREATE"},   {FUSE_READ, "READ"},
      {FUSE_WRITE, "WRITE"},     {FUSE_FLUSH, "FLUSH"},     {FUSE_FSYNC, "FSYNC"},
      {FUSE_RELEASE, "RELEASE"}, {FUSE_OPENDIR, "OPENDIR"}, {FUSE_READDIR, "READDIR"},
      {FUSE_READDIRPLUS, "READDIRPLUS"}, {FUSE_RELEASEDIR, "RELEASEDIR"}, {FUSE_FSYNCDIR, "FSYNCDIR"},
      {FUSE_STATFS, "STATFS"},   {FUSE_GETXATTR, "GETXATTR"}, {FUSE_INIT, "INIT"}};
  std::vector<std::pair<std::string, std::uint64_t>> counts;
  for (std::size_t opcode = 0; opcode < impl_->requests.size(); ++opcode) {
    const std::uint64_t count = impl_->requests[opcode].load(std::memory_order_relaxed);
    if (count == 0) continue;
    const auto known = std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& one) { return one.first == opcode; });
    counts.emplace_back(known != std::end(kNames) ? known->second : "opcode " + std::to_string(opcode), count);
  }
  return counts;
}

bool FuseFront::state_kept() const {
  return impl_->intents && !impl_->nodes.journal_given_up() && !impl_->handles.journal_given_up();
}

}  // namespace fbroker::fuse
