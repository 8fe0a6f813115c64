// Going on where a killed process was: its tables, its handles, and the
// requests that it had not answered.
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "broker/fuse/front_impl.h"

namespace fbroker::fuse {

using protocol::Caller;
using protocol::FileIdentity;
using protocol::FileRef;
using protocol::FileType;
using protocol::HandleId;
using protocol::Lookup;
using protocol::Opened;

namespace {

using Impl = FuseFront::Impl;

// A killed process leaves what its threads had in hand; more can only be what
// a client took from a copy of the device.
constexpr std::size_t kMaxSentAgain = 64;

fuse_in_header header_of(std::span<const std::byte> request) {
  fuse_in_header header;
  std::memcpy(&header, request.data(), sizeof header);
  return header;
}

bool is_answered(std::uint32_t opcode) { return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT; }

// Sends an answer that was made for `unique` under the number it is waited for.
bool send(int channel, std::span<const std::byte> answer, std::uint64_t unique) {
  std::vector<std::byte> bytes(answer.begin(), answer.end());
  std::memcpy(bytes.data() + offsetof(fuse_out_header, unique), &unique, sizeof unique);
  return ::write(channel, bytes.data(), bytes.size()) >= 0;
}

std::span<const std::byte> answer_of(const IntentSlot& slot) { return std::span(slot.reply).first(slot.reply_bytes); }

// Ids of tables that know nothing begin so far away that none of those that
// were given out before is among them: a slot would have had to be used again
// a thousand million times.
std::uint32_t generation_elsewhere() {
  std::uint32_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) random = 0;
  return (1U << 30) + ((random ^ static_cast<std::uint32_t>(::time(nullptr))) & ((1U << 30) - 1));
}

// A second copy of INIT: without it nothing can be gone on with.
Result<void> write_file(const std::string& path, std::span<const std::byte> bytes) {
  const std::string beside = path + ".new";
  ::unlink(beside.c_str());
  const UniqueFd fd(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd || ::write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      ::rename(beside.c_str(), path.c_str()) != 0)
    return Error{path, std::string("cannot be written: ") + std::strerror(errno)};
  return ok;
}

std::vector<std::byte> read_file(const std::string& path, std::size_t max) {
  std::vector<std::byte> bytes(max);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  const ssize_t size = fd ? ::read(fd.get(), bytes.data(), bytes.size()) : -1;
  bytes.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
  return bytes;
}

bool is_init(std::span<const std::byte> request) {
  return is_whole_request(request) && header_of(request).opcode == FUSE_INIT;
}

// INIT as a successor will read it. INVARIANT: of write-back it says what was
// agreed on, not what the kernel could do: a successor is bound by it, whatever
// the policy says by then.
std::vector<std::byte> agreed_init(std::span<const std::byte> request, bool write_back) {
  std::vector<std::byte> agreed(request.begin(), request.end());
  constexpr std::size_t kFlags = sizeof(fuse_in_header) + offsetof(fuse_init_in, flags);
  std::uint32_t flags = 0;
  if (write_back || agreed.size() < kFlags + sizeof flags) return agreed;
  std::memcpy(&flags, agreed.data() + kFlags, sizeof flags);
  flags &= ~static_cast<std::uint32_t>(FUSE_WRITEBACK_CACHE);
  std::memcpy(agreed.data() + kFlags, &flags, sizeof flags);
  return agreed;
}

void lost(const Impl& front, const Error& error) {
  if (front.options.on_state_lost) front.options.on_state_lost(error);
}

Result<void> begin_state(Impl& front) {
  const std::string& state = front.options.state;
  ::unlink((state + ".init").c_str());
  FBROKER_TRY(front.intents, Intents::create(state + ".intents"));
  FBROKER_TRY_VOID(front.nodes.keep_in(state + ".nodes"));
  return front.handles.keep_in(state + ".handles");
}

Result<void> resume_tables(Impl& front) {
  const std::string& state = front.options.state;
  if (const auto nodes = front.nodes.resume(state + ".nodes"); !nodes) {
    lost(front, nodes.error());
    front.nodes.start_over(generation_elsewhere());
    FBROKER_TRY_VOID(front.nodes.keep_in(state + ".nodes"));
  }
  if (const auto handles = front.handles.resume(state + ".handles"); !handles) {
    lost(front, handles.error());
    front.handles.start_over(generation_elsewhere());
    FBROKER_TRY_VOID(front.handles.keep_in(state + ".handles"));
  }
  return ok;
}

Result<std::vector<std::byte>> resume_intents(Impl& front) {
  const std::string& state = front.options.state;
  auto intents = Intents::load(state + ".intents");
  std::vector<std::byte> init = read_file(state + ".init", Intents::kMaxInit);
  if (intents) {
    front.intents = std::move(*intents);
    if (const auto kept = front.intents->init(); !kept.empty()) init.assign(kept.begin(), kept.end());
  } else {
    // Made whole before anything is served: it is missing only where nothing was.
    if (init.empty() && ::access((state + ".intents").c_str(), F_OK) == 0) return intents.error();
    if (!init.empty()) lost(front, intents.error());
    FBROKER_TRY(front.intents, Intents::create(state + ".intents"));
    if (is_init(init)) front.intents->keep_init(init);
  }
  if (!init.empty() && !is_init(init)) return Error{state + ".init", "is damaged: it holds no INIT"};
  return init;
}

}  // namespace

bool is_whole_request(std::span<const std::byte> request) {
  return request.size() >= sizeof(fuse_in_header) && header_of(request).len == request.size();
}

// ---- the files

Result<void> open_state(Impl& front) {
  if (!front.options.resume) return begin_state(front);
  FBROKER_TRY(std::vector<std::byte> init, resume_intents(front));
  // Killed before the kernel said anything.
  if (init.empty() && front.intents->left().empty()) return begin_state(front);
  if (init.empty()) return Error{front.options.state + ".init", "is gone: nothing says what was agreed on with the kernel"};
  FBROKER_TRY_VOID(resume_tables(front));
  front.resuming_init = true;
  serving() = {nullptr, false, &front.init_answer};
  fuse_buf buffer{};
  buffer.mem = init.data();
  buffer.size = init.size();
  fuse_session_process_buf(front.session.get(), &buffer);
  serving() = {};
  if (!front.initialised) return Error{front.options.state + ".init", "was refused by libfuse"};
  return ok;
}

// ---- requests

void ask_again(Impl& front) {
  if (front.kernel_minor < kMinorOfResend) {
    // Nobody knows what else was read; what is known to wait is not left waiting.
    for (const IntentSlot* slot : front.intents->left()) {
      fuse_out_header failed{sizeof failed, -EIO, slot->unique};
      const auto answer = slot->state == IntentSlot::done ? answer_of(*slot) : std::as_bytes(std::span(&failed, 1));
      for (const UniqueFd& device : front.devices)
        if (send(device.get(), answer, slot->unique)) break;
    }
    return front.intents->drop_left_except({});
  }
  Notices notices;
  notices.send_again();
  front.notifier->tell(notices);
  // What comes again comes before anything new.
  const int channel = front.devices.front().get();
  const auto memory = std::make_unique<std::byte[]>(kBufferBytes);
  std::vector<std::uint64_t> uniques;
  bool all = false;
  while (!all && front.sent_again.size() < kMaxSentAgain) {
    const ssize_t size = ::read(channel, memory.get(), kBufferBytes);
    if (size < 0 && (errno == EINTR || errno == ENOENT)) continue;
    if (size < 0) all = true;   // EAGAIN, or the serving threads will see why
    const std::span<const std::byte> request(memory.get(), size < 0 ? 0 : static_cast<std::size_t>(size));
    if (!is_whole_request(request)) continue;
    const fuse_in_header header = header_of(request);
    front.sent_again.emplace_back(request.begin(), request.end());
    if ((header.unique & kSentAgain) != 0) uniques.push_back(header.unique & ~kSentAgain);
    else if (is_answered(header.opcode)) all = true;
  }
  if (all) front.intents->drop_left_except(uniques);
}

void serve_request(Impl& front, int channel, std::span<std::byte> request, IntentSlot* own) {
  if (!is_whole_request(request)) return;
  const fuse_in_header header = header_of(request);
  front.requests[std::min<std::size_t>(header.opcode, front.requests.size() - 1)].fetch_add(1, std::memory_order_relaxed);
  Serving& now = serving();
  now = {};
  IntentSlot* left = nullptr;
  if (front.intents) {
    if (header.opcode == FUSE_INIT) {
      // It can come again where a process was killed before the answer was out.
      if (!front.init_answer.empty()) {
        send(channel, front.init_answer, header.unique);
        return;
      }
      const std::vector<std::byte> agreed = agreed_init(request, front.options.write_back);
      if (const auto kept = write_file(front.options.state + ".init", agreed); !kept) lost(front, kept.error());
      front.intents->keep_init(agreed);
    }
    if ((header.unique & kSentAgain) != 0) left = front.intents->resume(header.unique & ~kSentAgain);
    if (left != nullptr && left->state == IntentSlot::done) {
      send(channel, answer_of(*left), header.unique);
      return front.intents->give_back(left);
    }
    now.slot = left != nullptr ? left : own;
    now.begun_before = left != nullptr;
    if (left == nullptr && own != nullptr) {
      if (is_answered(header.opcode)) own->begin(header.unique & ~kSentAgain, header.opcode);
      else now.slot = nullptr;
    }
  }
  fuse_buf buffer{};
  buffer.mem = request.data();
  buffer.size = request.size();
  fuse_session_process_buf(front.session.get(), &buffer);
  now = {};
  if (left != nullptr) front.intents->give_back(left);
  else if (own != nullptr) own->clear();
}

// ---- handles

namespace {

// A descriptor that was opened for reading too is taken over as that.
int flags_of_kept(int flags) {
  if ((flags & protocol::kAlsoRead) != 0 && (flags & O_ACCMODE) == O_WRONLY) flags = (flags & ~O_ACCMODE) | O_RDWR;
  return flags & ~(protocol::kAlsoRead | kOthersWrite);
}

}  // namespace

Result<HandleId, Errno> wake(Impl& front, const Caller& caller, std::uint64_t id, const OpenHandle& open) {
  if (open.service != 0) return open.service;
  FBROKER_TRY(const NodeView view, front.nodes.view(open.node));
  const bool directory = open.cursor != nullptr;
  Result<Opened, Errno> opened = Errno{ESTALE};
  if (open.kept && front.options.keeping) {
    FileRef last{view.names.empty() ? *open.kept : view.names.front().path, view.identity, 0};
    if (UniqueFd fd = front.options.keeping->take(id))
      opened = front.service.adopt(caller, last, std::move(fd), flags_of_kept(open.flags));
  }
  for (auto name = view.names.begin(); !opened && name != view.names.end(); ++name) {
    const FileRef ref{name->path, view.identity, 0};
    opened = directory ? front.service.open_directory(caller, ref) : front.service.open(caller, ref, open.flags & ~kOthersWrite, 0);
  }
  if (!opened) return opened.error();
  // INVARIANT: a handle is of its node's file, whoever says so.
  Result<HandleId, Errno> service = Errno{ESTALE};
  if (view.identity.any() || opened->attributes.identity == view.identity)
    service = front.handles.woken(id, open.node, opened->handle, opened->attributes);
  if (!service || *service != opened->handle) front.service.close(caller, opened->handle);
  return service;
}

void keep_open_file(Impl& front, std::uint64_t id, NodeId node, HandleId service, const WorkspacePath& last) {
  const int fd = front.service.descriptor(service);
  if (fd < 0) return;
  front.options.keeping->keep(id, fd);
  // ATTACK: closed meanwhile by another thread, the number is perhaps another
  //   file's now. A handle that is still in the table had not been closed.
  if (!front.handles.note_kept(id, node, last)) front.options.keeping->drop(id);
}

void keep_open_files(Impl& front, const Caller& caller, NodeId node, const WorkspacePath& last) {
  if (node == 0) return;
  for (const NumberedHandle& open : front.handles.all_of(node)) {
    if (open.handle.kept) {
      front.handles.note_kept(open.id, node, last);
      continue;
    }
    if (const auto service = wake(front, caller, open.id, open.handle))
      keep_open_file(front, open.id, node, *service, last);
  }
}

// ---- what an earlier process had begun

void note_made(const FileIdentity& identity) noexcept {
  if (IntentSlot* slot = serving().slot) slot->note_made(identity);
}

namespace {

// What is there now; none also where that cannot be told.
std::optional<Lookup> found_at(Impl& front, const Caller& caller, const WorkspacePath& path) {
  auto found = front.service.lookup(caller, path);
  if (!found || !found->attributes) return std::nullopt;
  return std::move(*found);
}

bool is_gone(Impl& front, const Caller& caller, const WorkspacePath& path) {
  const auto found = front.service.lookup(caller, path);
  return found && !found->attributes;
}

bool is_known_as(Impl& front, NodeId parent, std::string_view name, const FileIdentity& identity) {
  const NodeId known = front.nodes.named(parent, name);
  if (known == 0) return false;
  const auto view = front.nodes.view(known);
  return view && view->identity == identity;
}

bool is_younger(const FileIdentity& identity, const IntentSlot& slot) {
  return identity.birth_ns == 0 || identity.birth_ns >= slot.began_ns;
}

}  // namespace

std::optional<Lookup> already_made(Impl& front, const Caller& caller, NodeId parent, std::string_view name,
                                   const WorkspacePath& path, FileType type) {
  const auto [slot, begun_before, swallow] = serving();
  if (!begun_before) return std::nullopt;
  auto found = found_at(front, caller, path);
  if (!found || found->attributes->type != type) return std::nullopt;
  const FileIdentity& identity = found->attributes->identity;
  if (slot->made_something != 0) return identity == slot->made ? found : std::nullopt;
  // Killed before it could say what it made. What was known under the name,
  // is older or has a content is another's: EEXIST is the answer then.
  if (is_known_as(front, parent, name, identity) || !is_younger(identity, *slot)) return std::nullopt;
  if (type == FileType::regular && found->attributes->size != 0) return std::nullopt;
  return found;
}

bool already_linked(Impl& front, const Caller& caller, NodeId node, NodeId parent, std::string_view name,
                    const WorkspacePath& path, Lookup& out) {
  const auto [slot, begun_before, swallow] = serving();
  if (!begun_before) return false;
  auto found = found_at(front, caller, path);
  const auto view = front.nodes.view(node);
  if (!found || !view || found->attributes->identity != view->identity) return false;
  // A name that was known before it was begun is none that it made.
  if (slot->made_something == 0 && is_known_as(front, parent, name, view->identity)) return false;
  out = std::move(*found);
  return true;
}

bool already_removed(Impl& front, const Caller& caller, NodeId parent, std::string_view name,
                     const WorkspacePath& path) {
  const auto [slot, begun_before, swallow] = serving();
  if (!begun_before) return false;
  if (is_gone(front, caller, path)) return true;
  const auto found = found_at(front, caller, path);
  if (!found) return false;
  // Something else has the name since.
  const FileIdentity& identity = found->attributes->identity;
  if (front.nodes.named(parent, name) != 0) return !is_known_as(front, parent, name, identity);
  return identity.birth_ns != 0 && is_younger(identity, *slot);
}

bool already_renamed(Impl& front, const Caller& caller, NodeId parent, std::string_view name,
                     const WorkspacePath& from, NodeId new_parent, std::string_view new_name, const WorkspacePath& to) {
  if (!serving().begun_before || !is_gone(front, caller, from)) return false;
  const auto found = found_at(front, caller, to);
  if (!found) return false;
  const FileIdentity& identity = found->attributes->identity;
  // The table may have it already where it went to.
  if (front.nodes.named(parent, name) != 0) return is_known_as(front, parent, name, identity);
  return is_known_as(front, new_parent, new_name, identity);
}

}  // namespace fbroker::fuse
