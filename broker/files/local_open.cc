// Opening, reading and writing regular files.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <limits>

#include "broker/files/calls.h"
#include "broker/files/git_files.h"
#include "broker/files/host_location.h"
#include "broker/files/own_files.h"

namespace fbroker::broker {

using policy::Operation;
using policy::OperationSet;
using protocol::Caller;
using protocol::FileRef;
using protocol::HandleId;
using protocol::Lifetime;
using protocol::Opened;
using protocol::WriteAt;

// An opened file that nobody has yet.
struct LocalFileService::Opening {
  UniqueFd fd;
  FileStat stat;
  FileStat directory;
  Lifetime lifetime = Lifetime::none;
  bool created = false;
  bool only_writes = false;       // in spite of kAlsoRead
  bool changed = false;           // the disk is not what it was: there is to be a record
  std::optional<Errno> failed;    // what went wrong after that
};

namespace {

// A file that appears and vanishes between two looks is tried again this often.
constexpr int kMaxAttempts = 16;

// The flags that reach the host; the rest is the broker's own business.
constexpr int kPassedOn = O_ACCMODE | O_SYNC | O_DSYNC;

bool reads(int flags) { return (flags & O_ACCMODE) != O_WRONLY; }

// INVARIANT: truncating is writing, whatever the access mode says.
bool writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0; }

OperationSet operations_of(int flags) {
  OperationSet operations;
  if (reads(flags)) operations.add(Operation::read);
  if (writes(flags)) operations.add(Operation::write);
  return operations;
}

std::string words_for(int flags, bool created) {
  constexpr std::array<std::string_view, 4> kModes{"O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR"};
  std::string words(kModes[static_cast<std::size_t>(flags & O_ACCMODE)]);
  if ((flags & O_CREAT) != 0) words += "|O_CREAT";
  if ((flags & O_EXCL) != 0) words += "|O_EXCL";
  if ((flags & O_TRUNC) != 0) words += "|O_TRUNC";
  if ((flags & O_APPEND) != 0) words += "|O_APPEND";
  return created ? words + " created" : words;
}

bool fits_file_offset(std::uint64_t offset, std::size_t size) {
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  return offset <= kMax && size <= kMax - offset;
}

}  // namespace

Result<Opened, Errno> LocalFileService::open(const Caller& caller, const FileRef& ref, int flags,
                                             std::uint32_t permissions) {
  if (!protocol::open_flags_known(flags & ~protocol::kAlsoRead)) return Errno{EINVAL};
  return opening(caller, [&](const Gate& gate, std::vector<Pin>& used) {
    return open_file(gate, ref, flags, permissions, used);
  });
}

template <class Act>
Result<Opened, Errno> LocalFileService::opening(const Caller& caller, Act&& act) {
  std::vector<Pin> used;
  auto opened = holding_names<NamesShared>(caller, Call::open, [&](const Gate& gate) { return act(gate, used); });
  if (!opened) give_back(used);
  if (!opened || use_up(used)) return opened;
  handles_.remove(opened->handle);   // nobody is told of it
  return Errno{EIO};
}

// With kAlsoRead: O_RDWR in place of O_WRONLY, if reading is allowed by what ends with no open.
int LocalFileService::resolve_also_read(const Gate& gate, const Decided& decided, int flags) {
  const bool wanted = (flags & protocol::kAlsoRead) != 0 && (flags & O_ACCMODE) == O_WRONLY;
  flags &= ~protocol::kAlsoRead;
  if (!wanted || !decided.allows(Operation::read)) return flags;
  const std::string_view reason = gate.snapshot().reason(decided.decision.of(Operation::read).reason).id;
  for (const policy::Grant& grant : gate.snapshot().grants())
    if (grant.once && grant.id == reason) return flags;
  return (flags & ~O_ACCMODE) | O_RDWR | protocol::kAlsoRead;
}

Result<Opened, Errno> LocalFileService::open_file(const Gate& gate, const FileRef& ref, int flags,
                                                  std::uint32_t permissions,
                                                  std::vector<Pin>& used) {
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  // INVARIANT: nothing is made or emptied by an open that then finds no room for its handle.
  FBROKER_TRY(HandleTable::Slot slot, handles_.reserve());
  const Decided decided = decide(gate, ref.path);
  flags = resolve_also_read(gate, decided, flags);
  const bool may_create = (flags & O_CREAT) != 0;
  OperationSet needed = operations_of(flags);
  if (!may_create && !decided.visible())
    return refuse(gate, decided, Operation::list, Errno{ENOENT}, {.detail = words_for(flags, false)});
  for (const Operation operation : {Operation::read, Operation::write})
    if (needed.has(operation) && !decided.allows(operation))
      return refuse(gate, decided, operation, Errno{EACCES}, {.detail = words_for(flags, false)});
  if (decided.on == nullptr)
    return Errno{gate.exports().leads_to_export(ref.path) ? EISDIR : may_create ? EROFS : ENOENT};

  const ActAs as(decided.on->owner());   // once, for all that follows
  const bool creates = may_create && decided.allows(Operation::create);
  if (creates) needed.add(Operation::create);
  FBROKER_TRY(used, claim(gate, decided, needed));
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    if (creates) {
      if (decided.vetted) {
        FBROKER_TRY_VOID(vet(gate, decided, {}));
      }
      auto made = create_file(gate, decided, flags, permissions);
      if (made) return hand_out(gate, decided, std::move(*made), flags, used, std::move(slot));
      if (made.error().value != EEXIST || (flags & O_EXCL) != 0) return made.error();
    }
    auto opening = open_existing(gate, decided, flags, ref.expect);
    if (opening && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return Errno{EEXIST};
    if (opening) return hand_out(gate, decided, std::move(*opening), flags, used, std::move(slot));
    if (opening.error().value != ENOENT || !may_create) return opening.error();
    if (!creates)
      return refuse(gate, decided, Operation::create, Errno{EACCES},
                    {.detail = words_for(flags, false)});
  }
  return Errno{ENOENT};
}

// The file is found, held by a descriptor without rights, looked at, and only
// then opened through that descriptor: a FIFO or a device is never opened at
// all, and nothing can be put in the file's place in between.
Result<LocalFileService::Opening, Errno> LocalFileService::open_existing(
    const Gate& gate, const Decided& decided, int flags, const protocol::FileIdentity& expect) {
  FBROKER_TRY(const Found found, pin_down(gate, decided, expect));
  if (found.stat->is_symlink()) return Errno{ELOOP};
  if (found.stat->is_directory()) return Errno{EISDIR};
  const int pinned = found.pinned.get();
  if (writes(flags)) FBROKER_TRY_VOID(refuse_revoked(gate, decided, *found.stat));
  // ATTACK: writing to a set-id file would put words into its owner's mouth.
  if (writes(flags) && found.stat->is_set_id())
    return refuse(gate, decided, Operation::write, Errno{EACCES}, {.detail = "set-id file"});
  std::unique_lock<std::mutex> vetting;
  if ((flags & O_TRUNC) != 0) {
    FBROKER_TRY(vetting, vet_size(gate, decided, pinned, 0));
  }
  Opening opening;
  const ActAs as(decided.on->owner());
  const int access = (flags & kPassedOn) | O_NONBLOCK | O_NOCTTY;
  auto opened = reopen(pinned, access);
  // The policy lets it be read and the host does not.
  if (!opened && opened.error().value == EACCES && (flags & protocol::kAlsoRead) != 0) {
    opened = reopen(pinned, (access & ~O_ACCMODE) | O_WRONLY);
    opening.only_writes = true;
  }
  FBROKER_TRY(opening.fd, std::move(opened));
  if ((flags & O_TRUNC) != 0) {
    // With O_RDONLY the descriptor itself cannot truncate.
    const bool by_name = (flags & O_ACCMODE) == O_RDONLY;
    const int done = by_name ? ::truncate(proc_name(pinned).c_str(), 0)
                             : ::ftruncate(opening.fd.get(), 0);
    if (done != 0) return Errno::last();
    opening.changed = true;
  }
  // What was opened is what was found; only emptying it has changed it since.
  opening.stat = *found.stat;
  if (opening.changed) {
    if (auto stat = stat_of(opening.fd.get()); stat) opening.stat = *stat;
    else opening.failed = stat.error();
  }
  opening.directory = found.directory;
  opening.lifetime = found.lifetime;
  return opening;
}

Result<LocalFileService::Opening, Errno> LocalFileService::create_file(const Gate& gate,
                                                                       const Decided& decided,
                                                                       int flags,
                                                                       std::uint32_t permissions) {
  FBROKER_TRY(const Found found, find(gate, decided));
  if (found.stat) return Errno{EEXIST};
  if (found.hidden != nullptr) {
    Decided hidden = decided;
    hidden.overruled = found.hidden;
    return refuse(gate, hidden, Operation::create, Errno{EACCES}, {.detail = words_for(flags, false)});
  }
  const ActAs as(decided.on->owner());
  Opening opening;
  FBROKER_TRY(opening.fd, decided.on->open_child(
                              found.place.directory.get(), found.place.name.c_str(),
                              (flags & kPassedOn) | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  opening.created = opening.changed = true;
  // The caller's umask is in `permissions`; the broker's own must not be.
  if (::fchmod(opening.fd.get(), permissions & 0777) != 0) opening.failed = Errno::last();
  if (auto stat = stat_of(opening.fd.get()); stat) opening.stat = *stat;
  else opening.failed = stat.error();
  opening.directory = found.directory;
  opening.lifetime = found.lifetime;
  return opening;
}

Result<Opened, Errno> LocalFileService::hand_out(const Gate& gate, const Decided& decided,
                                                 Opening opening, int flags,
                                                 const std::vector<Pin>& used,
                                                 HandleTable::Slot slot) {
  if (opening.only_writes) flags = (flags & ~O_ACCMODE) | O_WRONLY;
  flags &= ~protocol::kAlsoRead;
  const Operation operation = opening.created ? Operation::create
                              : writes(flags) ? Operation::write
                                              : Operation::read;
  // The last look, at what was really opened.
  if (!opening.failed && !opening.stat.is_regular()) opening.failed = Errno{EACCES};
  if (!opening.failed && session_.own_files.contains(opening.stat)) opening.failed = Errno{ENOENT};
  if (opening.failed) {
    // INVARIANT: what was made or emptied has its record, whatever came after.
    if (!opening.changed) return *opening.failed;
    tell_own_change(gate, decided.path, opening.directory.identity, nullptr);
    return refuse(gate, decided, operation, *opening.failed,
                  {.detail = words_for(flags, opening.created) + ", done all the same"});
  }

  auto made = std::make_shared<Handle>();
  made->fd = std::move(opening.fd);
  made->on = gate.exports().share(decided.on);
  made->node = nodes_.node(opening.stat.identity);
  made->opened = {.read = reads(flags), .write = (flags & O_ACCMODE) != O_RDONLY};
  made->pid = gate.caller.pid;
  made->peer_pid = gate.caller.peer_pid;
  made->path = decided.path;
  made->named_for_git = git::role_of(decided.path) != git::Role::none;
  made->in_directory = opening.directory.identity;
  made->pinned_by = used;
  Opened opened{.attributes = attributes(decided, opening.stat),
                .lifetime = opening.lifetime,
                .reads = made->opened.read,
                // What git would run is looked at before each write is answered: not collected.
                .agent_alone = gate.exports().agent_is_only_writer(decided.on) && !made->named_for_git};
  opened.handle = handles_.insert(std::move(slot), made);
  auto written = finish(gate, decided, operation, ok,
                        {.detail = words_for(flags, opening.created), .handle = opened.handle});
  if (opening.changed)
    tell_own_change(gate, decided.path, opening.directory.identity, &opening.stat);
  if (!written) {
    handles_.remove(opened.handle);
    return written.error();
  }
  return opened;
}

// --- What a former broker had open

namespace {

constexpr std::string_view kKept = "kept over a restart";

// What an open file may have been opened with; to make and to empty is over.
bool fits_open_file(int flags) {
  return protocol::open_flags_known(flags) && (flags & O_ACCMODE) != O_ACCMODE &&
         (flags & (O_CREAT | O_EXCL | O_TRUNC)) == 0;
}

// Whether the descriptor can do what the handle would promise.
// INVARIANT: no descriptor of ours has O_APPEND (pwrite(2) would ignore its
//   offset), and none is O_PATH.
bool covers(int fd, int flags) {
  const int has = ::fcntl(fd, F_GETFL);
  if (has < 0 || (has & (O_APPEND | O_PATH)) != 0) return false;
  const int mode = has & O_ACCMODE;
  return mode == O_RDWR || mode == (flags & O_ACCMODE);
}

}  // namespace

int LocalFileService::descriptor(HandleId id) const {
  const auto found = handles_.find(id);
  return found ? found->fd.get() : -1;
}

Result<Opened, Errno> LocalFileService::adopt(const Caller& caller, const FileRef& last_name, UniqueFd fd, int flags) {
  if (!fits_open_file(flags) || last_name.expect.any()) return Errno{EINVAL};
  if (!fd) return Errno{EBADF};
  return opening(caller, [&](const Gate& gate, std::vector<Pin>& used) {
    return adopt_file(gate, last_name, std::move(fd), flags, used);
  });
}

// Whether there is a deny made by a person: the files that were revoked with it
// are found anew when a broker starts, as far as they have names (Session::start).
// The deny that every session begins with is nobody's ("default").
bool LocalFileService::took_away_files(const Gate& gate) {
  return std::ranges::any_of(gate.snapshot().grants(),
                             [](const policy::Grant& grant) {
                               return grant.effect == policy::Effect::deny && grant.id != "default";
                             });
}

// INVARIANT: an open file gives no right that an open of its last name would
//   not give now. (No name of it need be left to be opened, so everything that
//   open() learns on the way to the file is asked of the descriptor here.)
Result<Opened, Errno> LocalFileService::adopt_file(const Gate& gate, const FileRef& last_name, UniqueFd fd, int flags,
                                                   std::vector<Pin>& used) {
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  FBROKER_TRY(HandleTable::Slot slot, handles_.reserve());
  Decided decided = decide(gate, last_name.path);
  const Operation operation = writes(flags) ? Operation::write : Operation::read;
  const auto refused = [&](int error, std::string_view why = {}) {
    return refuse(gate, decided, operation, Errno{error},
                  {.detail = std::string(kKept) + (why.empty() ? "" : ": ") + std::string(why)});
  };
  const auto hidden = [&](const char* why) {
    decided.overruled = why;
    return refused(ENOENT);
  };
  if (!decided.visible() || decided.on == nullptr) return refused(ENOENT);
  const auto stat = stat_of(fd.get());
  if (!stat || !stat->is_regular()) return refused(EACCES, "no regular file");
  if (stat->identity != last_name.expect) return refused(ESTALE, "another file");
  if (!covers(fd.get(), flags)) return refused(EBADF, "opened for less");
  if (const char* why = why_hidden(gate, decided, *stat)) return hidden(why);

  auto made = std::make_shared<Handle>();
  made->fd = std::move(fd);
  made->on = gate.exports().share(decided.on);
  made->node = nodes_.node(stat->identity);
  made->opened = {.read = reads(flags), .write = writes(flags)};
  made->pid = gate.caller.pid;
  made->peer_pid = gate.caller.peer_pid;
  made->path = decided.path;
  made->named_for_git = git::role_of(decided.path) != git::Role::none;
  made->unlinked = is_nameless(gate, *made, *stat);
  // ATTACK: the session's export is another directory by now, or the last name
  //   was never one of this export's: then the policy says nothing of the file.
  if (!path_below(kernel_name(made->fd.get()), kernel_name(made->on->root()))) return refused(EACCES, "of no export");
  // ATTACK: it was revoked by another name, which cannot be found any more. Of
  //   a file without a name, what a person ever took away may be it.
  if (made->unlinked && took_away_files(gate)) return refused(EACCES, "revoked, perhaps");
  Lifetime lifetime = Lifetime::none;
  if (!made->unlinked) {
    if (const auto found = find(gate, decided)) {
      if (found->hidden != nullptr) return hidden(found->hidden);
      if (found->stat && found->stat->identity == stat->identity) lifetime = found->lifetime;
      made->in_directory = found->directory.identity;
    }
  }
  {
    const std::lock_guard lock(made->mutex);
    made->opened = decide_anew(gate, *made);
    made->stamp = 0;
  }
  if (stat->is_set_id()) made->opened.write = false;   // as open()
  if (made->opened == Rights{}) return refused(EACCES);

  const int left = made->opened.read && made->opened.write ? O_RDWR : made->opened.write ? O_WRONLY : O_RDONLY;
  FBROKER_TRY(used, claim(gate, decided, operations_of(left)));
  made->pinned_by = used;
  Opened opened{.attributes = attributes(decided, *stat),
                .lifetime = lifetime,
                .reads = made->opened.read,
                .agent_alone = gate.exports().agent_is_only_writer(decided.on) && !made->named_for_git};
  opened.handle = handles_.insert(std::move(slot), made);
  const auto written = finish(gate, decided, writes(left) ? Operation::write : Operation::read, ok,
                              {.detail = words_for(left, false) + ", " + std::string(kKept), .handle = opened.handle});
  if (written) return opened;
  handles_.remove(opened.handle);
  return written.error();
}

// --- Grants for one open

Result<std::vector<Pin>, Errno> LocalFileService::claim(const Gate& gate, const Decided& decided,
                                                        OperationSet operations) {
  std::vector<Pin> needed;
  for (std::size_t at = 0; at < policy::kOperations; ++at) {
    if (!operations.has(static_cast<Operation>(at))) continue;
    const std::string_view reason = gate.snapshot().reason(decided.decision.entries[at].reason).id;
    for (const policy::Grant& grant : gate.snapshot().grants())
      if (grant.once && grant.id == reason &&
          std::none_of(needed.begin(), needed.end(), [&](const Pin& pin) { return pin.grant == reason; }))
        needed.push_back({grant.id, grant.override_deny});
  }
  if (needed.empty()) return needed;
  {
    const std::lock_guard lock(claims_mutex_);
    const bool free = std::none_of(needed.begin(), needed.end(),
                                   [&](const Pin& pin) { return claims_.contains(pin.grant); });
    if (free) {
      for (const Pin& pin : needed) claims_.insert(pin.grant);
      return needed;
    }
  }
  return refuse(gate, decided, Operation::read, Errno{EACCES}, {.detail = "grant already used"});
}

void LocalFileService::give_back(const std::vector<Pin>& claimed) {
  const std::lock_guard lock(claims_mutex_);
  for (const Pin& pin : claimed) claims_.erase(pin.grant);
}

// --- Reading and writing

Result<std::size_t, Errno> LocalFileService::read(const Caller& caller, HandleId id,
                                                  std::uint64_t offset, std::span<std::byte> into) {
  FBROKER_TRY(const auto file, handle(id, false));
  if (!file->opened.read) return Errno{EBADF};
  const Gate gate = enter(caller, Call::read);
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  if (!rights(gate, *file).read) {
    FBROKER_TRY_VOID(permit_handle(gate, *file, Operation::read));
    return Errno{EACCES};
  }
  if (!fits_file_offset(offset, into.size())) return Errno{EINVAL};
  ssize_t count = 0;
  do {
    count = ::pread(file->fd.get(), into.data(), into.size(), static_cast<off_t>(offset));
  } while (count < 0 && errno == EINTR);
  if (count < 0) return Errno::last();
  file->bytes_read += static_cast<std::uint64_t>(count);
  return static_cast<std::size_t>(count);
}

Result<std::size_t, Errno> LocalFileService::write(const Caller& caller, HandleId id, WriteAt at,
                                                   std::span<const std::byte> data) {
  FBROKER_TRY(const auto file, handle(id, false));
  if (!file->opened.write) return Errno{EBADF};
  const Gate gate = enter(caller, Call::write);
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  if (!rights(gate, *file).write) {
    FBROKER_TRY_VOID(permit_handle(gate, *file, Operation::write));
    return Errno{EACCES};
  }
  // Descriptors never carry O_APPEND (pwrite(2), BUGS: it would ignore the
  // offset): the end is found and written to under the node's lock.
  std::unique_lock<std::mutex> append;
  if (at.append) {
    append = std::unique_lock(file->node->append);
    FBROKER_TRY(const FileStat now, stat_of(file->fd.get()));
    at.offset = now.size;
  }
  if (!fits_file_offset(at.offset, data.size())) return Errno{EFBIG};
  std::unique_lock<std::mutex> vetting;
  if (file->named_for_git) {
    FBROKER_TRY(vetting, vet_write(gate, *file, at.offset, data));
  }
  if (at.append && at.chosen != nullptr)
    std::atomic_ref(*at.chosen).store(at.offset, std::memory_order_release);
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t count = ::pwrite(file->fd.get(), data.data() + done, data.size() - done,
                                   static_cast<off_t>(at.offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && done == 0) return Errno::last();
    if (count <= 0) break;
    done += static_cast<std::size_t>(count);
  }
  // What landed is not what was looked at: a full disk, a quota.
  if (vetting && done < data.size()) vet_remains(gate, *file);
  file->bytes_written += done;
  if (session_.watch == nullptr) return done;
  if (const auto now = stat_of(file->fd.get())) {
    std::unique_lock lock(file->mutex);
    const WorkspacePath path = file->path;
    const auto directory = file->in_directory;
    const bool unlinked = file->unlinked;
    lock.unlock();
    if (!unlinked) tell_own_change(gate, path, directory, &*now);
  }
  return done;
}

// The lock is to be held until the data is in the file.
Result<std::unique_lock<std::mutex>, Errno> LocalFileService::vet_write(
    const Gate& gate, Handle& file, std::uint64_t offset, std::span<const std::byte> data) {
  std::unique_lock vetting(vetting_);
  WorkspacePath path;
  {
    const std::lock_guard lock(file.mutex);
    path = file.path;
  }
  const Decided decided = decide(gate, path);
  if (!decided.vetted) {
    // ATTACK: a handle whose name went stale, by a rename through another export,
    //   is decided on as what nobody vets.
    const bool pinned = [&] {
      const std::lock_guard lock(file.mutex);
      return pin_holds(gate, file, decided, Operation::write);
    }();
    if (decided.allows(Operation::write) || pinned) return vetting;
    return refuse(gate, decided, Operation::write, Errno{EACCES}, {.handle = file.id});
  }
  FBROKER_TRY(const FileStat now, stat_of(file.fd.get()));
  const std::uint64_t size = std::max(now.size, offset + data.size());
  FBROKER_TRY_VOID(vet_change(gate, decided, file.fd.get(), size, offset, data));
  return vetting;
}

// Precondition: vetting_ is held.
void LocalFileService::vet_remains(const Gate& gate, Handle& file) {
  WorkspacePath path;
  {
    const std::lock_guard lock(file.mutex);
    path = file.path;
  }
  const Decided decided = decide(gate, path);
  const auto now = stat_of(file.fd.get());
  if (now && (!decided.vetted || vet_change(gate, decided, file.fd.get(), now->size, 0, {}))) return;
  if (::ftruncate(file.fd.get(), 0) != 0) return;   // recorded as refused all the same
}

Result<void, Errno> LocalFileService::fsync(const Caller& caller, HandleId id, bool data_only) {
  const auto file = handles_.find(id);
  if (!file) return Errno{EBADF};
  const Gate gate = enter(caller, Call::fsync);
  FBROKER_TRY_VOID(permit_handle(gate, *file, Operation::list));
  if (!file->fd) return ok;
  if ((data_only ? ::fdatasync(file->fd.get()) : ::fsync(file->fd.get())) != 0) return Errno::last();
  return ok;
}

}  // namespace fbroker::broker
