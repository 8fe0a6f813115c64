// Making, removing and renaming names.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <memory>

#include "broker/files/calls.h"
#include "broker/files/git_files.h"
#include "broker/files/own_files.h"
#include "broker/files/symlink_target.h"
#include "broker/watch/host_watch.h"

namespace fbroker::broker {

using policy::Operation;
using protocol::Caller;
using protocol::FileIdentity;
using protocol::FileRef;
using protocol::Lookup;

namespace {

// Entries looked at, before a directory that moves up is refused for its size:
// many, and few while another such look was a moment ago.
constexpr std::size_t kMaxMovedEntries = 100'000;
constexpr std::size_t kFreeEntries = 64;
constexpr std::chrono::milliseconds kMaxScan{300};
constexpr std::chrono::seconds kScanPause{2};
constexpr int kMaxMovedDepth = 128;

Result<void, Errno> result_of(int returned) {
  if (returned != 0) return Errno::last();
  return ok;
}

// How many directories lie between an export's root and the file at `path`.
std::size_t depth_of(const Export& on, const WorkspacePath& path) {
  const std::string_view below = path.below(on.at());
  return static_cast<std::size_t>(std::count(below.begin(), below.end(), '/'));
}

struct ScanBudget {
  std::size_t entries = 0;
  std::chrono::steady_clock::time_point until;

  bool spend() {
    if (entries == 0) return false;
    --entries;
    return entries % 64 != 0 || std::chrono::steady_clock::now() < until;
  }
};

// Whether every link at or below `name` would stay within the export when
// `name` itself lies `depth` below its root. False also for what is too large
// to be looked through.
bool links_stay(const Export& on, int directory, const char* name, std::size_t depth, int nesting,
                ScanBudget& budget) {
  if (!budget.spend() || nesting > kMaxMovedDepth) return false;
  const auto stat = stat_at(directory, name);
  if (!stat) return false;
  if (stat->is_symlink()) {
    char target[PATH_MAX];
    const ssize_t size = ::readlinkat(directory, name, target, sizeof target);
    return size >= 0 && target_stays({target, static_cast<std::size_t>(size)}, depth);
  }
  if (!stat->is_directory()) return true;
  auto opened = on.open_child(directory, name, O_RDONLY | O_DIRECTORY);
  if (!opened) return false;
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(opened->get()), &::closedir);
  if (!stream) return false;
  const int self = opened->release();
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string_view child(entry->d_name);
    if (child == "." || child == "..") continue;
    if (!links_stay(on, self, entry->d_name, depth + 1, nesting + 1, budget)) return false;
  }
  return true;
}

// Whether git would read at `to` what nobody has looked at for that place: the
// tool then copies, and what it writes is looked at.
bool git_would_look_anew(const WorkspacePath& from, const WorkspacePath& to, const FileStat& what) {
  if (what.is_symlink()) return git::link_misleads(to, {});
  if (!what.is_directory())
    return git::role_of(to) != git::Role::none &&
           (git::role_of(from) != git::role_of(to) || from.parent() != to.parent());
  if (git::roles_differ_below(from, to)) return true;
  // A submodule's configuration counts the folders that it lies deep.
  const auto depth = [](const WorkspacePath& path) { return std::ranges::count(path.bytes(), '/'); };
  return git::is_within_repository(to) && depth(from) != depth(to);
}

}  // namespace

Errno LocalFileService::refuse_for_git(const Gate& gate, Decided decided, Errno error,
                                       RecordWords words) {
  decided.overruled = kGitGuard;
  if (words.detail.empty()) words.detail = "git on the host would follow it";
  return refuse(gate, decided, Operation::create, error, std::move(words));
}

// May something new be made at this path? What is hidden there answers as what
// is forbidden, whether it exists or not.
Result<LocalFileService::Decided, Errno> LocalFileService::permit_new(const Gate& gate,
                                                                      const WorkspacePath& path) {
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  Decided decided = decide(gate, path);
  if (!decided.allows(Operation::create)) {
    if (decided.visible() && decided.on != nullptr) {
      // A visible name that is there says so: mkdir -p counts on it.
      const auto found = find(gate, decided);
      if (found && found->stat) return Errno{EEXIST};
    }
    return refuse(gate, decided, Operation::create, Errno{EACCES});
  }
  if (gate.exports().is_export(path) || gate.exports().leads_to_export(path)) return Errno{EEXIST};
  if (decided.on == nullptr) return Errno{EROFS};
  return decided;
}

// --- Making

Result<Lookup, Errno> LocalFileService::mkdir(const Caller& caller, const WorkspacePath& path,
                                              std::uint32_t permissions) {
  return holding_names<NamesShared>(caller, Call::mkdir,
                                    [&](const Gate& gate) { return make_directory(gate, path, permissions); });
}

Result<Lookup, Errno> LocalFileService::make_directory(const Gate& gate, const WorkspacePath& path,
                                                       std::uint32_t permissions) {
  FBROKER_TRY(const Decided decided, permit_new(gate, path));
  const ActAs as(decided.on->owner());
  FBROKER_TRY(const Found before, find(gate, decided));
  if (before.hidden != nullptr || before.stat) return Errno{EEXIST};
  FileStat made;
  const auto outcome = [&]() -> Result<void, Errno> {
    const int parent = before.place.directory.get();
    const char* name = before.place.name.c_str();
    FBROKER_TRY_VOID(result_of(::mkdirat(parent, name, 0700)));
    FBROKER_TRY(const UniqueFd fd, decided.on->open_child(parent, name, O_PATH | O_DIRECTORY));
    const DescriptorName self(fd.get());
    FBROKER_TRY_VOID(result_of(::fchmodat(self.directory(), self.name(), permissions & 0777, 0)));
    FBROKER_TRY(made, stat_of(fd.get()));
    return ok;
  }();
  if (outcome) created_.add(gate.exports().location_of(path), made.identity);
  if (outcome) tell_own_change(gate, path, before.directory.identity, &made);
  FBROKER_TRY_VOID(finish(gate, decided, Operation::create, outcome));
  return answer_lookup(gate, decide(gate, path));
}

Result<Lookup, Errno> LocalFileService::symlink(const Caller& caller, std::string_view target,
                                                const WorkspacePath& path) {
  if (target.empty()) return Errno{ENOENT};
  if (target.size() > kMaxPathBytes - 1) return Errno{ENAMETOOLONG};
  if (target.find('\0') != target.npos) return Errno{EINVAL};
  return holding_names<NamesShared>(caller, Call::symlink,
                                    [&](const Gate& gate) { return make_symlink(gate, target, path); });
}

Result<Lookup, Errno> LocalFileService::make_symlink(const Gate& gate, std::string_view target,
                                                     const WorkspacePath& path) {
  FBROKER_TRY(const Decided decided, permit_new(gate, path));
  const RecordWords words{.target = std::string(target)};
  // ATTACK: the broker follows no link and the agent's kernel stays in its
  //   container, but the person's own editor or build follows what lies here.
  if (!target_stays(target, depth_of(*decided.on, path)))
    return refuse(gate, decided, Operation::create, Errno{EPERM},
                  {.target = words.target, .detail = "link leaves its export"});
  // ATTACK: ".git", or "modules" in it, as a link to where no guard watches.
  if (git::link_misleads(path, target) && is_guarded_by_git(gate, path))
    return refuse_for_git(gate, decided, Errno{EPERM}, words);
  FBROKER_TRY(const Found before, find(gate, decided));
  if (before.hidden != nullptr || before.stat) return Errno{EEXIST};
  const auto outcome = [&] {
    const ActAs as(decided.on->owner());
    return result_of(::symlinkat(words.target.c_str(), before.place.directory.get(),
                                 before.place.name.c_str()));
  }();
  if (outcome) tell_own_change(gate, path, before.directory.identity, nullptr);
  FBROKER_TRY_VOID(finish(gate, decided, Operation::create, outcome, words));
  return answer_lookup(gate, decided);
}

Result<Lookup, Errno> LocalFileService::link(const Caller& caller, const FileRef& existing,
                                             const WorkspacePath& added) {
  return holding_names<NamesAlone>(caller, Call::link,
                                   [&](const Gate& gate) { return make_link(gate, existing, added); });
}

Result<Lookup, Errno> LocalFileService::make_link(const Gate& gate, const FileRef& existing,
                                                  const WorkspacePath& added) {
  FBROKER_TRY(const Decided source, permit(gate, existing.path, Operation::list));
  FBROKER_TRY(const Decided decided, permit_new(gate, added));
  FBROKER_TRY(const Found from, pin_down(gate, source, existing.expect));
  const RecordWords words{.target = added.bytes()};
  if (!from.stat->is_regular()) return Errno{EPERM};
  if (source.on != decided.on) return Errno{EXDEV};
  if (from.stat->is_set_id())
    return refuse(gate, source, Operation::create, Errno{EPERM}, {.target = words.target, .detail = "set-id file"});
  // INVARIANT: a second name never allows what the first does not.
  if (!links_.has_room() ||
      gate.snapshot().would_widen(existing.path, added, false,
                                  {.created_by_session = is_created(gate, existing.path)},
                                  {.created_by_session = is_created(gate, added)}))
    return refuse(gate, source, Operation::create, Errno{EXDEV}, {.target = words.target, .detail = "would widen"});
  // ATTACK: what is looked at under one name would be written under the other.
  for (const Decided& name : {source, decided})
    if (git::role_of(name.path) != git::Role::none && is_guarded_by_git(gate, name.path))
      return refuse_for_git(gate, decided, Errno{EPERM}, words);
  FBROKER_TRY(const Found before, find(gate, decided));
  if (before.hidden != nullptr || before.stat) return Errno{EEXIST};
  const DescriptorName itself(from.pinned.get());
  const auto outcome = [&] {
    const ActAs as(decided.on->owner());
    // By descriptor, so that it is the file that was decided on.
    return result_of(::linkat(itself.directory(), itself.name(), before.place.directory.get(),
                              before.place.name.c_str(), AT_SYMLINK_FOLLOW));
  }();
  if (outcome) {
    links_.add(existing.path, added);
    const auto now = stat_of(from.pinned.get());
    tell_own_change(gate, added, before.directory.identity, now ? &*now : nullptr);
    tell_own_change(gate, existing.path, from.directory.identity, now ? &*now : nullptr);
  }
  FBROKER_TRY_VOID(finish(gate, source, Operation::list, outcome, words));
  return answer_lookup(gate, decided);
}

// --- Removing

Result<void, Errno> LocalFileService::unlink(const Caller& caller, const WorkspacePath& path) {
  return holding_names<NamesAlone>(caller, Call::unlink,
                                   [&](const Gate& gate) { return remove(gate, path, false); });
}

Result<void, Errno> LocalFileService::rmdir(const Caller& caller, const WorkspacePath& path) {
  return holding_names<NamesAlone>(caller, Call::rmdir,
                                   [&](const Gate& gate) { return remove(gate, path, true); });
}

Result<void, Errno> LocalFileService::remove(const Gate& gate, const WorkspacePath& path,
                                             bool directory) {
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  // Names are held alone: this one must still be the file that was looked at when it goes.
  const Decided decided = decide(gate, path);
  if (!decided.visible()) return refuse(gate, decided, Operation::delete_, Errno{ENOENT});
  if (!decided.allows(Operation::delete_)) {
    const auto found = find_existing(gate, decided);
    return refuse(gate, decided, Operation::delete_, found ? Errno{EACCES} : found.error());
  }
  if (holds_fixed(gate, path)) return refuse(gate, decided, Operation::delete_, Errno{EBUSY});
  if (decided.on == nullptr) return Errno{ENOENT};
  const ActAs as(decided.on->owner());
  FBROKER_TRY(const Found found, find_existing(gate, decided));
  if (found.stat->is_directory() != directory) return Errno{directory ? ENOTDIR : EISDIR};
  const bool persons = directory && !is_created(gate, path);
  const auto outcome = [&] {
    return result_of(::unlinkat(found.place.directory.get(), found.place.name.c_str(),
                                directory ? AT_REMOVEDIR : 0));
  }();
  if (outcome) {
    mark_unlinked(gate, path, found.stat->identity);
    links_.forget(path);
    const HostLocation place = gate.exports().location_of(path);
    if (directory) created_.forget(place);
    if (persons) created_.persons_was(place, CreatedSet::Gone::removed);
    tell_own_change(gate, path, found.directory.identity, nullptr);
  }
  return finish(gate, decided, Operation::delete_, outcome);
}

// --- Renaming

Result<void, Errno> LocalFileService::rename(const Caller& caller, const WorkspacePath& from,
                                             const WorkspacePath& to, unsigned flags) {
  if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE)) != 0) return Errno{EINVAL};
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  return holding_names<NamesAlone>(caller, Call::rename, [&](const Gate& gate) {
    return rename_locked(gate, from, to, flags);
  });
}

Result<void, Errno> LocalFileService::rename_locked(const Gate& gate, const WorkspacePath& from,
                                                    const WorkspacePath& to, unsigned flags) {
  const RecordWords words{.target = to.bytes()};
  const Decided source = decide(gate, from);
  const Decided target = decide(gate, to);
  if (!source.visible()) return refuse(gate, source, Operation::delete_, Errno{ENOENT}, words);
  if (source.on == nullptr) return Errno{ENOENT};
  const ActAs as(source.on->owner());
  FBROKER_TRY(const Found moving, find_existing(gate, source));
  if (from == to && (flags & RENAME_NOREPLACE) != 0) return Errno{EEXIST};
  if (from == to) return ok;
  FBROKER_TRY_VOID(check_rename(gate, source, target, moving));
  FBROKER_TRY(const Found there, find(gate, target));
  FBROKER_TRY_VOID(check_replaced(gate, target, there, flags));
  // ATTACK: a directory that was filled where no guard held takes the place of
  //   one of the person's, whose name the person's tools know.
  const HostLocation left = gate.exports().location_of(from);
  const HostLocation taken = gate.exports().location_of(to);
  const bool persons_place = created_.was_persons(taken) || (there.stat && !is_created(gate, to));
  if (moving.stat->is_directory() && persons_place && created_.made_any_of(left))
    return refuse(gate, source, Operation::delete_, Errno{EXDEV},
                  {.target = words.target, .detail = "a created directory where the person's was"});

  const bool was_created = is_created(gate, from);
  const auto outcome = [&] {
    return result_of(::renameat2(moving.place.directory.get(), moving.place.name.c_str(),
                                 there.place.directory.get(), there.place.name.c_str(), flags));
  }();
  // Two names of one file: rename(2) then does nothing at all.
  const bool same_file = there.stat && there.stat->identity == moving.stat->identity;
  if (outcome && !same_file) {
    if (there.stat) mark_unlinked(gate, to, there.stat->identity);
    links_.forget(to);
    links_.moved(from, to);
    created_.forget(taken);
    created_.moved(left, taken);
    if (moving.stat->is_directory() && !was_created) created_.persons_was(left, CreatedSet::Gone::moved);
    if (moving.stat->is_directory()) {
      if (was_created) created_.add(taken, moving.stat->identity);
      else if (is_created(gate, to)) created_.add_persons(taken);
    }
    follow_rename(gate, from, to, there.directory.identity);
    const auto now = stat_at(there.place.directory.get(), there.place.name.c_str());
    tell_own_change(gate, from, moving.directory.identity, nullptr);
    tell_own_change(gate, to, there.directory.identity, now ? &*now : nullptr);
    if (session_.watch != nullptr && moving.stat->is_directory()) session_.watch->moved(from, to);
  }
  return finish(gate, source, Operation::delete_, outcome, words);
}

// Whether the policy lets this file go from there to here.
Result<void, Errno> LocalFileService::check_rename(const Gate& gate, const Decided& source,
                                                   const Decided& target, const Found& moving) {
  const RecordWords words{.target = target.path.bytes()};
  if (!source.allows(Operation::delete_))
    return refuse(gate, source, Operation::delete_, Errno{EACCES}, words);
  if (!target.allows(Operation::create))
    return refuse(gate, target, Operation::create, Errno{EACCES}, {.detail = "from " + source.path.bytes()});
  if (moving.stat->is_regular() && !target.allows(Operation::write))
    return refuse(gate, target, Operation::write, Errno{EACCES}, {.detail = "from " + source.path.bytes()});
  if (holds_fixed(gate, source.path) || holds_fixed(gate, target.path))
    return refuse(gate, source, Operation::delete_, Errno{EBUSY}, words);
  if (target.on == nullptr) return Errno{EROFS};
  if (target.path.is_at_or_below(source.path)) return Errno{EINVAL};
  if (source.on != target.on) return Errno{EXDEV};
  // ATTACK: moved to where its name is too long and back again, a link, an open
  //   file or one of the person's directories would be known no more.
  if (!names_fit(source.path, target.path))
    return refuse(gate, source, Operation::delete_, Errno{ENAMETOOLONG}, words);
  // INVARIANT: a rename never changes what the policy says of a file. A
  //   directory remains whose it was, a file becomes part of where it goes.
  const bool directory = moving.stat->is_directory();
  const bool created = is_created(gate, source.path);
  const bool to_created = is_created(gate, target.path);
  const bool remembered = created == to_created || created_.has_room();
  if (!remembered || gate.snapshot().would_widen(source.path, target.path, directory,
                                                 {.created_by_session = created},
                                                 {.created_by_session = directory ? created : to_created}))
    return refuse(gate, source, Operation::delete_, Errno{EXDEV}, {.target = words.target, .detail = "would widen"});
  if (git_would_look_anew(source.path, target.path, *moving.stat) &&
      is_guarded_by_git(gate, target.path))
    return refuse_for_git(gate, target, Errno{EXDEV}, {.detail = "from " + source.path.bytes()});
  // ATTACK: a relative link made deep in a tree climbs out of the export once
  //   the tree is moved up.
  const std::size_t depth = depth_of(*source.on, target.path);
  if (!moving.stat->is_regular() && depth < depth_of(*source.on, source.path) &&
      !links_stay_below(*source.on, moving.place, depth))
    return refuse(gate, source, Operation::delete_, Errno{EXDEV},
                  {.target = words.target, .detail = "link would leave its export"});
  return ok;
}

// Precondition: names_ is held alone; so a revoke may have to wait for this, and
//   for others behind it.
// ATTACK: many such renames, one after the other. After each there is a pause in
//   which whatever cannot be seen through at once is refused.
bool LocalFileService::links_stay_below(const Export& on, const Place& moving, std::size_t depth) {
  const auto begun = std::chrono::steady_clock::now();
  ScanBudget budget;
  budget.entries = begun < next_scan_ ? kFreeEntries : kMaxMovedEntries;
  budget.until = begun + kMaxScan;
  const ActAs as(on.owner());
  const bool stay = links_stay(on, moving.directory.get(), moving.name.c_str(), depth, 0, budget);
  const auto now = std::chrono::steady_clock::now();
  if (now - begun > kMaxScan / 10) next_scan_ = now + kScanPause;
  return stay;
}

// Whether what lies at the target may be replaced.
Result<void, Errno> LocalFileService::check_replaced(const Gate& gate, const Decided& target,
                                                     const Found& there, unsigned flags) {
  if (there.hidden != nullptr) {
    Decided hidden = target;
    hidden.overruled = there.hidden;
    return refuse(gate, hidden, Operation::create, Errno{EACCES});
  }
  if (!there.stat) return ok;
  if ((flags & RENAME_NOREPLACE) != 0) return Errno{EEXIST};
  for (const Operation operation : {Operation::write, Operation::delete_})
    if (!target.allows(operation)) return refuse(gate, target, operation, Errno{EACCES});
  return ok;
}

// --- After a change

void LocalFileService::tell_own_change(const Gate& gate, const WorkspacePath& path,
                                       const FileIdentity& directory, const FileStat* now) {
  if (session_.watch != nullptr)
    session_.watch->own_change(directory, path.is_root() ? "." : path.name(),
                               now ? now->identity : FileIdentity{}, now ? now->changed : timespec{});
  for (const WorkspacePath& other : gate.exports().other_names(path))
    session_.events.publish(protocol::EventKind::entry, other, now ? now->identity : FileIdentity{});
}

// Precondition: names_ is held alone.
bool LocalFileService::names_fit(const WorkspacePath& from, const WorkspacePath& to) const {
  if (to.bytes().size() <= from.bytes().size()) return true;
  if (!links_.fits(from, to)) return false;
  const auto handles = handles_.all();
  return std::ranges::all_of(handles, [&](const auto& handle) {
    const std::lock_guard lock(handle->mutex);
    return handle->unlinked || !handle->path.is_at_or_below(from) || handle->path.moved(from, to).has_value();
  });
}

// Precondition: names_ is held alone.
void LocalFileService::follow_rename(const Gate& gate, const WorkspacePath& from,
                                     const WorkspacePath& to, const FileIdentity& directory) {
  const ExportTable& exports = gate.exports();
  const HostLocation left = exports.location_of(from), taken = exports.location_of(to);
  // The same through another export: none, where that does not show the new place.
  const auto elsewhere = [&](const Handle& handle, const std::string& rest) -> Result<WorkspacePath, Errno> {
    for (const WorkspacePath& name : exports.names_of(taken.at(rest)))
      if (exports.find(name) == handle.on.get()) return name;
    return Errno{ENOENT};
  };
  for (const auto& handle : handles_.all()) {
    const std::lock_guard lock(handle->mutex);
    if (handle->unlinked) continue;
    const bool below = handle->path.is_at_or_below(from);
    if (!below && !exports.overlapping()) continue;
    const auto rest = below ? std::nullopt : exports.location_of(handle->path).below(left);
    if (!below && !rest) continue;
    // What has no name there is judged by where the kernel says it is.
    handle->stamp.store(0, std::memory_order_release);
    auto path = below ? handle->path.moved(from, to) : elsewhere(*handle, *rest);
    if (!path) continue;
    if (handle->path == from) handle->in_directory = directory;
    handle->path = std::move(*path);
    handle->named_for_git = git::role_of(handle->path) != git::Role::none;
  }
}

// Precondition: names_ is held alone.
void LocalFileService::mark_unlinked(const Gate& gate, const WorkspacePath& path,
                                     const FileIdentity& identity) {
  const ExportTable& exports = gate.exports();
  const HostLocation place = exports.location_of(path);
  for (const auto& handle : handles_.all()) {
    const std::lock_guard lock(handle->mutex);
    const bool named = handle->path == path ||
                       (exports.overlapping() && exports.location_of(handle->path) == place);
    if (!named || handle->unlinked) continue;
    // ATTACK: a directory that the host moved away, and another one made and
    //   removed in its place.
    const auto stat = handle->fd ? stat_of(handle->fd.get()) : Result<FileStat, Errno>(Errno{EBADF});
    handle->unlinked = stat && stat->identity == identity;
  }
}

}  // namespace fbroker::broker
