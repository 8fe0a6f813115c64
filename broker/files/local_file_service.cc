#include "broker/files/local_file_service.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <utility>

#include "broker/files/calls.h"
#include "broker/files/git_files.h"
#include "broker/files/own_files.h"
#include "broker/files/revoked_files.h"
#include "broker/watch/host_watch.h"

namespace fbroker::broker {

using policy::Effect;
using policy::Operation;
using protocol::Caller;

namespace {

constexpr std::string_view kDeleted = " (deleted)";   // proc(5), of a name that is gone

std::size_t bounded_by_descriptors(std::size_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return wanted;
  return std::min<std::size_t>(wanted, limit.rlim_cur / 2);
}

constexpr std::uint64_t stamp_of(std::uint64_t generation, Rights rights) {
  return generation << 2 | static_cast<std::uint64_t>(rights.write) << 1 |
         static_cast<std::uint64_t>(rights.read);
}

}  // namespace

LocalFileService::LocalFileService(SessionContext& session, LocalFileServiceOptions options)
    : session_(session),
      options_(std::move(options)),
      handles_(bounded_by_descriptors(options_.max_handles)) {}

LocalFileService::~LocalFileService() { close_all(); }

// --- The gate

LocalFileService::Gate LocalFileService::enter(const Caller& caller, Call call) {
  return Gate{session_.admissions.admit(), caller, call};
}

bool LocalFileService::Decided::allows(Operation operation) const {
  // Something visible below makes a directory visible, and nothing more.
  return operation == Operation::list ? decision.visible() : decision.allows(operation);
}

// Calls that change what has a name, by that name: each is a use of a grant for
// one open, as the open is that a program would have made instead.
static bool uses_up_grants(const policy::Operation needs, bool by_open_file) {
  return !by_open_file && (needs == Operation::write || needs == Operation::create || needs == Operation::delete_);
}

LocalFileService::Decided LocalFileService::decide(const Gate& gate, const WorkspacePath& path) {
  Decided decided = decide_by_policy(gate, path);
  if (uses_up_grants(info_of(gate.call).needs, gate.call == Call::write)) claim_once(gate, decided);
  return decided;
}

// ATTACK: many truncations at once, or one after the other, by a grant for one.
//   The first that is decided has the grant; to all others it is used.
void LocalFileService::claim_once(const Gate& gate, Decided& decided) {
  for (auto& entry : decided.decision.entries) {
    if (entry.effect != Effect::allow) continue;
    const std::string_view reason = gate.snapshot().reason(entry.reason).id;
    for (const policy::Grant& grant : gate.snapshot().grants()) {
      if (!grant.once || grant.id != reason) continue;
      if (!gate.claims) gate.claims.reset(new Claims{*this});
      if (gate.claims->has(grant.id)) continue;
      const std::lock_guard lock(claims_mutex_);
      if (claims_.insert(grant.id).second) gate.claims->pins.push_back({grant.id, grant.override_deny});
      else entry = {};   // denied, by no rule
    }
  }
}

bool LocalFileService::Claims::has(std::string_view grant) const {
  const auto is_it = [&](const Pin& pin) { return pin.grant == grant; };
  return std::any_of(pins.begin(), pins.end(), is_it) || std::any_of(used.begin(), used.end(), is_it);
}

bool LocalFileService::use_up(const std::vector<Pin>& used) {
  bool kept = true;
  const ActAsItself itself;   // where grants are kept is the broker's own
  if (options_.on_grant_used)
    for (const Pin& pin : used) kept = options_.on_grant_used(pin.grant) && kept;
  return kept;
}

// INVARIANT: this is the one place that asks the policy about a path.
LocalFileService::Decided LocalFileService::decide_by_policy(const Gate& gate, const WorkspacePath& path) {
  Decided decided;
  decided.path = path;
  decided.on = gate.exports().find(path);
  if (is_own(gate, path)) {
    decided.overruled = "own-files";   // every entry of a new PathDecision is "deny"
    return decided;
  }
  decided.decision = gate.snapshot().decide(path);
  const auto& entries = decided.decision.entries;
  const bool guarded =
      std::any_of(entries.begin(), entries.end(), [](const auto& entry) { return entry.guard; });
  if (!guarded || !is_created(gate, path)) return decided;
  const policy::PathDecision before = decided.decision;
  if (const git::Role role = git::role_of(path);
      role != git::Role::none && git_guard_holds(gate.admission.view().git_guard.get(), path)) {
    if (role == git::Role::closed) return decided;
    decided.vetted = true;
  }
  decided.decision = gate.snapshot().decide(path, {.created_by_session = true});
  for (std::size_t at = 0; at < policy::kOperations; ++at)
    if (before.entries[at].guard && decided.decision.entries[at].effect == Effect::allow)
      decided.lifted.add(static_cast<Operation>(at));
  return decided;
}

Result<LocalFileService::Decided, Errno> LocalFileService::permit(const Gate& gate,
                                                                  const WorkspacePath& path) {
  return permit(gate, path, info_of(gate.call).needs);
}

Result<LocalFileService::Decided, Errno> LocalFileService::permit(const Gate& gate,
                                                                  const WorkspacePath& path,
                                                                  Operation operation) {
  Decided decided = decide(gate, path);
  if (decided.allows(operation)) return decided;
  return refuse(gate, decided, operation, Errno{decided.visible() ? EACCES : ENOENT});
}

Errno LocalFileService::refuse(const Gate& gate, const Decided& decided, Operation operation,
                               Errno error, RecordWords words) {
  if (auto written = record(gate, decided, operation, error.value, std::move(words)); !written)
    return written.error();
  return error;
}

Result<void, Errno> LocalFileService::record(const Gate& gate, const Decided& decided,
                                             Operation operation, int error, RecordWords words) {
  const auto& entry = decided.decision.of(operation);
  audit::Record record;
  record.session = session_.name;
  record.operation = info_of(gate.call).name;
  record.path = decided.path.bytes();
  if (gate.caller.requested != record.path) record.requested = gate.caller.requested;
  record.target = std::move(words.target);
  record.host_path = gate.exports().host_path(decided.path);
  const bool listed = operation == Operation::list && decided.visible();
  record.decision = name_of(decided.overruled != nullptr ? Effect::deny
                            : listed                     ? Effect::allow
                                                         : entry.effect);
  record.reason = decided.overruled != nullptr ? decided.overruled
                                               : gate.snapshot().reason(entry.reason).id;
  record.error = error;
  record.pid = gate.caller.pid;
  record.peer_pid = gate.caller.peer_pid;
  record.handle = words.handle;
  record.bytes_read = words.bytes_read;
  record.bytes_written = words.bytes_written;
  record.detail = std::move(words.detail);
  if (decided.lifted.has(operation)) record.detail += record.detail.empty() ? "created-by-session" : " created-by-session";
  return session_.audit.append(record);
}

Result<void, Errno> LocalFileService::finish(const Gate& gate, const Decided& decided,
                                             Operation operation,
                                             const Result<void, Errno>& outcome, RecordWords words) {
  const int error = outcome ? 0 : outcome.error().value;
  FBROKER_TRY_VOID(record(gate, decided, operation, error, std::move(words)));
  // Changed, so used: whatever else the call does, it gives nothing back.
  if (outcome && gate.claims) {
    const auto used = std::exchange(gate.claims->pins, {});
    gate.claims->used.insert(gate.claims->used.end(), used.begin(), used.end());
    if (!use_up(used)) return Errno{EIO};
  }
  if (outcome && !decided.lifted.empty()) {
    const std::lock_guard lock(guarded_mutex_);
    if (guarded_.size() < kMaxGuarded) guarded_.insert(decided.path);
  }
  return outcome;
}

std::vector<WorkspacePath> LocalFileService::created_guarded() const {
  const std::lock_guard lock(guarded_mutex_);
  return {guarded_.begin(), guarded_.end()};
}

bool LocalFileService::is_created(const Gate& gate, const WorkspacePath& path) const {
  const auto covering = created_.covering(gate.exports().location_of(path));
  if (!covering) return false;
  WorkspacePath above = path;
  for (std::size_t up = covering->levels; up > 0 && !above.is_root(); --up) above = above.parent();
  const Export* on = gate.exports().find(above);
  if (on == nullptr || on != gate.exports().find(path)) return false;
  const ActAs as(on->owner());
  const auto directory = on->open(above, O_PATH | O_DIRECTORY);
  if (!directory) return false;
  const auto stat = stat_of(directory->get());
  return stat && stat->identity == covering->identity;
}

// --- What a session's own repositories may hold

Result<void, Errno> LocalFileService::vet(const Gate& gate, const Decided& decided,
                                          std::string_view content) {
  auto objection = git::objection(decided.path, content);
  if (!objection) return ok;
  Decided refused = decided;
  refused.overruled = kGitGuard;
  return refuse(gate, refused, Operation::write, Errno{EACCES}, {.detail = std::move(*objection)});
}

// The lock, if it is one, is to be held until the file has that size.
Result<std::unique_lock<std::mutex>, Errno> LocalFileService::vet_size(const Gate& gate,
                                                                       const Decided& decided,
                                                                       int fd, std::uint64_t size) {
  std::unique_lock vetting(vetting_, std::defer_lock);
  if (!decided.vetted) return vetting;   // writing is allowed, and no guard stands there
  vetting.lock();
  FBROKER_TRY_VOID(vet_change(gate, decided, fd, size, 0, {}));
  return vetting;
}

// Precondition: vetting_ is held, so that nothing else changes the file meanwhile.
Result<void, Errno> LocalFileService::vet_change(const Gate& gate, const Decided& decided, int fd,
                                                 std::uint64_t size, std::uint64_t offset,
                                                 std::span<const std::byte> data) {
  if (size > git::kMaxBytes) return Errno{EFBIG};
  const ActAs as(decided.on->owner());
  const UniqueFd file(::open(proc_name(fd).c_str(), O_RDONLY | O_CLOEXEC));   // fd may not read
  if (!file) return Errno::last();
  std::string content(size, '\0');
  std::size_t read = 0;
  while (read < content.size()) {
    const ssize_t count = ::pread(file.get(), content.data() + read, content.size() - read,
                                  static_cast<off_t>(read));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Errno::last();
    if (count == 0) break;   // what is beyond the end becomes zeros
    read += static_cast<std::size_t>(count);
  }
  std::ranges::copy(std::as_bytes(data), reinterpret_cast<std::byte*>(content.data()) + offset);
  return vet(gate, decided, content);
}

bool LocalFileService::is_guarded_by_git(const Gate& gate, const WorkspacePath& path) const {
  auto probe = path.parent().child("x.git");
  if (probe) probe = probe->child("config");
  if (!probe) return true;
  // Whoever else denies there; a grant that overrules it is the person's word.
  return git_guard_holds(gate.admission.view().git_guard.get(), *probe, {Operation::write}) &&
         !gate.snapshot().decide(*probe).allows(Operation::write);
}

std::shared_ptr<const std::vector<WorkspacePath>> LocalFileService::own_paths(const Gate& gate) {
  const auto& table = gate.admission.view().exports;
  const std::uint64_t version = session_.own_files.version();
  const std::lock_guard lock(own_mutex_);
  if (own_.table != table.get() || own_.version != version) {
    auto paths = std::make_shared<const std::vector<WorkspacePath>>(
        session_.own_files.paths_in(*table));
    own_ = {table.get(), table, version, std::move(paths)};
  }
  return own_.paths;
}

bool LocalFileService::is_own(const Gate& gate, const WorkspacePath& path) {
  const auto own = own_paths(gate);
  return std::any_of(own->begin(), own->end(),
                     [&](const WorkspacePath& mine) { return path.is_at_or_below(mine); });
}

// ATTACK: renaming a directory that leads to one of the broker's files would
//   give that file a name that is not known for it. And where an export's root
//   was, a link could lie that the next start follows.
bool LocalFileService::holds_fixed(const Gate& gate, const WorkspacePath& path) {
  const auto own = own_paths(gate);
  return gate.exports().is_export(path) || gate.exports().leads_to_export(path) ||
         gate.exports().holds_export(gate.exports().location_of(path)) ||
         std::any_of(own->begin(), own->end(),
                     [&](const WorkspacePath& mine) { return mine.is_at_or_below(path); });
}

// --- Handles' rights

Result<std::shared_ptr<Handle>, Errno> LocalFileService::handle(protocol::HandleId id,
                                                                bool directory) const {
  auto found = handles_.find(id);
  if (!found || found->directory != directory) return Errno{EBADF};
  return found;
}

// INVARIANT: every read, write and listing through a handle passes here, under
//   the generation that it was admitted with.
Rights LocalFileService::rights(const Gate& gate, Handle& handle) {
  const std::uint64_t stamp = handle.stamp.load(std::memory_order_acquire);
  if (stamp >> 2 == gate.snapshot().generation()) return {(stamp & 1) != 0, (stamp & 2) != 0};
  const std::lock_guard lock(handle.mutex);
  return decide_anew(gate, handle);
}

// Precondition: handle.mutex is held.
Rights LocalFileService::decide_anew(const Gate& gate, Handle& handle) {
  const auto stat = handle.fd ? stat_of(handle.fd.get()) : Result<FileStat, Errno>(Errno{EBADF});
  const bool nameless = handle.unlinked || (handle.fd && stat && is_nameless(gate, handle, *stat));
  const auto rights_as = [&](const WorkspacePath& name) {
    const Decided decided = decide(gate, name);
    if (handle.fd && decided.on != handle.on.get()) return Rights{};   // another export lies there now
    if (handle.directory) return Rights{.read = decided.visible()};
    const auto may = [&](Operation operation) {
      if (handle.node && is_revoked(gate, decided, handle.node->identity, nameless || stat->links > 1, operation))
        return false;
      return decided.allows(operation) || pin_holds(gate, handle, decided, operation);
    };
    return Rights{.read = may(Operation::read), .write = may(Operation::write)};
  };
  if (handle.fd && !stat) return Rights{};
  Rights now = rights_as(handle.path);
  // What the host moved is judged by where it is now as well; what has no name
  // any more by its last one.
  if (handle.fd && handle.on && !nameless) {
    const auto current = handle.on->current_name(handle.fd.get());
    const Rights there = !current ? Rights{} : *current == handle.path ? now : rights_as(*current);
    now = {now.read && there.read, now.write && there.write};
  }
  now.read = now.read && handle.opened.read && !handle.revoked.read;
  now.write = now.write && handle.opened.write && !handle.revoked.write;
  handle.stamp.store(stamp_of(gate.snapshot().generation(), now), std::memory_order_release);
  return now;
}

// ATTACK: a file may itself be called "x (deleted)", so its name says nothing.
bool LocalFileService::is_nameless(const Gate& gate, const Handle& handle, const FileStat& stat) {
  if (stat.links == 0) return true;
  if (!kernel_name(handle.fd.get()).ends_with(kDeleted)) return false;
  // It has links, perhaps not by this name: then what the name says is not it.
  const auto current = handle.on->current_name(handle.fd.get());
  const Export* on = current ? gate.exports().find(*current) : nullptr;
  if (on == nullptr) return false;
  const auto there = on->open(*current, O_PATH | O_NOFOLLOW);
  const auto found = there ? stat_of(there->get()) : there.error();
  return !found || found->identity != stat.identity;
}

// INVARIANT: a file that was revoked is not there under any name, until that
//   name is granted again.
bool LocalFileService::is_revoked(const Gate& gate, const Decided& decided,
                                  const protocol::FileIdentity& file,
                                  bool may_have_other_names, Operation operation) const {
  const RevokedFiles* revoked = gate.admission.view().revoked.get();
  if (revoked == nullptr) return false;
  const std::uint64_t since = revoked->denied_by(file, may_have_other_names);
  if (since == 0) return false;
  // Of the name, not of the file: a rule may be the reason that is given for it.
  const auto grants = gate.snapshot().grants();
  return std::none_of(grants.begin(), grants.end(), [&](const policy::Grant& grant) {
    return grant.effect == Effect::allow && grant.order > since &&
           grant.operations.has(operation) && decided.path.is_at_or_below(grant.path);
  });
}

// A newer grant may have given it back for reading alone.
Result<void, Errno> LocalFileService::refuse_revoked(const Gate& gate, const Decided& decided, const FileStat& stat) {
  if (!is_revoked(gate, decided, stat, Operation::write)) return ok;
  return refuse(gate, decided, Operation::write, Errno{EACCES}, {.detail = "revoked"});
}

const char* LocalFileService::why_hidden(const Gate& gate, const Decided& decided,
                                         const FileStat& stat) const {
  // ATTACK: under an allow of "**/*.md" every name leads, by its path, to
  //   something visible; a file that is not listed itself leads nowhere.
  if (!decided.path.is_root() && !decided.decision.visible_as(stat.is_directory())) return "default";
  if (session_.own_files.contains(stat)) return "own-files";
  if (stat.is_special()) return "special-file";
  if (decided.on->is_foreign_mount(stat)) return "submount";
  if (is_revoked(gate, decided, stat, Operation::read)) return "revoked";
  return nullptr;
}

// A grant for one open lives on in the handle that used it, until somebody
// takes it away: a deny made by a person, a rule's deny that the grant never
// overruled, or a revoke of its path (close_refused_handles).
bool LocalFileService::pin_holds(const Gate& gate, const Handle& handle, const Decided& decided,
                                 Operation operation) const {
  if (handle.pinned_by.empty() || decided.overruled != nullptr) return false;
  const auto& entry = decided.decision.of(operation);
  if (entry.effect == Effect::ask) return true;
  const std::string_view reason = gate.snapshot().reason(entry.reason).id;
  if (reason == "default") return true;
  const auto grants = gate.snapshot().grants();
  const bool by_a_person = std::any_of(grants.begin(), grants.end(),
                                       [&](const policy::Grant& grant) { return grant.id == reason; });
  return !by_a_person && std::any_of(handle.pinned_by.begin(), handle.pinned_by.end(),
                                     [](const Pin& pin) { return pin.overrides_deny; });
}

Result<LocalFileService::Decided, Errno> LocalFileService::permit_handle(const Gate& gate,
                                                                         Handle& handle,
                                                                         Operation operation) {
  const Rights now = rights(gate, handle);
  const bool writes = operation == Operation::write;
  if (writes ? now.write : now.read || (operation == Operation::list && now.write)) {
    const std::lock_guard lock(handle.mutex);
    Decided decided;
    decided.path = handle.path;
    decided.on = handle.on.get();
    return decided;
  }
  WorkspacePath path;
  {
    const std::lock_guard lock(handle.mutex);
    path = handle.path;
  }
  return refuse(gate, decide(gate, path), operation, Errno{EACCES}, {.handle = handle.id});
}

void LocalFileService::record_sums(const Gate& gate, Handle& handle, std::string detail) {
  const std::uint64_t read = handle.bytes_read.exchange(0);
  const std::uint64_t written = handle.bytes_written.exchange(0);
  if (read == 0 && written == 0) return;
  WorkspacePath path;
  {
    const std::lock_guard lock(handle.mutex);
    path = handle.path;
  }
  RecordWords words{.detail = std::move(detail), .handle = handle.id};
  if (read != 0) words.bytes_read = read;
  if (written != 0) words.bytes_written = written;
  // A close cannot be refused. What cannot be written now is counted again at
  // the next try, if the handle lives.
  const Decided decided = decide(gate, path);
  const Operation operation = written != 0 ? Operation::write : Operation::read;
  if (record(gate, decided, operation, 0, std::move(words))) return;
  handle.bytes_read += read;
  handle.bytes_written += written;
}

void LocalFileService::close(const Caller& caller, protocol::HandleId id) {
  const auto closed = handles_.remove(id);
  if (!closed) return;
  const Gate gate = enter(caller, Call::close);
  record_sums(gate, *closed, "");
  const std::lock_guard lock(closed->mutex);
  listing_bytes_ -= std::exchange(closed->listing_bytes, 0);
  closed->listing.clear();
}

void LocalFileService::close_all() {
  for (const auto& handle : handles_.all()) close({.pid = handle->pid, .peer_pid = handle->peer_pid}, handle->id);
}

std::unordered_set<protocol::FileIdentity, IdentityHash> LocalFileService::open_elsewhere(
    const std::vector<WorkspacePath>& places) const {
  std::unordered_set<protocol::FileIdentity, IdentityHash> files;
  for (const auto& handle : handles_.all()) {
    const std::lock_guard lock(handle->mutex);
    const bool there = std::ranges::any_of(places, [&](const WorkspacePath& place) {
      return handle->path.is_at_or_below(place);
    });
    if (handle->node && (!there || handle->unlinked)) files.insert(handle->node->identity);
  }
  return files;
}

std::size_t LocalFileService::close_refused_handles(const std::optional<WorkspacePath>& revoked) {
  std::size_t lost = 0;
  for (const auto& handle : handles_.all()) {
    const Caller caller{.pid = handle->pid, .peer_pid = handle->peer_pid};
    const Gate gate = enter(caller, Call::close);
    {
      const std::lock_guard lock(handle->mutex);
      if (revoked && handle->path.is_at_or_below(*revoked)) handle->pinned_by.clear();
      const Rights before{handle->opened.read && !handle->revoked.read,
                          handle->opened.write && !handle->revoked.write};
      const Rights now = decide_anew(gate, *handle);
      if (now.read == before.read && now.write == before.write) continue;
      handle->revoked.read = handle->revoked.read || !now.read;
      handle->revoked.write = handle->revoked.write || !now.write;
      ++lost;
    }
    record_sums(gate, *handle, "revoked");
  }
  return lost;
}

}  // namespace fbroker::broker
