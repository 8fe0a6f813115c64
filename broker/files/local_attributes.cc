// Changing attributes and sizes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <limits>

#include "broker/files/calls.h"

namespace fbroker::broker {

using policy::Operation;
using protocol::Attributes;
using protocol::Caller;
using protocol::FileRef;
using protocol::SetTimes;

namespace {

constexpr std::uint32_t kChangeable = 0777;   // never set-id, never sticky

std::string octal(std::uint32_t mode) {
  std::string text = "0000";
  for (std::size_t at = text.size(); at-- > 1; mode >>= 3)
    text[at] = static_cast<char>('0' + (mode & 7u));
  return text;
}

Result<void, Errno> result_of(int returned) {
  if (returned != 0) return Errno::last();
  return ok;
}

}  // namespace

// What a change of attributes works on: by handle, or found at its path.
struct LocalFileService::Subject {
  Decided decided;
  std::shared_ptr<Handle> handle;   // keeps fd alive
  UniqueFd pinned;                  // O_PATH
  FileStat stat;
  protocol::FileIdentity directory;
  bool unlinked = false;

  int fd() const { return handle ? handle->fd.get() : pinned.get(); }
};

Result<void, Errno> LocalFileService::permit_where_it_is(const Gate& gate, Handle& handle,
                                                         const WorkspacePath& path, const FileStat& stat) {
  {
    const std::lock_guard lock(handle.mutex);
    if (handle.unlinked || is_nameless(gate, handle, stat)) return ok;
  }
  const auto current = handle.on->current_name(handle.fd.get());
  if (!current) return Errno{ESTALE};
  if (*current == path) return ok;
  FBROKER_TRY_VOID(permit(gate, *current));
  return ok;
}

Result<LocalFileService::Subject, Errno> LocalFileService::subject(const Gate& gate,
                                                                   const FileRef& ref) {
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  Subject subject;
  if (ref.handle != 0) {
    subject.handle = handles_.find(ref.handle);
    if (!subject.handle) return Errno{EBADF};
    WorkspacePath path;
    {
      const std::lock_guard lock(subject.handle->mutex);
      path = subject.handle->path;
      subject.directory = subject.handle->in_directory;
      subject.unlinked = subject.handle->unlinked;
    }
    if (!subject.handle->fd) return Errno{EROFS};
    // A handle that was opened for reading changes attributes all the same
    // (fchmod(2)): by what the policy says of its name, not by its mode.
    FBROKER_TRY(subject.decided, permit(gate, path));
    if (subject.decided.on != subject.handle->on.get()) return Errno{ESTALE};
    if (rights(gate, *subject.handle) == Rights{}) return Errno{EACCES};
    FBROKER_TRY(subject.stat, stat_of(subject.fd()));
    FBROKER_TRY_VOID(permit_where_it_is(gate, *subject.handle, path, subject.stat));
    FBROKER_TRY_VOID(refuse_revoked(gate, subject.decided, subject.stat));
    return subject;
  }
  FBROKER_TRY(subject.decided, permit(gate, ref.path));
  if (subject.decided.on == nullptr) return Errno{EROFS};
  FBROKER_TRY(Found found, pin_down(gate, subject.decided, ref.expect));
  FBROKER_TRY_VOID(refuse_revoked(gate, subject.decided, *found.stat));
  subject.pinned = std::move(found.pinned);
  subject.stat = *found.stat;
  subject.directory = found.directory.identity;
  return subject;
}

// After the change: its record, the host watch, and what the agent sees now.
Result<Attributes, Errno> LocalFileService::changed(const Gate& gate, const Subject& subject,
                                                    const Result<void, Errno>& outcome,
                                                    std::string detail) {
  FBROKER_TRY_VOID(finish(gate, subject.decided, Operation::write, outcome,
                          {.detail = std::move(detail),
                           .handle = subject.handle ? subject.handle->id : 0}));
  FBROKER_TRY(const FileStat now, stat_of(subject.fd()));
  if (!subject.unlinked) tell_own_change(gate, subject.decided.path, subject.directory, &now);
  return attributes(subject.decided, now);
}

Result<Attributes, Errno> LocalFileService::truncate(const Caller& caller, const FileRef& ref,
                                                     std::uint64_t size) {
  if (size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) return Errno{EFBIG};
  return holding_names<NamesShared>(caller, Call::truncate,
                                    [&](const Gate& gate) { return set_size(gate, ref, size); });
}

Result<Attributes, Errno> LocalFileService::set_size(const Gate& gate, const FileRef& ref,
                                                     std::uint64_t size) {
  FBROKER_TRY(const Subject subject, this->subject(gate, ref));
  if (subject.stat.is_directory()) return Errno{EISDIR};
  if (!subject.stat.is_regular()) return Errno{EINVAL};
  if (subject.handle && !subject.handle->opened.write) return Errno{EINVAL};
  if (subject.stat.is_set_id())
    return refuse(gate, subject.decided, Operation::write, Errno{EACCES}, {.detail = "set-id file"});
  // ATTACK: what a write was vetted with is cut off before it lands. Cutting to
  //   nothing takes its turn too.
  FBROKER_TRY(const auto vetting, vet_size(gate, subject.decided, subject.fd(), size));
  const auto outcome = [&] {
    const ActAs as(subject.decided.on->owner());
    const auto length = static_cast<off_t>(size);
    return result_of(subject.handle ? ::ftruncate(subject.fd(), length)
                                    : ::truncate(proc_name(subject.fd()).c_str(), length));
  }();
  return changed(gate, subject, outcome, "size " + std::to_string(size));
}

Result<Attributes, Errno> LocalFileService::chmod(const Caller& caller, const FileRef& ref,
                                                  std::uint32_t permissions) {
  if ((permissions & ~07777u) != 0) return Errno{EINVAL};
  return holding_names<NamesShared>(caller, Call::chmod,
                                    [&](const Gate& gate) { return set_permissions(gate, ref, permissions); });
}

// INVARIANT: only bits that differ from those shown are changed: `chmod +x`
//   sends back the r and w bits that the policy filtered, and must not write
//   the filter into the person's file. Set-id bits never reach the host.
Result<Attributes, Errno> LocalFileService::set_permissions(const Gate& gate, const FileRef& ref,
                                                            std::uint32_t permissions) {
  FBROKER_TRY(const Subject subject, this->subject(gate, ref));
  if (subject.stat.is_symlink()) return Errno{EOPNOTSUPP};
  if (subject.stat.is_set_id())
    return refuse(gate, subject.decided, Operation::write, Errno{EPERM}, {.detail = "set-id file"});
  const std::uint32_t shown = shown_permissions(subject.decided, subject.stat);
  const std::uint32_t differing = (shown ^ permissions) & kChangeable;
  const std::uint32_t wanted = (subject.stat.mode & 07777u & ~differing) | (permissions & differing);
  const auto outcome = [&] {
    const ActAs as(subject.decided.on->owner());
    return result_of(subject.handle ? ::fchmod(subject.fd(), wanted)
                                    : ::chmod(proc_name(subject.fd()).c_str(), wanted));
  }();
  return changed(gate, subject, outcome, "mode " + octal(wanted & kChangeable));
}

Result<Attributes, Errno> LocalFileService::utimens(const Caller& caller, const FileRef& ref,
                                                    const SetTimes& times) {
  return holding_names<NamesShared>(caller, Call::utimens,
                                    [&](const Gate& gate) { return set_times(gate, ref, times); });
}

Result<Attributes, Errno> LocalFileService::set_times(const Gate& gate, const FileRef& ref,
                                                      const SetTimes& times) {
  FBROKER_TRY(const Subject subject, this->subject(gate, ref));
  const timespec leave{.tv_sec = 0, .tv_nsec = UTIME_OMIT};
  const timespec wanted[2] = {times.accessed.value_or(leave), times.modified.value_or(leave)};
  const auto outcome = [&] {
    const ActAs as(subject.decided.on->owner());
    return result_of(::utimensat(subject.fd(), "", wanted, AT_EMPTY_PATH));
  }();
  return changed(gate, subject, outcome, "");
}

}  // namespace fbroker::broker
