// Every FUSE request: names the file, asks the service, tells the table and
// the kernel. Nothing is decided here.
//
// What has no handler is answered ENOSYS by libfuse, which the kernel takes as
// "never ask again" and as its own default: flush, locks (kept by the kernel),
// extended attributes (else every write would first ask for
// security.capability), fallocate and copy_file_range (programs fall back),
// lseek, poll, ioctl, tmpfile.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "broker/fuse/device.h"
#include "broker/fuse/front_impl.h"

namespace fbroker::fuse {

using protocol::Attributes;
using protocol::Caller;
using protocol::DirectoryEntry;
using protocol::DirectoryPage;
using protocol::FileRef;
using protocol::FileType;
using protocol::HandleId;
using protocol::Lifetime;
using protocol::Lookup;
using protocol::Opened;

namespace {

using Impl = FuseFront::Impl;

constexpr double kPracticallyForEver = 1e9;  // seconds
constexpr std::size_t kEntriesPerPage = 1000;
// What a call is passed on with; the kernel's own flags (FMODE_EXEC, ...) and
// those that it carries out by itself (O_DIRECT, O_NOATIME, ...) stay here.
constexpr int kOpenFlags = O_ACCMODE | O_TRUNC | O_APPEND | O_EXCL | O_SYNC | O_DSYNC;

Impl& front_of(fuse_req_t req) { return *static_cast<Impl*>(fuse_req_userdata(req)); }

Caller caller_of(fuse_req_t req) {
  return {static_cast<std::uint32_t>(fuse_req_ctx(req)->pid)};
}

double seconds(Lifetime lifetime) {
  switch (lifetime) {
    case Lifetime::until_told: return kPracticallyForEver;
    case Lifetime::one_second: return 1.0;
    case Lifetime::none: break;
  }
  return 0.0;
}

mode_t type_bits(FileType type) {
  switch (type) {
    case FileType::directory: return S_IFDIR;
    case FileType::symlink: return S_IFLNK;
    case FileType::regular: break;
  }
  return S_IFREG;
}

struct stat to_stat(const Impl& front, const Attributes& a) {
  struct stat st{};
  st.st_ino = a.identity.inode;
  st.st_mode = type_bits(a.type) | (a.permissions & 0777) | (a.permissions & S_ISVTX);
  st.st_nlink = a.links;
  st.st_uid = front.options.uid;
  st.st_gid = front.options.gid;
  st.st_size = static_cast<off_t>(a.size);
  st.st_blocks = static_cast<blkcnt_t>(a.blocks);
  st.st_blksize = static_cast<blksize_t>(a.block_size);
  st.st_atim = a.accessed;
  st.st_mtim = a.modified;
  st.st_ctim = a.changed;
  return st;
}

fuse_entry_param to_entry(const Impl& front, NodeId node, const Attributes& a, Lifetime lifetime) {
  fuse_entry_param entry{};
  entry.ino = node;
  entry.attr = to_stat(front, a);
  entry.attr_timeout = entry.entry_timeout = seconds(lifetime);
  return entry;
}

void reply_error(fuse_req_t req, Errno error) { fuse_reply_err(req, error.value); }

// Sends what the kernel may keep. `send(current)` replies; `current` says
// whether what the service answered is still so.
// INVARIANT: comparison and reply are one step; see front.h.
template <class Send>
int reply_kept(Impl& front, std::uint64_t seen, const WorkspacePath& path,
               const protocol::FileIdentity& identity, Send send) {
  const std::shared_lock lock(front.gate);
  return send(!front.events.touched(seen, path, identity));
}

// ---- naming a file to the service

// Calls with each name of the node until one is allowed, then with an open
// handle of it: a file that may be read under any of its names may be read.
// A refusal outweighs a name that is gone.
template <class Call>
auto by_any_name(Impl& front, NodeId id, HandleId handle, Call call)
    -> decltype(call(std::declval<const FileRef&>())) {
  FBROKER_TRY(const NodeView view, front.nodes.view(id));
  if (handle != 0) {
    FileRef ref{{}, view.identity, handle};
    if (!view.names.empty()) ref.path = view.names.front().path;
    return call(ref);
  }
  Errno error{ESTALE};
  bool refused = false;
  for (const NodeName& name : view.names) {
    auto result = call(FileRef{name.path, view.identity, 0});
    if (result) return result;
    // Another file has the name now. The kernel looks it up anew on ESTALE.
    if (result.error().value == ESTALE) front.nodes.disown(id, name.parent, name.name);
    const bool is_refusal = result.error().value != ENOENT && result.error().value != ESTALE;
    if (is_refusal || !refused) error = result.error();
    refused = refused || is_refusal;
  }
  if (refused) return error;
  if (const auto open = front.handles.any_of(id)) {
    FBROKER_TRY(const HandleId service, wake(front, {}, open->id, open->handle));
    return call(FileRef{{}, view.identity, service});
  }
  return error;
}

// ---- names

void reply_lookup(fuse_req_t req, NodeId parent, const char* name, const WorkspacePath& path,
                  std::uint64_t seen, const Lookup& found) {
  Impl& front = front_of(req);
  if (!found.attributes) {
    // What a rule hides comes with Lifetime::none, and is asked for each time.
    const bool keep = found.lifetime != Lifetime::none && front.nodes.remember_absent(parent, name);
    reply_kept(front, seen, path, {}, [&](bool current) {
      if (!keep || !current) return fuse_reply_err(req, ENOENT);
      fuse_entry_param absent{};
      absent.entry_timeout = seconds(found.lifetime);
      return fuse_reply_entry(req, &absent);
    });
    return;
  }
  const auto node = front.nodes.remember(parent, name, *found.attributes, found.lifetime);
  if (!node) return reply_error(req, node.error());
  const int sent = reply_kept(front, seen, path, found.attributes->identity, [&](bool current) {
    const auto entry =
        to_entry(front, *node, *found.attributes, current ? found.lifetime : Lifetime::none);
    return fuse_reply_entry(req, &entry);
  });
  if (sent != 0) front.nodes.forget(*node, 1);
}

// One call that ends in a new or known name: look-up, mkdir, symlink.
template <class Call>
void name_request(fuse_req_t req, NodeId parent, const char* name, Call call) {
  Impl& front = front_of(req);
  const std::uint64_t seen = front.events_seen();
  const auto path = front.nodes.child_path(parent, name);
  if (!path) return reply_error(req, path.error());
  const Result<Lookup, Errno> found = call(*path);
  if (!found) return reply_error(req, found.error());
  reply_lookup(req, parent, name, *path, seen, *found);
}

void do_lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  name_request(req, parent, name, [&](const WorkspacePath& path) {
    return front_of(req).service.lookup(caller_of(req), path);
  });
}

Result<Lookup, Errno> noting_made(Result<Lookup, Errno> made) {
  if (made && made->attributes) note_made(made->attributes->identity);
  return made;
}

void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  name_request(req, parent, name, [&](const WorkspacePath& path) -> Result<Lookup, Errno> {
    Impl& front = front_of(req);
    if (auto made = already_made(front, caller_of(req), parent, name, path, FileType::directory)) return *made;
    return noting_made(front.service.mkdir(caller_of(req), path, mode & 07777));
  });
}

void do_symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  name_request(req, parent, name, [&](const WorkspacePath& path) -> Result<Lookup, Errno> {
    Impl& front = front_of(req);
    if (auto made = already_made(front, caller_of(req), parent, name, path, FileType::symlink)) {
      const auto leads_to = front.service.readlink(caller_of(req), {path, made->attributes->identity, 0});
      if (leads_to && *leads_to == target) return *made;
    }
    return noting_made(front.service.symlink(caller_of(req), target, path));
  });
}

void do_link(fuse_req_t req, fuse_ino_t node, fuse_ino_t parent, const char* name) {
  name_request(req, parent, name, [&](const WorkspacePath& path) {
    Impl& front = front_of(req);
    Lookup linked;
    if (already_linked(front, caller_of(req), node, parent, name, path, linked)) return Result<Lookup, Errno>(linked);
    return noting_made(by_any_name(front, node, 0, [&](const FileRef& ref) {
      return front.service.link(caller_of(req), ref, path);
    }));
  });
}

// Regular files only: no device, FIFO or socket goes through the broker.
void do_mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t) {
  if (!S_ISREG(mode)) return reply_error(req, Errno{EPERM});
  name_request(req, parent, name, [&](const WorkspacePath& path) -> Result<Lookup, Errno> {
    auto& service = front_of(req).service;
    if (auto before = already_made(front_of(req), caller_of(req), parent, name, path, FileType::regular))
      return *before;
    FBROKER_TRY(const Opened made, service.open(caller_of(req), FileRef{path, {}, 0},
                                                O_CREAT | O_EXCL | O_WRONLY, mode & 07777));
    note_made(made.attributes.identity);
    service.close(caller_of(req), made.handle);
    return Lookup{made.attributes, made.lifetime};
  });
}

template <class Call>
void remove_request(fuse_req_t req, NodeId parent, const char* name, Call call) {
  Impl& front = front_of(req);
  const auto path = front.nodes.child_path(parent, name);
  if (!path) return reply_error(req, path.error());
  if (!already_removed(front, caller_of(req), parent, name, *path)) {
    if (front.options.keeping) keep_open_files(front, caller_of(req), front.nodes.named(parent, name), *path);
    const Result<void, Errno> done = call(*path);
    if (!done) return reply_error(req, done.error());
  }
  front.nodes.drop_name(parent, name);
  fuse_reply_err(req, 0);
}

void do_unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  remove_request(req, parent, name, [&](const WorkspacePath& path) {
    return front_of(req).service.unlink(caller_of(req), path);
  });
}

void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  remove_request(req, parent, name, [&](const WorkspacePath& path) {
    return front_of(req).service.rmdir(caller_of(req), path);
  });
}

void do_rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
               const char* new_name, unsigned flags) {
  Impl& front = front_of(req);
  if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE)) != 0)
    return reply_error(req, Errno{EINVAL});
  const auto from = front.nodes.child_path(parent, name);
  if (!from) return reply_error(req, from.error());
  const auto to = front.nodes.child_path(new_parent, new_name);
  if (!to) return reply_error(req, to.error());
  if (already_renamed(front, caller_of(req), parent, name, *from, new_parent, new_name, *to)) {
    if (front.nodes.named(parent, name) != 0) front.nodes.moved(parent, name, new_parent, new_name);
    return reply_error(req, Errno{0});
  }
  if (front.options.keeping) keep_open_files(front, caller_of(req), front.nodes.named(new_parent, new_name), *to);
  const auto done = front.service.rename(caller_of(req), *from, *to, flags);
  if (!done) return reply_error(req, done.error());
  front.nodes.moved(parent, name, new_parent, new_name);
  fuse_reply_err(req, 0);
}

// ---- attributes

void reply_attributes(fuse_req_t req, NodeId id, std::uint64_t seen, const WorkspacePath& path,
                      const Attributes& attributes, Lifetime lifetime) {
  Impl& front = front_of(req);
  reply_kept(front, seen, path, attributes.identity, [&](bool current) {
    // Under the gate, so that an event later than this takes it back.
    if (current) front.nodes.refresh(id, attributes, lifetime);
    const struct stat st = to_stat(front, attributes);
    return fuse_reply_attr(req, &st, current ? seconds(lifetime) : 0.0);
  });
}

// A file without a name changes through this mount or not at all that we
// would hear of.
Lifetime attribute_lifetime(const NodeView& view) {
  return view.names.empty() ? Lifetime::one_second : view.lifetime;
}

struct Stated {
  Attributes attributes;
  WorkspacePath path;
  Lifetime lifetime = Lifetime::none;
};

Result<Stated, Errno> stat_node(fuse_req_t req, NodeId id, HandleId handle) {
  Impl& front = front_of(req);
  if (id == kRootNode) {  // never looked up, so its lifetime is learnt here
    FBROKER_TRY(const Lookup root, front.service.lookup(caller_of(req), {}));
    if (!root.attributes) return Errno{ENOENT};
    return Stated{*root.attributes, {}, root.lifetime};
  }
  FBROKER_TRY(const NodeView view, front.nodes.view(id));
  WorkspacePath path;
  FBROKER_TRY(const Attributes attributes, by_any_name(front, id, handle, [&](const FileRef& ref) {
                path = ref.path;
                return front.service.stat(caller_of(req), ref);
              }));
  return Stated{attributes, path, attribute_lifetime(view)};
}

Result<HandleId, Errno> service_handle(fuse_req_t req, NodeId id, const fuse_file_info* fi) {
  if (!fi) return HandleId{0};
  Impl& front = front_of(req);
  FBROKER_TRY(const OpenHandle open, front.handles.file(fi->fh, id));
  return wake(front, caller_of(req), fi->fh, open);
}

void do_getattr(fuse_req_t req, fuse_ino_t node, fuse_file_info* fi) {
  Impl& front = front_of(req);
  const std::uint64_t seen = front.events_seen();
  const auto handle = service_handle(req, node, fi);
  if (!handle) return reply_error(req, handle.error());
  const auto stated = stat_node(req, node, *handle);
  if (!stated) return reply_error(req, stated.error());
  reply_attributes(req, node, seen, stated->path, stated->attributes, stated->lifetime);
}

// Everything that is not the agent's already would be somebody else's.
bool changes_owner(const Impl& front, const struct stat& wanted, int to_set) {
  return ((to_set & FUSE_SET_ATTR_UID) != 0 && wanted.st_uid != front.options.uid) ||
         ((to_set & FUSE_SET_ATTR_GID) != 0 && wanted.st_gid != front.options.gid);
}

timespec wanted_time(const timespec& given, bool now) {
  return now ? timespec{0, UTIME_NOW} : given;
}

protocol::SetTimes wanted_times(const struct stat& wanted, int to_set) {
  protocol::SetTimes times;
  if ((to_set & FUSE_SET_ATTR_ATIME) != 0)
    times.accessed = wanted_time(wanted.st_atim, (to_set & FUSE_SET_ATTR_ATIME_NOW) != 0);
  if ((to_set & FUSE_SET_ATTR_MTIME) != 0)
    times.modified = wanted_time(wanted.st_mtim, (to_set & FUSE_SET_ATTR_MTIME_NOW) != 0);
  return times;
}

// With write-back the kernel tells the time of a write, too; who may write need
// not own the file.
bool comes_with_writing(const Impl& front, const FileRef& ref, int to_set) {
  constexpr int kAsked = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME_NOW;
  return front.writes_back && (to_set & kAsked) == 0 && (to_set & FUSE_SET_ATTR_CTIME) != 0 &&
         (ref.handle != 0 || (to_set & FUSE_SET_ATTR_SIZE) != 0);
}

Result<Attributes, Errno> change(fuse_req_t req, const FileRef& ref, const struct stat& wanted,
                                 int to_set) {
  auto& service = front_of(req).service;
  const Caller caller = caller_of(req);
  std::optional<Attributes> now;
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) {
    FBROKER_TRY(now, service.truncate(caller, ref, static_cast<std::uint64_t>(wanted.st_size)));
  }
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) {
    FBROKER_TRY(now, service.chmod(caller, ref, wanted.st_mode & 07777));
  }
  if ((to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) != 0) {
    auto changed = service.utimens(caller, ref, wanted_times(wanted, to_set));
    // The host's own times of a write stay. Else a close would fail after all was written.
    if (!changed && changed.error().value == EPERM && comes_with_writing(front_of(req), ref, to_set))
      changed = service.stat(caller, ref);
    FBROKER_TRY(now, std::move(changed));
  }
  if (!now) return service.stat(caller, ref);
  return *now;
}

bool owner_reads_and_writes(mode_t mode) { return (mode & (S_IRUSR | S_IWUSR)) == (S_IRUSR | S_IWUSR); }

void do_setattr(fuse_req_t req, fuse_ino_t node, struct stat* wanted, int to_set,
                fuse_file_info* fi) {
  Impl& front = front_of(req);
  const std::uint64_t seen = front.events_seen();
  if (changes_owner(front, *wanted, to_set)) return reply_error(req, Errno{EPERM});
  const auto handle = service_handle(req, node, fi);
  if (!handle) return reply_error(req, handle.error());
  const auto view = front.nodes.view(node);
  if (!view) return reply_error(req, view.error());
  WorkspacePath path;
  if (front.options.keeping && (to_set & FUSE_SET_ATTR_MODE) != 0 && !owner_reads_and_writes(wanted->st_mode) &&
      !view->names.empty())
    keep_open_files(front, caller_of(req), node, view->names.front().path);
  const auto changed = by_any_name(front, node, *handle, [&](const FileRef& ref) {
    path = ref.path;
    return change(req, ref, *wanted, to_set);
  });
  if (!changed) return reply_error(req, changed.error());
  reply_attributes(req, node, seen, path, *changed, attribute_lifetime(*view));
}

// The permission bits say what the session may really do, so they are the
// answer. The kernel asks at access(2) and at each chdir(2).
void do_access(fuse_req_t req, fuse_ino_t node, int mask) {
  Impl& front = front_of(req);
  const auto view = front.nodes.view(node);
  if (!view) return reply_error(req, view.error());
  std::uint32_t permissions = view->permissions;
  if (!view->permissions_fresh) {
    const std::uint64_t seen = front.events_seen();
    const auto stated = stat_node(req, node, 0);
    if (!stated) return reply_error(req, stated.error());
    permissions = stated->attributes.permissions;
    const std::shared_lock lock(front.gate);
    if (!front.events.touched(seen, stated->path, stated->attributes.identity))
      front.nodes.refresh(node, stated->attributes, stated->lifetime);
  }
  const auto granted = static_cast<int>((permissions >> 6) & 7);
  fuse_reply_err(req, (mask & ~granted & 7) != 0 ? EACCES : 0);
}

void do_readlink(fuse_req_t req, fuse_ino_t node) {
  Impl& front = front_of(req);
  const auto target = by_any_name(front, node, 0, [&](const FileRef& ref) {
    return front.service.readlink(caller_of(req), ref);
  });
  if (!target) return reply_error(req, target.error());
  front.nodes.note_cached(node);
  fuse_reply_readlink(req, target->c_str());
}

void do_statfs(fuse_req_t req, fuse_ino_t node) {
  Impl& front = front_of(req);
  const auto view = front.nodes.view(node);
  if (!view) return reply_error(req, view.error());
  const WorkspacePath path = view->names.empty() ? WorkspacePath() : view->names.front().path;
  const auto status = front.service.statfs(caller_of(req), path);
  if (!status) return reply_error(req, status.error());
  struct statvfs out{};
  out.f_bsize = out.f_frsize = status->block_size;
  out.f_blocks = status->blocks;
  out.f_bfree = status->blocks_free;
  out.f_bavail = status->blocks_available;
  out.f_files = status->files;
  out.f_ffree = out.f_favail = status->files_free;
  out.f_namemax = status->name_max;
  fuse_reply_statfs(req, &out);
}

// ---- files

void close_handle(fuse_req_t req, NodeId node, std::uint64_t id, bool directory) {
  Impl& front = front_of(req);
  const auto handle = front.handles.remove(id, node, directory);
  if (!handle) return;
  if (handle->service != 0) front.service.close(caller_of(req), handle->service);
  if (handle->kept && front.options.keeping) front.options.keeping->drop(id);
}

Result<std::uint64_t, Errno> keep_handle(fuse_req_t req, OpenHandle handle) {
  Impl& front = front_of(req);
  const HandleId service = handle.service;
  IntentSlot* const slot = serving().slot;
  // An earlier process had come this far; the kernel never heard of its handle.
  if (slot != nullptr && slot->handle != 0) close_handle(req, handle.node, slot->handle, handle.cursor != nullptr);
  auto id = front.handles.add(std::move(handle));
  if (!id) front.service.close(caller_of(req), service);
  else if (slot != nullptr) slot->handle = *id;
  return id;
}

// What a handle is opened again with by another process.
int lasting(int flags) { return flags & (O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC); }

// With write-back the kernel reads the rest of a page through whatever handle
// it has, one for writing alone included.
int service_flags(const Impl& front, int flags) {
  const bool only_writes = (flags & O_ACCMODE) == O_WRONLY;
  return front.writes_back && only_writes ? flags | protocol::kAlsoRead : flags;
}

int lasting(const Impl& front, int flags, const Opened& opened) {
  flags = lasting(flags);
  if (!front.writes_back) return flags;
  if ((flags & O_ACCMODE) == O_WRONLY && opened.reads) flags |= protocol::kAlsoRead;
  return opened.agent_alone ? flags : flags | kOthersWrite;
}

// Past the kernel's cache: what others write too, whose size it would not
// learn, and what it could not read the rest of a page of.
bool past_the_cache(const Impl& front, int flags, const Opened& opened) {
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  return front.writes_back && (!opened.agent_alone || (writes && !opened.reads));
}

void do_open(fuse_req_t req, fuse_ino_t node, fuse_file_info* fi) {
  Impl& front = front_of(req);
  const std::uint64_t seen = front.events_seen();
  const int flags = fi->flags & kOpenFlags & ~O_EXCL;
  WorkspacePath path;
  const auto opened = by_any_name(front, node, 0, [&](const FileRef& ref) {
    path = ref.path;
    // A handle cannot be opened. ESTALE makes the kernel look the name up anew.
    if (ref.handle != 0) return Result<Opened, Errno>(Errno{ESTALE});
    return front.service.open(caller_of(req), ref, service_flags(front, flags), 0);
  });
  if (!opened) return reply_error(req, opened.error());
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  const auto id = keep_handle(req, {opened->handle, node, writes, nullptr, lasting(front, flags, *opened)});
  if (!id) return reply_error(req, id.error());
  fi->fh = *id;
  fi->noflush = 1;
  const int sent = reply_kept(front, seen, path, opened->attributes.identity, [&](bool current) {
    // Close-to-open: the kernel's pages stay only when they are of the version
    // that was opened, whether or not somebody would have told us.
    bool same = front.nodes.same_version(node, opened->attributes);
    // What the agent alone writes is of another version by its own writes.
    same = same || (front.writes_back && opened->agent_alone && opened->lifetime == Lifetime::until_told);
    fi->keep_cache = same && current && (flags & O_TRUNC) == 0;
    fi->direct_io = past_the_cache(front, flags, *opened);
    return fuse_reply_open(req, fi);
  });
  if (sent != 0) close_handle(req, node, *id, false);
}

Result<Opened, Errno> create_file(fuse_req_t req, NodeId parent, const char* name, const WorkspacePath& path, int flags,
                                  std::uint32_t mode) {
  Impl& front = front_of(req);
  if (const auto made = already_made(front, caller_of(req), parent, name, path, FileType::regular)) {
    auto opened = front.service.open(caller_of(req), {path, made->attributes->identity, 0},
                                     flags & ~(O_CREAT | O_EXCL), 0);
    if (opened) return opened;
    // Made without the permission to open it again; nobody has seen it yet.
    if (opened.error().value == EACCES && !owner_reads_and_writes(mode)) {
      serving().slot->made_something = 0;   // another file is about to be made
      FBROKER_TRY_VOID(front.service.unlink(caller_of(req), path));
    }
  }
  return front.service.open(caller_of(req), FileRef{path, {}, 0}, flags, mode);
}

void do_create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
               fuse_file_info* fi) {
  Impl& front = front_of(req);
  const std::uint64_t seen = front.events_seen();
  const auto path = front.nodes.child_path(parent, name);
  if (!path) return reply_error(req, path.error());
  const int flags = (fi->flags & kOpenFlags) | O_CREAT;
  const auto opened = create_file(req, parent, name, *path, service_flags(front, flags), mode & 07777);
  if (!opened) return reply_error(req, opened.error());
  note_made(opened->attributes.identity);
  const auto node = front.nodes.remember(parent, name, opened->attributes, opened->lifetime);
  if (!node) {
    front.service.close(caller_of(req), opened->handle);
    return reply_error(req, node.error());
  }
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  const auto id = keep_handle(req, {opened->handle, *node, writes, nullptr, lasting(front, flags, *opened)});
  if (!id) {
    front.nodes.forget(*node, 1);
    return reply_error(req, id.error());
  }
  if (front.options.keeping && !owner_reads_and_writes(mode))
    keep_open_file(front, *id, *node, opened->handle, *path);
  fi->fh = *id;
  fi->noflush = 1;
  const int sent = reply_kept(front, seen, *path, opened->attributes.identity, [&](bool current) {
    front.nodes.same_version(*node, opened->attributes);
    fi->direct_io = past_the_cache(front, flags, *opened);
    const auto entry =
        to_entry(front, *node, opened->attributes, current ? opened->lifetime : Lifetime::none);
    return fuse_reply_create(req, &entry, fi);
  });
  if (sent == 0) return;
  close_handle(req, *node, *id, false);
  front.nodes.forget(*node, 1);
}

void do_release(fuse_req_t req, fuse_ino_t node, fuse_file_info* fi) {
  close_handle(req, node, fi->fh, false);
  fuse_reply_err(req, 0);
}

// A handle of a retired node is as dead as the node.
Result<HandleId, Errno> usable_file(fuse_req_t req, NodeId node, std::uint64_t fh, int* flags = nullptr) {
  Impl& front = front_of(req);
  FBROKER_TRY(const OpenHandle open, front.handles.file(fh, node));
  if (!front.nodes.usable(node)) return Errno{ESTALE};
  if (flags != nullptr) *flags = open.flags;
  return wake(front, caller_of(req), fh, open);
}

// Where a write lands. One that appends and had been begun before goes where
// it was going then, unless the file has become shorter than that since.
protocol::WriteAt place_of(fuse_req_t req, HandleId handle, std::uint64_t offset, bool append) {
  const auto [slot, begun_before, swallow] = serving();
  if (!append || slot == nullptr) return {offset, append};
  if (begun_before && slot->appends_at != IntentSlot::kNowhere) {
    const auto now = front_of(req).service.stat(caller_of(req), FileRef{{}, {}, handle});
    if (now && now->size >= slot->appends_at) return {slot->appends_at, false};
  }
  return {offset, true, &slot->appends_at};
}

void do_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, fuse_file_info* fi) {
  thread_local const auto memory = std::make_unique<std::byte[]>(kMaxTransfer);
  Impl& front = front_of(req);
  const auto handle = usable_file(req, node, fi->fh);
  if (!handle) return reply_error(req, handle.error());
  const std::span<std::byte> wanted(memory.get(), std::min<std::size_t>(size, kMaxTransfer));
  std::size_t done = 0;
  // To the kernel a short answer means the end of the file; to a service not.
  while (done < wanted.size()) {
    const auto got = front.service.read(caller_of(req), *handle,
                                        static_cast<std::uint64_t>(offset) + done,
                                        wanted.subspan(done));
    if (!got) return reply_error(req, got.error());
    if (*got == 0) break;
    done += std::min(*got, wanted.size() - done);
  }
  fuse_reply_buf(req, reinterpret_cast<const char*>(memory.get()), done);
}

void do_write(fuse_req_t req, fuse_ino_t node, const char* data, size_t size, off_t offset,
              fuse_file_info* fi) {
  Impl& front = front_of(req);
  int opened_with = 0;
  const auto handle = usable_file(req, node, fi->fh, &opened_with);
  if (!handle) return reply_error(req, handle.error());
  // A page written back belongs where it was, whatever the descriptor that the
  // kernel happens to use for it says about appending. With write-back only the
  // kernel knows where the file ends, unless others write it.
  const bool kernel_places = fi->writepage || (front.writes_back && (opened_with & kOthersWrite) == 0);
  const bool append = (fi->flags & O_APPEND) != 0 && !kernel_places;
  const std::span<const std::byte> all(reinterpret_cast<const std::byte*>(data), size);
  const protocol::WriteAt first = place_of(req, *handle, static_cast<std::uint64_t>(offset), append);
  std::size_t done = 0;
  while (done < size) {
    protocol::WriteAt at = first;
    at.offset += done;
    const auto wrote = front.service.write(caller_of(req), *handle, at, all.subspan(done));
    // The kernel takes a page for written whatever a short answer says.
    if (!wrote && (done == 0 || fi->writepage)) return reply_error(req, wrote.error());
    if (wrote && *wrote == 0 && fi->writepage) return reply_error(req, Errno{EIO});
    if (!wrote || *wrote == 0) break;
    done += std::min(*wrote, size - done);
    // One place is remembered of an appending write; the rest is the program's to write again.
    if (at.chosen != nullptr) break;
  }
  fuse_reply_write(req, done);
}

void do_fsync(fuse_req_t req, fuse_ino_t node, int data_only, fuse_file_info* fi) {
  Impl& front = front_of(req);
  const auto handle = usable_file(req, node, fi->fh);
  if (!handle) return reply_error(req, handle.error());
  const auto done = front.service.fsync(caller_of(req), *handle, data_only != 0);
  fuse_reply_err(req, done ? 0 : done.error().value);
}

// ---- directories

void do_opendir(fuse_req_t req, fuse_ino_t node, fuse_file_info* fi) {
  Impl& front = front_of(req);
  const std::uint64_t seen = front.events_seen();
  WorkspacePath path;
  const auto opened = by_any_name(front, node, 0, [&](const FileRef& ref) {
    path = ref.path;
    return front.service.open_directory(caller_of(req), ref);
  });
  if (!opened) return reply_error(req, opened.error());
  auto cursor = std::make_shared<DirectoryCursor>();
  cursor->at_open = opened->attributes;
  cursor->seen = seen;
  const auto listing = front.nodes.open_listing(node, opened->attributes);
  cursor->epoch = listing.epoch;
  const auto id = keep_handle(req, {opened->handle, node, false, std::move(cursor)});
  if (!id) return reply_error(req, id.error());
  fi->fh = *id;
  const int sent = reply_kept(front, seen, path, opened->attributes.identity, [&](bool current) {
    fi->cache_readdir = current && opened->lifetime != Lifetime::none;
    fi->keep_cache = fi->cache_readdir && listing.keep;
    return fuse_reply_open(req, fi);
  });
  if (sent != 0) close_handle(req, node, *id, true);
}

void do_releasedir(fuse_req_t req, fuse_ino_t node, fuse_file_info* fi) {
  close_handle(req, node, fi->fh, true);
  fuse_reply_err(req, 0);
}

void do_fsyncdir(fuse_req_t req, fuse_ino_t node, int data_only, fuse_file_info* fi) {
  Impl& front = front_of(req);
  const auto open = front.handles.directory(fi->fh, node);
  if (!open) return reply_error(req, open.error());
  const auto service = wake(front, caller_of(req), fi->fh, *open);
  if (!service) return reply_error(req, service.error());
  const auto done = front.service.fsync(caller_of(req), *service, data_only != 0);
  fuse_reply_err(req, done ? 0 : done.error().value);
}

// A stretch of a listing: entries from FUSE offset `first` on.
struct Stretch {
  std::shared_ptr<const DirectoryPage> page;
  std::uint64_t first = 0;
};

// The page that holds the entry at `offset` (2 and up), from the cursor or the
// service. Pages are asked for in order; one begun before is asked for again
// by its position.
Result<Stretch, Errno> page_at(fuse_req_t req, const OpenHandle& open, std::uint64_t offset) {
  Impl& front = front_of(req);
  DirectoryCursor& cursor = *open.cursor;
  for (;;) {
    DirectoryCursor::Page wanted{2, 0};
    {
      const std::lock_guard lock(cursor.mutex);
      if (cursor.page) {
        const DirectoryCursor::Page& held = cursor.pages[cursor.current];
        const std::uint64_t behind = held.first + cursor.page->entries.size();
        if (offset >= held.first && (offset < behind || cursor.page->end))
          return Stretch{cursor.page, held.first};
        for (const auto& begun : cursor.pages)
          if (begun.first <= offset) wanted = begun;
        if (offset >= behind && wanted.first == held.first)
          wanted = {behind, cursor.page->next};
      }
    }
    const std::uint64_t seen = front.events_seen();
    FBROKER_TRY(DirectoryPage page, front.service.read_directory(caller_of(req), open.service,
                                                                 wanted.position, kEntriesPerPage));
    if (page.entries.empty()) page.end = true;  // or a service could keep us here
    const std::lock_guard lock(cursor.mutex);
    if (wanted.position == 0) {
      cursor.pages.clear();
      cursor.seen = std::max(cursor.seen, seen);
    }
    while (!cursor.pages.empty() && cursor.pages.back().first > wanted.first)
      cursor.pages.pop_back();
    if (cursor.pages.empty() || cursor.pages.back().first < wanted.first)
      cursor.pages.push_back(wanted);
    cursor.current = cursor.pages.size() - 1;
    cursor.page = std::make_shared<const DirectoryPage>(std::move(page));
  }
}

// What one READDIRPLUS answers.
class Listing {
 public:
  explicit Listing(std::size_t bytes) : bytes_(std::min<std::size_t>(bytes, kMaxTransfer)) {}

  // False: it has no room.
  bool add(fuse_req_t req, const char* name, const fuse_entry_param& entry, std::uint64_t next) {
    const std::size_t size = fuse_add_direntry_plus(req, nullptr, 0, name, nullptr, 0);
    if (used_ + size > bytes_) return false;
    used_ += size;
    lines_.push_back({name, entry, next});
    return true;
  }
  bool has_room(fuse_req_t req, const char* name) const {
    return used_ + fuse_add_direntry_plus(req, nullptr, 0, name, nullptr, 0) <= bytes_;
  }

  int reply(fuse_req_t req, bool current) {
    std::vector<char> buffer(used_);
    std::size_t at = 0;
    for (Line& line : lines_) {
      if (!current) line.entry.entry_timeout = line.entry.attr_timeout = 0;
      at += fuse_add_direntry_plus(req, buffer.data() + at, buffer.size() - at, line.name,
                                   &line.entry, static_cast<off_t>(line.next));
    }
    return fuse_reply_buf(req, buffer.data(), at);
  }

  void forget(InodeTable& nodes) const {
    for (const Line& line : lines_)
      if (line.entry.ino != 0) nodes.forget(line.entry.ino, 1);
  }
  bool empty() const { return lines_.empty(); }

 private:
  struct Line {
    const char* name;
    fuse_entry_param entry;
    std::uint64_t next;
  };
  std::size_t bytes_;
  std::size_t used_ = 0;
  std::vector<Line> lines_;
};

// "." and ".." count as no look-up: node 0 says so.
bool add_dots(fuse_req_t req, const OpenHandle& open, std::uint64_t& offset, Listing& listing) {
  static constexpr std::array kDots{".", ".."};
  for (; offset < kDots.size(); ++offset) {
    fuse_entry_param entry{};
    entry.attr.st_mode = S_IFDIR;
    entry.attr.st_ino = std::max<ino_t>(open.cursor->at_open.identity.inode, 1);
    if (!listing.add(req, kDots[offset], entry, offset + 1)) return false;
  }
  return true;
}

void add_entries(fuse_req_t req, const OpenHandle& open, std::uint64_t offset,
                 const Stretch& stretch, Listing& listing) {
  Impl& front = front_of(req);
  for (std::size_t i = offset - stretch.first; i < stretch.page->entries.size(); ++i) {
    const DirectoryEntry& found = stretch.page->entries[i];
    const Lifetime lifetime = stretch.page->lifetime;
    if (!listing.has_room(req, found.name.c_str())) return;
    const auto node = front.nodes.remember(open.node, found.name, found.attributes, lifetime);
    // Too many nodes: the name is listed and will be looked up by whoever wants it.
    const auto entry = to_entry(front, node ? *node : 0, found.attributes, lifetime);
    listing.add(req, found.name.c_str(), entry, stretch.first + i + 1);
  }
}

// Returns whether the answer is the last there is to this listing.
bool reply_listing(fuse_req_t req, const OpenHandle& open, const WorkspacePath& path,
                   Listing& listing, bool at_end) {
  Impl& front = front_of(req);
  DirectoryCursor& cursor = *open.cursor;
  std::uint64_t seen;
  {
    const std::lock_guard lock(cursor.mutex);
    seen = cursor.seen;
  }
  const int sent = reply_kept(front, seen, path, {}, [&](bool current) {
    front.nodes.listed(open.node, cursor.epoch, at_end && current, cursor.at_open);
    return listing.reply(req, current);
  });
  if (sent != 0) listing.forget(front.nodes);
  return sent == 0;
}

void do_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t off, fuse_file_info* fi) {
  Impl& front = front_of(req);
  auto open = front.handles.directory(fi->fh, node);
  if (!open) return reply_error(req, open.error());
  const auto service = wake(front, caller_of(req), fi->fh, *open);
  if (!service) return reply_error(req, service.error());
  open->service = *service;
  const auto view = front.nodes.view(node);
  if (!view) return reply_error(req, view.error());
  const WorkspacePath path = view->names.empty() ? WorkspacePath() : view->names.front().path;
  if (off < 0) return reply_error(req, Errno{EINVAL});
  auto offset = static_cast<std::uint64_t>(off);
  if (offset == 0) {  // rewinddir(3) shows what has changed
    const std::lock_guard lock(open->cursor->mutex);
    open->cursor->page.reset();
    open->cursor->pages.clear();
  }
  Listing listing(size);
  if (!add_dots(req, *open, offset, listing)) {
    reply_listing(req, *open, path, listing, false);
    return;
  }
  const auto stretch = page_at(req, *open, offset);
  if (!stretch) return reply_error(req, stretch.error());
  add_entries(req, *open, offset, *stretch, listing);
  const std::uint64_t behind = stretch->first + stretch->page->entries.size();
  reply_listing(req, *open, path, listing, stretch->page->end && offset >= behind);
}

// ---- forgetting, beginning

void do_forget(fuse_req_t req, fuse_ino_t node, std::uint64_t lookups) {
  front_of(req).nodes.forget(node, lookups);
  fuse_reply_none(req);
}

void do_forget_multi(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
  for (size_t i = 0; i < count; ++i)
    front_of(req).nodes.forget(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

void do_init(void* userdata, fuse_conn_info* connection) {
  // Not wanted: DONT_MASK (the kernel applies the umask), POSIX_LOCKS and FLOCK_LOCKS (locks are the kernel's),
  // READDIRPLUS_AUTO (attributes with every listing).
  connection->want |= connection->capable & (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_READDIRPLUS |
                                             FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_READ |
                                             FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_CACHE_SYMLINKS |
                                             FUSE_CAP_AUTO_INVAL_DATA);
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_IOCTL_DIR);
  Impl& front = *static_cast<Impl*>(userdata);
  // An earlier process's INIT offers it only where it was agreed on (restart.cc).
  if (front.options.write_back || front.resuming_init)
    connection->want |= connection->capable & FUSE_CAP_WRITEBACK_CACHE;
  front.writes_back = (connection->want & FUSE_CAP_WRITEBACK_CACHE) != 0;
  connection->max_write = kMaxTransfer;
  connection->max_read = kMaxTransfer;
  connection->max_readahead = kMaxTransfer;
  connection->max_background = 64;
  connection->congestion_threshold = 48;
  connection->time_gran = 1;
  front.kernel_minor = connection->proto_minor;
  front.initialised = true;
}

fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops ops{};
  ops.init = do_init;
  ops.lookup = do_lookup;
  ops.forget = do_forget;
  ops.forget_multi = do_forget_multi;
  ops.getattr = do_getattr;
  ops.setattr = do_setattr;
  ops.access = do_access;
  ops.readlink = do_readlink;
  ops.mknod = do_mknod;
  ops.mkdir = do_mkdir;
  ops.unlink = do_unlink;
  ops.rmdir = do_rmdir;
  ops.symlink = do_symlink;
  ops.rename = do_rename;
  ops.link = do_link;
  ops.open = do_open;
  ops.create = do_create;
  ops.read = do_read;
  ops.write = do_write;
  ops.fsync = do_fsync;
  ops.release = do_release;
  ops.opendir = do_opendir;
  ops.readdirplus = do_readdirplus;
  ops.releasedir = do_releasedir;
  ops.fsyncdir = do_fsyncdir;
  ops.statfs = do_statfs;
  return ops;
}

}  // namespace

const fuse_lowlevel_ops& operations() {
  static const fuse_lowlevel_ops ops = make_operations();
  return ops;
}

}  // namespace fbroker::fuse
