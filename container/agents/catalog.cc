#include "container/agents/catalog.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>

#include "broker/sessions/runtime_dir.h"
#include "container/agents/builtin.h"
#include "container/words.h"
#include "policy/base/unique_fd.h"
#include "policy/words.h"

namespace fbroker::container::agents {
namespace {

namespace fs = std::filesystem;

bool is_name(std::string_view name) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789-";
  return !name.empty() && name.size() <= 32 && name.front() >= 'a' && name.front() <= 'z' &&
         name.find_first_not_of(kLetters) == name.npos;
}

// ATTACK: whoever can write a profile decides what the sandbox shows, keeps
//   and reaches. So nobody but the person (and root) may be able to.
Result<void> check_owner(int fd, const std::string& path) {
  struct stat found {};
  if (::fstat(fd, &found) < 0) return Error{path, std::strerror(errno)};
  if (found.st_uid != ::geteuid() && found.st_uid != 0)
    return Error{path, "belongs to uid " + std::to_string(found.st_uid) + ", not to us; a profile must be ours"};
  if ((found.st_mode & 022) != 0) return Error{path, "can be written by others; chmod go-w it"};
  return ok;
}

// ATTACK: an agent that may write its own profile would choose what the next run shows.
Result<void> check_outside(const std::string& path, const std::string& workspace_root) {
  char resolved[PATH_MAX];
  if (workspace_root.empty() || ::realpath(path.c_str(), resolved) == nullptr) return ok;
  const std::string_view real = resolved;
  const std::string place = workspace_root == "/" ? "/" : workspace_root + "/";
  if (real.starts_with(place)) return Error{path, "lies in the workspace, where the agent may change it"};
  return ok;
}

Result<std::string> read_all(int fd, const std::string& path) {
  std::string text(kMaxProfileBytes + 1, '\0');
  std::size_t size = 0;
  for (ssize_t got; size < text.size() && (got = ::read(fd, text.data() + size, text.size() - size)) != 0;) {
    if (got < 0) return Error{path, std::strerror(errno)};
    size += static_cast<std::size_t>(got);
  }
  text.resize(size);
  return text;
}

// Nothing when the person has none of that name.
Result<std::optional<Profile>> load_own(const std::string& name, const std::string& workspace_root) {
  const std::string directory = own_profiles_directory();
  const std::string path = directory + "/" + name + ".json";
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd && (errno == ENOENT || errno == ENOTDIR)) return std::optional<Profile>();
  if (!fd) return Error{path, std::strerror(errno)};
  struct stat found {};
  if (::fstat(fd.get(), &found) < 0 || !S_ISREG(found.st_mode)) return Error{path, "is not a regular file"};
  const UniqueFd parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent) return Error{directory, std::strerror(errno)};
  FBROKER_TRY_VOID(check_owner(parent.get(), directory));
  FBROKER_TRY_VOID(check_owner(fd.get(), path));
  FBROKER_TRY_VOID(check_outside(path, workspace_root));
  FBROKER_TRY(const std::string text, read_all(fd.get(), path));
  FBROKER_TRY(Profile profile, parse_profile(text, path));
  profile.origin = path;
  return std::optional<Profile>(std::move(profile));
}

Error unknown(const std::string& name) {
  const std::vector<std::string> names = profile_names();
  const std::vector<std::string_view> known(names.begin(), names.end());
  std::string what = "is not known; expected " + policy::one_of(known);
  if (const std::string near = policy::nearest(name, known); !near.empty()) what += "; did you mean \"" + near + "\"?";
  return Error{"--agent " + printable(name), what};
}

}  // namespace

std::string own_profiles_directory() {
  return broker::config_root() + "/agents";
}

std::vector<std::string> profile_names() {
  std::set<std::string> names;
  for (const Builtin& one : builtin_profiles()) names.emplace(one.name);
  std::error_code error;
  for (fs::directory_iterator at(own_profiles_directory(), error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == ".json" && is_name(at->path().stem().string())) names.insert(at->path().stem());
  return {names.begin(), names.end()};
}

Result<Profile> load_profile(const std::string& name, const std::string& workspace_root) {
  if (!is_name(name)) return unknown(name);
  FBROKER_TRY(auto own, load_own(name, workspace_root));
  if (own) return std::move(*own);
  for (const Builtin& one : builtin_profiles())
    if (one.name == name) return parse_profile(one.text, name + ".json");
  return unknown(name);
}

std::string profile_of_program(std::string_view program) {
  for (const Builtin& one : builtin_profiles()) {
    const auto profile = parse_profile(one.text, std::string(one.name) + ".json");
    if (!profile) continue;
    const auto& names = profile->program.names;
    if (std::find(names.begin(), names.end(), program) != names.end()) return profile->name;
  }
  return "";
}

}  // namespace fbroker::container::agents
