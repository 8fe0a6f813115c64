#include "broker/control/person_path.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "broker/files/file_stat.h"
#include "broker/files/host_location.h"

namespace fbroker::control {

using broker::ExportTable;
using broker::HostLocation;

namespace {

// A host path as far as it exists: the deepest directory or file that is
// there, open, and the components that are not.
struct Resolved {
  UniqueFd fd;           // O_PATH; links were followed
  std::string name;      // the kernel's name for it
  std::string missing;   // "a/b", "" = all of it is there
};

std::string joined(const std::string& base, std::string_view rest) {
  if (rest.empty()) return base;
  return (base == "/" ? "" : base) + "/" + std::string(rest);
}

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

Result<Resolved> resolve(const std::string& path) {
  std::string there = without_trailing_slashes(path);
  std::string missing;
  for (;;) {
    UniqueFd fd(::open(there.c_str(), O_PATH | O_CLOEXEC));
    if (fd) {
      std::string name = broker::kernel_name(fd.get());
      if (name.empty()) return Error{path, "its name cannot be had"};
      return Resolved{std::move(fd), std::move(name), std::move(missing)};
    }
    if (errno != ENOENT || there == "/") return Error{path, std::strerror(errno)};
    const std::size_t slash = there.rfind('/');
    const std::string component = there.substr(slash + 1);
    // What is not there has no "..": the shell could not have gone there either.
    if (component == "..") return Error{path, "no such directory"};
    if (component != "." && !component.empty())
      missing = missing.empty() ? component : component + "/" + missing;
    there = slash == 0 ? "/" : there.substr(0, slash);
  }
}

// Where it lies in its file system. A file is located by its directory: bind
// mounts of directories are then seen through.
std::optional<HostLocation> location_of(const Resolved& found) {
  std::optional<HostLocation> place = broker::locate(found.fd.get());
  if (place && !found.missing.empty()) place->path = joined(place->path, found.missing);
  return place;
}

std::vector<WorkspacePath> names_of(const Resolved& found, const ExportTable& exports) {
  const auto location = location_of(found);
  return location ? exports.names_of(*location) : std::vector<WorkspacePath>();
}

// Exports whose root lies at or below the place: revoking ~ ends ~/project too.
std::vector<WorkspacePath> exports_below(const Resolved& found, const ExportTable& exports) {
  std::vector<WorkspacePath> below;
  const auto location = location_of(found);
  if (!location) return below;
  for (const auto& candidate : exports.exports()) {
    if (!candidate->location()) continue;
    HostLocation root = *candidate->location();
    if (candidate->is_file()) {
      const std::string host = candidate->host_path(candidate->at());
      root.path = joined(root.path, host.substr(host.rfind('/') + 1));
    }
    if (root.below(*location)) below.push_back(candidate->at());
  }
  return below;
}

void add_unique(std::vector<WorkspacePath>& paths, const std::vector<WorkspacePath>& more) {
  for (const WorkspacePath& path : more)
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
}

// The name itself when its last component is a link: names_of() speaks of what
// the link leads to.
std::vector<WorkspacePath> names_of_link(const std::string& host, const ExportTable& exports) {
  const std::string path = without_trailing_slashes(host);
  const std::size_t slash = path.rfind('/');
  const std::string name = path.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") return {};
  auto parent = resolve(slash == 0 ? "/" : path.substr(0, slash));
  if (!parent) return {};
  parent->missing = parent->missing.empty() ? name : parent->missing + "/" + name;
  return names_of(*parent, exports);
}

Result<WorkspacePath> parse_workspace(std::string text, const std::string& written) {
  const auto path = WorkspacePath::parse(text.empty() ? "/" : without_trailing_slashes(std::move(text)));
  if (!path) return Error{written, "is not a path below /workspace (no \"..\", \".\" or \"//\" in it)"};
  return *path;
}

Placed placed_at(const WorkspacePath& path, const ExportTable& exports) {
  Placed placed{path, "", false, false};
  const broker::Export* on = exports.find(path);
  if (on == nullptr) return placed;
  placed.host = exports.host_path(path);
  placed.exists = static_cast<bool>(on->open(path, O_PATH | O_NOFOLLOW));
  return placed;
}

bool is_granted_name_taken(const WorkspacePath& path, const ExportTable& exports) {
  return exports.is_export(path) || exports.leads_to_export(path);
}

}  // namespace

std::string shown_to_agent(const WorkspacePath& path) {
  return std::string(kAgentRoot) + (path.is_root() ? "" : path.bytes());
}

Result<Meant> meant_by(const PersonPath& path) {
  const std::string& text = path.text;
  if (text.empty()) return Error{"PATH", "is empty"};
  if (text.find('\0') != text.npos) return Error{"PATH", "holds a NUL byte"};
  if (text.size() > kMaxPathBytes) return Error{"PATH", "is longer than 4096 bytes"};
  if (text == kAgentRoot || text.starts_with(std::string(kAgentRoot) + "/")) {
    FBROKER_TRY(WorkspacePath workspace, parse_workspace(text.substr(kAgentRoot.size()), text));
    return Meant{workspace, ""};
  }
  if (text.starts_with('/')) return Meant{std::nullopt, text};
  if (text == "~" || text.starts_with("~/")) {
    if (!path.home.starts_with('/')) return Error{text, "HOME is not known"};
    return Meant{std::nullopt, joined(path.home, std::string_view(text).substr(std::min<std::size_t>(2, text.size())))};
  }
  if (text.starts_with('~')) return Error{text, "other users' ~ is not known here; write the path in full"};
  if (!path.cwd.starts_with('/')) return Error{text, "is relative, and no directory was given that it is relative to"};
  return Meant{std::nullopt, joined(path.cwd, text)};
}

Result<Placed> place(const PersonPath& path, const ExportTable& exports) {
  FBROKER_TRY(const Meant meant, meant_by(path));
  if (meant.workspace) return placed_at(*meant.workspace, exports);
  FBROKER_TRY(const Resolved found, resolve(meant.host));
  const std::vector<WorkspacePath> names = names_of(found, exports);
  const std::string host = joined(found.name, found.missing);
  if (names.empty()) return Placed{{}, host, true, found.missing.empty()};
  return Placed{names.front(), host, false, found.missing.empty()};
}

Result<Placed> place_for_grant(const PersonPath& path, const ExportTable& exports,
                               const broker::OwnFiles& own) {
  FBROKER_TRY(Placed placed, place(path, exports));
  if (placed.outside && !placed.exists) return Error{placed.host, "there is no such file"};
  if (!placed.exists) return placed;
  const UniqueFd fd(::open(placed.host.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW));
  const auto stat = fd ? broker::stat_of(fd.get()) : Errno::last();
  if (!stat) return Error{placed.host, std::strerror(stat.error().value)};
  // A symbolic link of an export is granted as the link that it is.
  if (stat->is_special() || (placed.outside && stat->is_symlink()))
    return Error{placed.host, "is neither a regular file nor a directory"};
  if (own.contains(*stat) || (stat->is_directory() && own.holds(fd.get())))
    return Error{placed.host, "belongs to the broker itself (policy, state, audit log, sockets) and is shown to no session"};
  if (placed.outside && (placed.host == "/" || placed.host == without_trailing_slashes(path.home)))
    return Error{placed.host, "would show the agent far too much; grant a directory in it"};
  return placed;
}

Result<std::vector<WorkspacePath>> places_for_revoke(const PersonPath& path,
                                                     const ExportTable& exports) {
  FBROKER_TRY(const Meant meant, meant_by(path));
  std::vector<WorkspacePath> places;
  std::string host = meant.host;
  if (meant.workspace) {
    places.push_back(*meant.workspace);
    host = exports.host_path(*meant.workspace);
    if (host.empty()) return places;
  }
  add_unique(places, names_of_link(host, exports));
  const auto found = resolve(host);
  if (!found) {
    if (places.empty()) return found.error();
    return places;
  }
  add_unique(places, names_of(*found, exports));
  add_unique(places, exports_below(*found, exports));
  return places;
}

WorkspacePath free_granted_path(std::string_view host, const ExportTable& exports) {
  const WorkspacePath root = WorkspacePath::parse(kGrantedRoot).value();
  std::string_view name = host.substr(host.rfind('/') + 1);
  name = name.substr(0, 200);  // room for a number
  for (int number = 1;; ++number) {
    const std::string candidate =
        number == 1 ? std::string(name) : std::string(name) + "-" + std::to_string(number);
    const auto path = root.child(candidate);
    if (path && !is_granted_name_taken(*path, exports)) return *path;
  }
}

}  // namespace fbroker::control
