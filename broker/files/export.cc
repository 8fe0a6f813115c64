#include "broker/files/export.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace fbroker::broker {

namespace {

// A rename elsewhere on the host makes openat2 with RESOLVE_BENEATH give up
// with EAGAIN. ATTACK: renaming in a loop would hold the broker here for ever.
constexpr int kMaxAttempts = 128;

constexpr std::uint64_t kResolve =
    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// `from` as the policy writes it: relative to the run's root, "~", "~/…", absolute.
std::string absolute(const std::string& from, const ExportTableInput& input) {
  std::string path;
  if (from.starts_with("/"))
    path = from;
  else if (from == "~" || from.starts_with("~/"))
    path = input.home + from.substr(1);
  else
    path = from.empty() || from == "." ? input.root : input.root + "/" + from;
  return without_trailing_slashes(std::move(path));
}

Error error_at(const policy::Export& wanted, const std::string& host_path, int error) {
  return {"export at " + wanted.at.bytes(), host_path + ": " + std::strerror(error)};
}

}  // namespace

Result<std::shared_ptr<const Export>> Export::open(const policy::Export& wanted,
                                                   std::string host_path) {
  UniqueFd found(::open(host_path.c_str(), O_PATH | O_CLOEXEC));
  if (!found) return error_at(wanted, host_path, errno);
  const auto stat = stat_of(found.get());
  if (!stat) return error_at(wanted, host_path, stat.error().value);
  if (!stat->is_directory() && !stat->is_regular())
    return Error{"export at " + wanted.at.bytes(),
                 host_path + ": is neither a directory nor a regular file"};

  auto made = std::shared_ptr<Export>(new Export);
  made->at_ = wanted.at;
  made->wanted_path_ = std::move(host_path);
  made->submounts_ = wanted.submounts;
  made->static_ = wanted.static_content;
  made->owner_ = Owner::acting_for(stat->uid, stat->gid);
  made->host_root_ = kernel_name(found.get());
  if (stat->is_regular()) {
    const std::size_t slash = made->host_root_.rfind('/');
    if (slash == std::string::npos) return error_at(wanted, made->wanted_path_, ENOENT);
    made->file_name_ = made->host_root_.substr(slash + 1);
    made->host_root_ = slash == 0 ? "/" : made->host_root_.substr(0, slash);
    found = UniqueFd(::open(made->host_root_.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!found) return error_at(wanted, made->host_root_, errno);
  }
  // ATTACK: a rule hides /.env, and the file system opens it as /.ENV too.
  if (folds_case(found.get()))
    return Error{"export at " + wanted.at.bytes(),
                 made->wanted_path_ + ": lies on a file system that does not tell A from a in "
                 "names, where rules could be walked around; copy it to another"};
  made->root_ = std::move(found);
  const auto root = stat_of(made->root_.get());
  if (!root) return error_at(wanted, made->wanted_path_, root.error().value);
  made->root_stat_ = *root;
  made->location_ = locate(made->root_.get());
  return std::shared_ptr<const Export>(std::move(made));
}

// ATTACK: the agent swaps a directory for a symlink between decide and open, or
//   keeps a link from an allowed name to a denied one. The kernel resolves and
//   opens in one step and follows no link, so the file opened is the one that
//   was decided on. openat2(2), Linux 5.6.
Result<UniqueFd, Errno> Export::open_child(int directory, const char* name, int flags,
                                           mode_t mode) const {
  open_how how{};
  how.flags = static_cast<unsigned>(flags | O_CLOEXEC | ((flags & O_PATH) != 0 ? 0 : O_NOCTTY | O_NONBLOCK));
  how.mode = mode;
  how.resolve = kResolve | (submounts_ ? 0 : RESOLVE_NO_XDEV);
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    const long fd = ::syscall(SYS_openat2, directory, name, &how, sizeof how);
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    if (errno != EAGAIN && errno != EINTR) return Errno::last();
  }
  return Errno{EACCES};
}

Result<UniqueFd, Errno> Export::open(const WorkspacePath& path, int flags, mode_t mode) const {
  const char* below = path.below(at_);
  if (!is_file()) return open_child(root(), below, flags, mode);
  if (path != at_) return Errno{ENOTDIR};
  return open_child(root(), file_name_.c_str(), flags, mode);
}

Result<Place, Errno> Export::place_of(const WorkspacePath& path) const {
  constexpr int kDirectory = O_PATH | O_DIRECTORY;
  if (is_file()) {
    if (path != at_) return Errno{ENOTDIR};
    FBROKER_TRY(UniqueFd parent, open_child(root(), ".", kDirectory));
    return Place{std::move(parent), file_name_};
  }
  if (path == at_) {
    FBROKER_TRY(UniqueFd self, open_child(root(), ".", kDirectory));
    return Place{std::move(self), "."};
  }
  FBROKER_TRY(UniqueFd parent, open(path.parent(), kDirectory));
  return Place{std::move(parent), std::string(path.name())};
}

std::string Export::host_path(const WorkspacePath& path) const {
  const std::string base = host_root_ == "/" ? "" : host_root_;
  if (is_file()) return base + "/" + file_name_;
  if (path == at_) return host_root_;
  return base + "/" + path.below(at_);
}

std::optional<HostLocation> Export::location_of(const WorkspacePath& path) const {
  if (!location_) return std::nullopt;
  return location_->at(is_file() ? file_name_ : path == at_ ? "" : path.below(at_));
}

std::optional<WorkspacePath> Export::current_name(int fd) const {
  const std::string root_name = kernel_name(root());
  const auto rest = path_below(kernel_name(fd), root_name);
  if (root_name.empty() || !rest) return std::nullopt;
  if (is_file()) return *rest == file_name_ ? std::optional(at_) : std::nullopt;
  if (rest->empty()) return at_;
  auto path = WorkspacePath::parse((at_.is_root() ? "" : at_.bytes()) + "/" + *rest);
  if (!path) return std::nullopt;
  return *path;
}

Result<std::shared_ptr<const ExportTable>> ExportTable::build(const ExportTableInput& input,
                                                              const ExportTable* previous) {
  auto table = std::shared_ptr<ExportTable>(new ExportTable);
  for (const policy::Export& wanted : input.exports)
    FBROKER_TRY_VOID(table->add(wanted, input, previous));
  for (const policy::Export& wanted : input.temporary)
    if (auto added = table->add(wanted, input, previous); !added)
      table->unavailable_.push_back(std::move(added.error()));
  table->agent_is_only_writer_ = !input.exports.empty() &&
      std::ranges::all_of(input.exports, [](const policy::Export& one) { return one.agent_is_only_writer; });
  std::stable_sort(table->exports_.begin(), table->exports_.end(), [](const auto& a, const auto& b) {
    return a->at().bytes().size() > b->at().bytes().size();
  });
  for (const auto& a : table->exports_)
    for (const auto& b : table->exports_)
      if (a != b && a->location() && b->location() && a->location()->below(*b->location()))
        table->overlapping_ = true;
  return std::shared_ptr<const ExportTable>(std::move(table));
}

Result<void> ExportTable::add(const policy::Export& wanted, const ExportTableInput& input,
                              const ExportTable* previous) {
  if (is_export(wanted.at))
    return Error{"export at " + wanted.at.bytes(), "there are two exports at this path"};
  const std::string host_path = absolute(wanted.from, input);
  std::shared_ptr<const Export> made;
  if (previous != nullptr)
    for (const auto& old : previous->exports_)
      if (old->at() == wanted.at && old->wanted_path() == host_path &&
          old->submounts() == wanted.submounts && old->is_static() == wanted.static_content)
        made = old;
  if (!made) {
    FBROKER_TRY(made, Export::open(wanted, host_path));
  }
  if (wanted.agent_is_only_writer) written_by_agent_.insert(made.get());
  exports_.push_back(std::move(made));
  for (WorkspacePath path = wanted.at; !path.is_root(); path = path.parent())
    above_[path.parent()].emplace(path.name());
  return ok;
}

const Export* ExportTable::find(const WorkspacePath& path) const noexcept {
  for (const auto& candidate : exports_)
    if (path.is_at_or_below(candidate->at())) return candidate.get();
  return nullptr;
}

std::shared_ptr<const Export> ExportTable::share(const Export* found) const {
  for (const auto& candidate : exports_)
    if (candidate.get() == found) return candidate;
  return nullptr;
}

bool ExportTable::leads_to_export(const WorkspacePath& path) const { return above_.contains(path); }

bool ExportTable::is_export(const WorkspacePath& path) const {
  return std::any_of(exports_.begin(), exports_.end(),
                     [&](const auto& candidate) { return candidate->at() == path; });
}

const std::set<std::string>& ExportTable::names_below(const WorkspacePath& directory) const {
  static const std::set<std::string> none;
  const auto found = above_.find(directory);
  return found == above_.end() ? none : found->second;
}

std::string ExportTable::host_path(const WorkspacePath& path) const {
  const Export* on = find(path);
  return on == nullptr ? "" : on->host_path(path);
}

HostLocation ExportTable::location_of(const WorkspacePath& path) const {
  const Export* on = find(path);
  return (on == nullptr ? std::nullopt : on->location_of(path)).value_or(HostLocation{"", path.bytes()});
}

bool ExportTable::holds_export(const HostLocation& place) const {
  return std::any_of(exports_.begin(), exports_.end(), [&](const auto& candidate) {
    const auto root = candidate->location_of(candidate->at());
    return root && root->below(place);
  });
}

std::vector<WorkspacePath> ExportTable::other_names(const WorkspacePath& path) const {
  if (!overlapping_) return {};
  const Export* on = find(path);
  if (on == nullptr || !on->location()) return {};
  std::vector<WorkspacePath> names = names_of(*on->location_of(path));
  std::erase(names, path);
  return names;
}

std::vector<WorkspacePath> ExportTable::names_of(const HostLocation& place) const {
  std::vector<WorkspacePath> names;
  for (const auto& candidate : exports_) {
    if (!candidate->location()) continue;
    const auto rest = place.below(*candidate->location());
    if (!rest) continue;
    if (candidate->is_file()) {
      if (candidate->host_path(candidate->at()).ends_with("/" + *rest) &&
          rest->find('/') == std::string::npos)
        names.push_back(candidate->at());
      continue;
    }
    const std::string base = candidate->at().is_root() ? "" : candidate->at().bytes();
    const auto path = rest->empty() ? Result<WorkspacePath, Errno>(candidate->at())
                                    : WorkspacePath::parse(base + "/" + *rest);
    // A longer `at` may hide that place behind another host directory.
    if (path && find(*path) == candidate.get()) names.push_back(*path);
  }
  return names;
}

}  // namespace fbroker::broker
