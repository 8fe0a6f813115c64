#include "container/agents/state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <optional>

#include "broker/sessions/runtime_dir.h"
#include "container/agents/walk.h"
#include "container/kept_directory.h"

namespace fbroker::container::agents {
namespace {

// No broker's and no session's name begins with a dot.
constexpr char kAgents[] = ".agents";

Error failed(const std::string& where) { return Error{where, std::strerror(errno)}; }

struct Split {
  std::vector<std::string> parents;
  std::string last;
};

Split split(std::string_view path) {
  Split parts;
  for (std::size_t slash; (slash = path.find('/')) != path.npos; path.remove_prefix(slash + 1))
    parts.parents.emplace_back(path.substr(0, slash));
  parts.last = path;
  return parts;
}

// Walks down from `from`, making directories, through no link.
// ATTACK: below a kept directory everything is the agent's: a link to ~/.ssh
//   in the place of a directory would have us write there.
Result<UniqueFd> descend(int from, const std::vector<std::string>& names, const std::string& path,
                         std::optional<HostUser> owner) {
  UniqueFd at(::openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!at) return failed(path);
  for (const std::string& name : names) {
    const bool made = ::mkdirat(at.get(), name.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) return failed(path);
    UniqueFd next(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next) return failed(path);
    if (made && owner && ::geteuid() == 0 && ::fchown(next.get(), owner->uid, owner->gid) < 0) return failed(path);
    at = std::move(next);
  }
  return at;
}

// A login file of the person's, whole. Nothing: there is none.
Result<std::optional<std::string>> read_login(const std::string& path) {
  // ATTACK: a link in its place would have any file of the person's copied.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd && (errno == ENOENT || errno == ENOTDIR)) return std::optional<std::string>();
  if (!fd && errno == ELOOP) return Error{"--share-login", path + " is a symbolic link; only a file itself is copied"};
  if (!fd) return failed("--share-login: " + path);
  struct stat found {};
  if (::fstat(fd.get(), &found) < 0) return failed("--share-login: " + path);
  if (!S_ISREG(found.st_mode)) return Error{"--share-login", path + " is not a regular file"};
  if (found.st_uid != ::geteuid() && ::geteuid() != 0)
    return Error{"--share-login", path + " belongs to uid " + std::to_string(found.st_uid) + ", not to us"};
  std::string text(kMaxLoginBytes + 1, '\0');
  std::size_t size = 0;
  for (ssize_t got; size < text.size() && (got = ::read(fd.get(), text.data() + size, text.size() - size)) != 0;) {
    if (got < 0) return failed("--share-login: " + path);
    size += static_cast<std::size_t>(got);
  }
  if (size > kMaxLoginBytes) return Error{"--share-login", path + " is larger than 1 MiB: no login file"};
  text.resize(size);
  return std::optional<std::string>(std::move(text));
}

std::string temporary_name() {
  std::uint64_t number = 0;
  [[maybe_unused]] const ssize_t got = ::getrandom(&number, sizeof number, 0);
  char name[32];
  std::snprintf(name, sizeof name, ".fbroker-%016llx", static_cast<unsigned long long>(number));
  return name;
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(fd, text.data(), text.size());
    if (put < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(put));
  }
  return true;
}

// A new file takes the name over in one step: a reader never sees half of it,
// and what stood there, a link of the agent's too, is replaced, not written to.
Result<void> write_login(int directory, const std::string& name, const std::string& text, const std::string& path,
                         HostUser user) {
  const std::string temporary = temporary_name();
  const UniqueFd fd(::openat(directory, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) return failed(path);
  const bool written = write_all(fd.get(), text) &&
                       (::geteuid() != 0 || ::fchown(fd.get(), user.uid, user.gid) == 0) && ::fsync(fd.get()) == 0 &&
                       ::renameat(directory, temporary.c_str(), directory, name.c_str()) == 0;
  if (written) return ok;
  const Error why = errno == EISDIR ? Error{path, "is a directory inside, where the login file goes; remove it, or take another --name"}
                                    : failed(path);
  ::unlinkat(directory, temporary.c_str(), 0);
  return why;
}

const Kept* holder_of(const std::string& file, const std::vector<Kept>& state) {
  for (const Kept& kept : state)
    if (at_or_below(file, kept.below_home)) return &kept;
  return nullptr;
}

Error nothing_to_copy(const Profile& profile) {
  if (profile.login.files.empty())
    return Error{"--share-login", profile.title + " has no login file; its keys come from the environment"};
  std::string names;
  for (const std::string& file : profile.login.files) names += (names.empty() ? "~/" : ", ~/") + file;
  return Error{"--share-login", "nothing to copy: " + names + (profile.login.files.size() > 1 ? " do" : " does") +
                                    " not exist; log in on this machine first, or inside without --share-login"};
}

}  // namespace

std::string state_directory(const Profile& profile, const std::string& name) {
  return broker::state_path(kAgents) + "/" + profile.name + "/" + name;
}

Result<std::vector<Kept>> open_state(const Profile& profile, const std::string& name, HostUser user,
                                     bool alone) {
  std::vector<Kept> state;
  if (profile.state.empty()) return state;
  FBROKER_TRY_VOID(broker::private_directory(broker::state_path(kAgents)));
  FBROKER_TRY_VOID(broker::private_directory(broker::state_path(kAgents) + "/" + profile.name));
  const std::string base = state_directory(profile, name);
  FBROKER_TRY(UniqueFd root, broker::private_directory(base));
  // ATTACK: through a socket in what they share, an agent with a network would
  //   hand its way out to one that was started with --offline.
  if (::flock(root.get(), (alone ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0)
    return Error{base, std::string("is in use by another session of this agent") +
                           (alone ? ", and with --offline it is not shared" : " that was started with --offline") +
                           "; take another --name, or end that one"};
  for (const std::string& directory : profile.state) {
    const Split parts = split(directory);
    const std::string path = base + "/" + directory;
    // Those above it are never mounted: they stay ours.
    FBROKER_TRY(const UniqueFd parent, descend(root.get(), parts.parents, path, std::nullopt));
    FBROKER_TRY(UniqueFd kept, kept_directory(parent.get(), parts.last, path, user));
    state.push_back({directory, path, std::move(kept), UniqueFd()});
  }
  state.front().lock = std::move(root);
  return state;
}

Result<std::vector<std::string>> share_login(const Profile& profile, const std::string& home,
                                             const std::vector<Kept>& state, HostUser user) {
  std::vector<std::string> copied;
  for (const std::string& file : profile.login.files) {
    FBROKER_TRY(const auto text, read_login(home + "/" + file));
    const Kept* kept = holder_of(file, state);
    if (!text || kept == nullptr) continue;
    const Split parts = split(std::string_view(file).substr(kept->below_home.size() + 1));
    const std::string path = kept->path + "/" + file.substr(kept->below_home.size() + 1);
    FBROKER_TRY(const UniqueFd directory, descend(kept->fd.get(), parts.parents, path, user));
    FBROKER_TRY_VOID(write_login(directory.get(), parts.last, *text, path, user));
    copied.push_back("copied ~/" + file + " into " + shortened(kept->path, home));
  }
  if (copied.empty()) return nothing_to_copy(profile);
  return copied;
}

}  // namespace fbroker::container::agents
