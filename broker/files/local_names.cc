// What is there: looking names up, attributes as the agent sees them, links.
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <climits>

#include "broker/files/calls.h"
#include "broker/files/own_files.h"
#include "broker/watch/host_watch.h"

namespace fbroker::broker {

using policy::Operation;
using protocol::Attributes;
using protocol::Caller;
using protocol::FileRef;
using protocol::FileType;
using protocol::Lifetime;
using protocol::Lookup;

namespace {

constexpr int kMaxLinks = 40;   // as the kernel's own MAXSYMLINKS

Lifetime shorter(Lifetime a, Lifetime b) { return a < b ? a : b; }

FileType type_of(const FileStat& stat) {
  if (stat.is_directory()) return FileType::directory;
  return stat.is_symlink() ? FileType::symlink : FileType::regular;
}

Result<std::string, Errno> read_link(int fd) {
  std::string target(PATH_MAX, '\0');
  const ssize_t size = ::readlinkat(fd, "", target.data(), target.size());
  if (size < 0) return Errno::last();
  target.resize(static_cast<std::size_t>(size));
  return target;
}

}  // namespace

Lifetime LocalFileService::watch(const Export& on, int directory, const FileStat& stat,
                                 const WorkspacePath& as) {
  if (on.is_static()) return Lifetime::until_told;
  if (session_.watch == nullptr) return Lifetime::one_second;
  return session_.watch->watch(directory, stat.identity, as) ? Lifetime::until_told
                                                             : Lifetime::one_second;
}

// Watches before it looks, so that no change falls between the two.
Result<LocalFileService::Found, Errno> LocalFileService::find(const Gate& gate, const Decided& decided,
                                                              Pinned pinned) {
  const Export& on = *decided.on;
  const WorkspacePath& path = decided.path;
  Found found;
  const ActAs as(on.owner());
  FBROKER_TRY(found.place, on.place_of(path));
  FBROKER_TRY(found.directory, stat_of(found.place.directory.get()));
  if (on.submounts() && session_.own_files.holds(found.place.directory.get())) {
    found.hidden = "own-files";
    return found;
  }
  // ATTACK: a rule hides /.env, and what is mounted there opens it as /.ENV too.
  const int parent = found.place.directory.get();
  const Folding folding = folding_.ask(parent, found.directory);
  if (folding == Folding::yes) {
    found.hidden = "folds-case";
    return found;
  }
  const bool inside = path != on.at();
  found.lifetime =
      watch(on, found.place.directory.get(), found.directory, inside ? path.parent() : path);

  const char* const name = found.place.name.c_str();
  if (pinned == Pinned::yes) {
    auto opened = on.open_child(parent, name, O_PATH | O_NOFOLLOW);
    if (!opened && opened.error().value == ENOENT) return found;
    // Another mount's root is looked at, and hidden, by its name.
    if (!opened && opened.error().value != EXDEV) return opened.error();
    if (opened) found.pinned = std::move(*opened);
  }
  auto stat = found.pinned ? stat_of(found.pinned.get()) : stat_at(parent, name);
  if (!stat && stat.error().value == ENOENT) return found;
  if (!stat) return stat.error();
  found.hidden = why_hidden(gate, decided, *stat);
  if (found.hidden == nullptr && inside && folding == Folding::unsaid &&
      is_other_spelling(parent, found.place.name))
    found.hidden = "folds-case";
  if (found.hidden != nullptr) return found;
  if (pinned == Pinned::yes && !found.pinned) return Errno{EXDEV};
  found.stat = *stat;

  // A directory's own times change with its entries, which only a watch on
  // itself can tell; a file with a second name, with a watch on every name.
  if (found.stat->is_directory() && inside) {
    UniqueFd opened;
    if (!found.pinned)
      if (auto self = on.open_child(parent, name, O_PATH | O_DIRECTORY)) opened = std::move(*self);
    const UniqueFd& self = found.pinned ? found.pinned : opened;
    found.lifetime = shorter(found.lifetime, self ? watch(on, self.get(), *found.stat, path)
                                                  : Lifetime::none);
  }
  // Nobody is told of a name that may be one of those (http: event_lines).
  if (inside && !decided.decision.allows(Operation::list))
    found.lifetime = shorter(found.lifetime, Lifetime::one_second);
  if (found.stat->is_regular() && found.stat->links > 1 && !on.is_static())
    found.lifetime = shorter(found.lifetime, Lifetime::one_second);
  return found;
}

Result<LocalFileService::Found, Errno> LocalFileService::find_existing(
    const Gate& gate, const Decided& decided, const protocol::FileIdentity& expect, Pinned pinned) {
  if (decided.on == nullptr) return Errno{ENOENT};
  auto found = find(gate, decided, pinned);
  if (!found) {
    if (found.error().value != EXDEV) return found.error();
    Decided hidden = decided;
    hidden.overruled = "submount";
    return refuse(gate, hidden, info_of(gate.call).needs, Errno{ENOENT});
  }
  if (found->hidden != nullptr) {
    Decided hidden = decided;
    hidden.overruled = found->hidden;
    return refuse(gate, hidden, info_of(gate.call).needs, Errno{ENOENT});
  }
  if (!found->stat) return Errno{ENOENT};
  if (!expect.any() && found->stat->identity != expect) return Errno{ESTALE};
  return found;
}

Result<Lookup, Errno> LocalFileService::lookup(const Caller& caller, const WorkspacePath& path) {
  const Gate gate = enter(caller, Call::lookup);
  const Decided decided = decide(gate, path);
  // The root is there in any case, so that there is something to mount.
  if (!decided.visible() && !path.is_root()) {
    // INVARIANT: what a rule hides answers as what is not there, and the disk is
    //   not asked, so that not even time tells the two apart.
    FBROKER_TRY_VOID(record(gate, decided, Operation::list, ENOENT));
    return Lookup{std::nullopt, Lifetime::none};
  }
  return answer_lookup(gate, decided);
}

// Precondition: the name is visible.
Result<Lookup, Errno> LocalFileService::answer_lookup(const Gate& gate, const Decided& decided) {
  const bool leads = gate.exports().leads_to_export(decided.path) || decided.path.is_root();
  const auto absent = [&](Lifetime lifetime) {
    return leads ? Lookup{synthetic(decided.path), Lifetime::until_told}
                 : Lookup{std::nullopt, lifetime};
  };
  if (decided.on == nullptr) return absent(Lifetime::none);
  auto found = find(gate, decided);
  const bool other_mount = !found && found.error().value == EXDEV;
  if (other_mount || (found && found->hidden != nullptr)) {
    Decided hidden = decided;
    hidden.overruled = other_mount ? "submount" : found->hidden;
    FBROKER_TRY_VOID(record(gate, hidden, Operation::list, ENOENT));
    return absent(Lifetime::none);
  }
  if (!found && found.error().value == ENOENT) return absent(Lifetime::none);
  if (!found) return found.error();
  if (!found->stat && !leads && !decided.decision.allows(Operation::list)) {
    // The same answer, and record, as for a file there that is not shown.
    Decided hidden = decided;
    hidden.overruled = "default";
    FBROKER_TRY_VOID(record(gate, hidden, Operation::list, ENOENT));
    return absent(Lifetime::none);
  }
  if (!found->stat) return absent(found->lifetime);
  // A directory that exists in its export hides no export below it; a file would.
  if (leads && !found->stat->is_directory()) return absent(Lifetime::none);
  return Lookup{attributes(decided, *found->stat), found->lifetime};
}

Result<Attributes, Errno> LocalFileService::stat(const Caller& caller, const FileRef& ref) {
  const Gate gate = enter(caller, Call::stat);
  if (ref.handle != 0) {
    const auto handle = handles_.find(ref.handle);
    if (!handle) return Errno{EBADF};
    FBROKER_TRY(Decided decided, permit_handle(gate, *handle, Operation::list));
    if (!handle->fd) return synthetic(decided.path);
    FBROKER_TRY(const FileStat stat, stat_of(handle->fd.get()));
    return attributes(decide(gate, decided.path), stat);
  }
  const Decided decided = decide(gate, ref.path);
  if (!decided.visible() && !ref.path.is_root())
    return refuse(gate, decided, Operation::list, Errno{ENOENT});
  FBROKER_TRY(const Lookup found, answer_lookup(gate, decided));
  if (!found.attributes) return Errno{ENOENT};
  if (!ref.expect.any() && found.attributes->identity != ref.expect) return Errno{ESTALE};
  return *found.attributes;
}

Result<std::string, Errno> LocalFileService::readlink(const Caller& caller, const FileRef& ref) {
  const Gate gate = enter(caller, Call::readlink);
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  FBROKER_TRY(const Decided decided, permit(gate, ref.path));
  FBROKER_TRY(const Found found, pin_down(gate, decided, ref.expect));
  if (!found.stat->is_symlink()) return Errno{EINVAL};
  FBROKER_TRY(std::string target, read_link(found.pinned.get()));
  FBROKER_TRY_VOID(record(gate, decided, Operation::read, 0, {.target = target}));
  return target;
}

Result<protocol::FileSystemStatus, Errno> LocalFileService::statfs(const Caller& caller,
                                                                   const WorkspacePath& path) {
  const Gate gate = enter(caller, Call::statfs);
  const Decided decided = decide(gate, path);
  if (!decided.visible() && !path.is_root())
    return refuse(gate, decided, Operation::list, Errno{ENOENT});
  const Export* on = decided.on;
  if (on == nullptr) return protocol::FileSystemStatus{.block_size = 4096};
  // Of the export's root: all below it is on one mount, or said to be shown.
  struct statfs status {};
  if (::fstatfs(on->root(), &status) != 0) return Errno::last();
  return protocol::FileSystemStatus{
      .block_size = static_cast<std::uint64_t>(status.f_bsize),
      .blocks = status.f_blocks,
      .blocks_free = status.f_bfree,
      .blocks_available = status.f_bavail,
      .files = status.f_files,
      .files_free = status.f_ffree,
      .name_max = static_cast<std::uint32_t>(status.f_namelen)};
}

// --- Attributes

// A directory's own link count and size tell how much is in it, hidden names
// too. One link is what file systems say that do not count (btrfs, FUSE).
constexpr std::uint32_t kDirectoryLinks = 1;
constexpr std::uint64_t kDirectoryBytes = 4096, kDirectoryBlocks = 8;

Attributes LocalFileService::attributes(const Decided& decided, const FileStat& stat) const {
  const bool directory = stat.is_directory();
  return {.identity = stat.identity,
          .type = type_of(stat),
          .permissions = shown_permissions(decided, stat),
          .links = directory ? kDirectoryLinks : stat.links,
          .size = directory ? kDirectoryBytes : stat.size,
          .blocks = directory ? kDirectoryBlocks : stat.blocks,
          .block_size = stat.block_size,
          .accessed = stat.accessed,
          .modified = stat.modified,
          .changed = stat.changed};
}

// r and w: what this session may really do, so the host's bits for the user the
// broker acts as, less what the policy forbids. The agent is the owner, so that
// class shows in the owner's place.
std::uint32_t LocalFileService::shown_permissions(const Decided& decided,
                                                  const FileStat& stat) const {
  constexpr std::uint32_t kRead = 0444, kWrite = 0222;
  if (stat.is_symlink()) return 0777;
  const Owner& owner = decided.on->owner();
  const std::uint32_t shift = stat.uid == owner.uid ? 6 : owner.in_group(stat.gid) ? 3 : 0;
  const std::uint32_t ours = (stat.mode >> shift & 6u) << 6;
  std::uint32_t shown = (stat.mode & 01177u) | ours;
  const bool directory = stat.is_directory();
  if (!decided.allows(directory ? Operation::list : Operation::read)) shown &= ~kRead;
  const bool writes = directory ? decided.allows(Operation::create) || decided.allows(Operation::delete_)
                                : decided.allows(Operation::write);
  if (!writes) shown &= ~kWrite;
  return shown;
}

// A directory that exists only because an export lies below it.
Attributes LocalFileService::synthetic(const WorkspacePath& path) {
  Attributes attributes;
  attributes.identity = {.device = 0, .inode = std::hash<WorkspacePath>()(path) | 1, .birth_ns = 1};
  attributes.type = FileType::directory;
  attributes.permissions = 0555;
  attributes.links = kDirectoryLinks;
  attributes.size = kDirectoryBytes;
  attributes.blocks = kDirectoryBlocks;
  return attributes;
}

// --- Paths with links in them

// Walked by the broker itself, link by link on workspace paths, as the kernel
// does it through FUSE. ATTACK: were the kernel asked to follow (RESOLVE_BENEATH),
//   it would also follow links that a rule hides, and a link to a hidden file
//   would tell whether that file exists. Nothing is opened here: the call made
//   on the result decides and opens anew, following no link.
Result<WorkspacePath, Errno> LocalFileService::resolve(const Caller& caller, std::string_view raw,
                                                       bool follow_last) {
  FBROKER_TRY(WorkspacePath left, WorkspacePath::parse(raw));
  const Gate gate = enter(caller, Call::resolve);
  std::string rest = left.is_root() ? "" : left.bytes().substr(1);
  WorkspacePath path;
  std::optional<Decided> link;  // the last one followed
  std::string target;           // and what it says
  const auto leaves = [&] {
    link->overruled = "link-leaves-workspace";
    return refuse(gate, *link, Operation::read, Errno{EACCES}, {.target = target});
  };
  for (int links = 0; !rest.empty();) {
    const std::size_t slash = rest.find('/');
    const std::string name = rest.substr(0, slash);
    rest = slash == rest.npos ? "" : rest.substr(slash + 1);
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      if (path.is_root()) return leaves();  // only a link says ".." here
      path = path.parent();
      continue;
    }
    FBROKER_TRY(WorkspacePath next, path.child(name));
    if (rest.empty() && !follow_last) return next;
    const Decided decided = decide(gate, next);
    auto said = link_target(gate, decided);
    if (!said) {
      path = std::move(next);
      continue;
    }
    if (++links > kMaxLinks) return Errno{ELOOP};
    link = decided;
    target = std::move(*said);
    if (target.starts_with("/")) return leaves();
    rest = rest.empty() ? target : target + "/" + rest;
    if (rest.size() > kMaxPathBytes) return Errno{ENAMETOOLONG};
  }
  return path;
}

// Errors: EINVAL for what is no link, or none that this session may read.
Result<std::string, Errno> LocalFileService::link_target(const Gate& gate, const Decided& decided) {
  if (!decided.allows(Operation::read) || decided.on == nullptr) return Errno{EINVAL};
  const auto found = find(gate, decided, Pinned::yes);
  if (!found || !found->stat || !found->stat->is_symlink()) return Errno{EINVAL};
  return read_link(found->pinned.get());
}

}  // namespace fbroker::broker
