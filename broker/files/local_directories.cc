// Directories: opening and listing.
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "broker/files/calls.h"
#include "broker/files/own_files.h"

namespace fbroker::broker {

using policy::Operation;
using protocol::Caller;
using protocol::DirectoryEntry;
using protocol::DirectoryPage;
using protocol::FileRef;
using protocol::HandleId;
using protocol::Lifetime;
using protocol::Opened;

namespace {

// Names held for open listings, all of a session's together. A directory of a
// million files has about 50 MB of them.
constexpr std::size_t kMaxListingBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxPage = 16384;   // entries, whatever the caller asks for

struct CloseDirectory {
  void operator()(DIR* directory) const noexcept { ::closedir(directory); }
};

// All names in the directory, without "." and "..", as the disk orders them.
Result<std::vector<std::string>, Errno> names_in(int directory, std::size_t max_bytes) {
  // A descriptor of its own: reading moves the position that copies share.
  UniqueFd fd(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return Errno::last();
  const std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(fd.get()));
  if (!stream) return Errno::last();
  (void)fd.release();
  std::vector<std::string> names;
  std::size_t bytes = 0;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr && errno != 0) return Errno::last();
    if (entry == nullptr) return names;
    std::string name(entry->d_name);
    if (name == "." || name == "..") continue;
    bytes += name.size() + sizeof(ListedName);
    if (bytes > max_bytes) return Errno{ENOMEM};
    names.push_back(std::move(name));
  }
}

bool is_root(Handle& handle) {
  const std::lock_guard lock(handle.mutex);
  return handle.path.is_root();
}

}  // namespace

Result<Opened, Errno> LocalFileService::open_directory(const Caller& caller, const FileRef& ref) {
  return holding_names<NamesShared>(caller, Call::open_directory,
                                    [&](const Gate& gate) { return open_listing(gate, ref); });
}

Result<Opened, Errno> LocalFileService::open_listing(const Gate& gate, const FileRef& ref) {
  FBROKER_TRY_VOID(session_.audit.ready(session_.name));
  FBROKER_TRY(HandleTable::Slot slot, handles_.reserve());
  const Decided decided = decide(gate, ref.path);
  if (!decided.visible() && !ref.path.is_root())
    return refuse(gate, decided, Operation::list, Errno{ENOENT});

  auto made = std::make_shared<Handle>();
  made->directory = true;
  made->opened.read = true;
  made->pid = gate.caller.pid;
  made->peer_pid = gate.caller.peer_pid;
  made->path = ref.path;
  Opened opened;
  auto found = pin_down(gate, decided, ref.expect);
  if (found) {
    if (!found->stat->is_directory()) return Errno{ENOTDIR};
    const ActAs as(decided.on->owner());
    FBROKER_TRY(made->fd, reopen(found->pinned.get(), O_RDONLY | O_DIRECTORY));
    made->on = gate.exports().share(decided.on);
    opened.attributes = attributes(decided, *found->stat);
    opened.lifetime = found->lifetime;
  } else {
    const bool synthetic_here = gate.exports().leads_to_export(ref.path) || ref.path.is_root();
    if (found.error().value != ENOENT || !synthetic_here) return found.error();
    opened.attributes = synthetic(ref.path);
    opened.lifetime = Lifetime::until_told;
    if (!ref.expect.any() && opened.attributes.identity != ref.expect) return Errno{ESTALE};
  }
  opened.handle = handles_.insert(std::move(slot), made);
  if (auto written = record(gate, decided, Operation::list, 0, {.handle = opened.handle}); !written) {
    handles_.remove(opened.handle);
    return written.error();
  }
  return opened;
}

Result<DirectoryPage, Errno> LocalFileService::read_directory(const Caller& caller, HandleId id,
                                                              std::uint64_t position,
                                                              std::size_t max_entries) {
  FBROKER_TRY(const auto directory, handle(id, true));
  const NamesShared names(names_);
  const Gate gate = enter(caller, Call::read_directory);
  if (!is_root(*directory))
    FBROKER_TRY_VOID(permit_handle(gate, *directory, Operation::list));
  const std::lock_guard lock(directory->mutex);
  if (position == 0) FBROKER_TRY_VOID(list(gate, *directory));
  if (position > directory->listing.size()) return Errno{EINVAL};

  DirectoryPage page;
  page.lifetime = Lifetime::until_told;
  if (directory->fd) {
    FBROKER_TRY(const FileStat self, stat_of(directory->fd.get()));
    page.lifetime = watch(*directory->on, directory->fd.get(), self, directory->path);
  }
  const std::size_t wanted = std::clamp<std::size_t>(max_entries, 1, kMaxPage);
  std::size_t at = position;
  std::optional<ActAs> as;   // once for the page
  if (directory->on) as.emplace(directory->on->owner());
  for (; at < directory->listing.size() && page.entries.size() < wanted; ++at)
    if (auto shown = entry(gate, *directory, directory->listing[at]))
      page.entries.push_back(std::move(*shown));
  page.next = at;
  page.end = at == directory->listing.size();
  return page;
}

// Precondition: directory.mutex is held.
Result<void, Errno> LocalFileService::list(const Gate& gate, Handle& directory) {
  listing_bytes_ -= std::exchange(directory.listing_bytes, 0);
  directory.listing.clear();
  const auto& below = gate.exports().names_below(directory.path);
  for (const std::string& name : below) directory.listing.push_back({name, true});
  if (!directory.fd) return ok;
  // Moved away on the host: names below it are no longer what they say.
  if (!directory.unlinked && directory.on->current_name(directory.fd.get()) != directory.path)
    return Errno{ESTALE};
  if (directory.on->submounts() && session_.own_files.holds(directory.fd.get())) return Errno{ENOENT};
  const std::size_t in_use = listing_bytes_.load();
  FBROKER_TRY(const FileStat self, stat_of(directory.fd.get()));
  const ActAs as(directory.on->owner());
  if (folding_.ask(directory.fd.get(), self) == Folding::yes) return Errno{ENOENT};
  FBROKER_TRY(auto names, names_in(directory.fd.get(),
                                   in_use < kMaxListingBytes ? kMaxListingBytes - in_use : 0));
  for (std::string& name : names) {
    if (below.contains(name)) continue;
    directory.listing_bytes += name.size() + sizeof(ListedName);
    directory.listing.push_back({std::move(name), false});
  }
  listing_bytes_ += directory.listing_bytes;
  return ok;
}

// None: gone meanwhile, or not for this session's eyes.
// INVARIANT: a listing shows exactly what lookup would find.
std::optional<DirectoryEntry> LocalFileService::entry(const Gate& gate, const Handle& directory,
                                                      const ListedName& listed) {
  auto path = directory.path.child(listed.name);
  if (!path) return std::nullopt;
  const Decided decided = decide(gate, *path);
  if (!decided.visible()) return std::nullopt;
  if (listed.below_export) {
    auto found = answer_lookup(gate, decided);
    if (!found || !found->attributes) return std::nullopt;
    return DirectoryEntry{listed.name, *found->attributes};
  }
  const ActAs as(directory.on->owner());   // within the page's own
  const auto stat = stat_at(directory.fd.get(), listed.name.c_str());
  if (!stat || why_hidden(gate, decided, *stat) != nullptr) return std::nullopt;
  return DirectoryEntry{listed.name, attributes(decided, *stat)};
}

}  // namespace fbroker::broker
