#include "broker/sessions/runtime_dir.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fbroker::broker {

namespace {

// No session has a name that begins with ".".
constexpr const char* kLocks = "/.locks";

std::string environment(const char* name) {
  const char* value = ::getenv(name);
  return value == nullptr ? "" : value;
}

bool is_our_directory(const std::string& path) {
  struct stat info{};
  return path.starts_with('/') && ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
         info.st_uid == ::geteuid();
}

// Missing parents, 0700 each. An existing one may be anybody's: /tmp, /home.
Result<void> make_parents(const std::string& path) {
  for (std::size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1)) {
    const std::string parent = path.substr(0, slash);
    if (::mkdir(parent.c_str(), 0700) != 0 && errno != EEXIST)
      return Error{parent, std::string("cannot make this directory: ") + std::strerror(errno)};
  }
  return ok;
}

Result<void> check_owner_and_mode(int fd, const std::string& path, Access access) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return Error{path, std::strerror(errno)};
  if (info.st_uid != ::geteuid())
    return Error{path, "belongs to uid " + std::to_string(info.st_uid) +
                           ", not to us; somebody else made it. Remove it or set XDG_RUNTIME_DIR"};
  const mode_t wanted = access == Access::owner_only ? 0700 : 0755;
  if ((info.st_mode & 07777) != wanted && ::fchmod(fd, wanted) != 0)
    return Error{path, std::string("cannot set its mode: ") + std::strerror(errno)};
  return ok;
}

}  // namespace

std::string home_directory() {
  if (std::string home = environment("HOME"); home.starts_with('/')) return home;
  const passwd* entry = ::getpwuid(::geteuid());
  return entry == nullptr ? "" : entry->pw_dir;
}

std::string runtime_path() {
  const std::string given = environment("XDG_RUNTIME_DIR");
  if (is_our_directory(given)) return given + "/fbroker";
  return "/tmp/fbroker-" + std::to_string(::geteuid());
}

namespace {
std::string base_directory(const char* variable, const char* below_home) {
  std::string base = environment(variable);
  if (!base.starts_with('/')) base = home_directory() + below_home;
  return base + "/fbroker";
}
}  // namespace

std::string state_root() { return base_directory("XDG_STATE_HOME", "/.local/state"); }
std::string config_root() { return base_directory("XDG_CONFIG_HOME", "/.config"); }
std::string state_path(std::string_view broker) { return state_root() + "/" + std::string(broker); }

std::string control_socket_path(std::string_view broker) {
  return runtime_path() + "/control/" + std::string(broker) + ".sock";
}

std::string session_directory_path(std::string_view session) {
  return runtime_path() + "/" + std::string(session);
}

std::string locks_path() { return runtime_path() + kLocks; }

// One file name for the whole path: at most 107 bytes (sun_path).
std::string lock_path_of(const std::string& socket) {
  std::string name = socket;
  std::replace(name.begin(), name.end(), '/', '%');
  return locks_path() + "/" + name;
}

bool is_session_name(std::string_view name) noexcept {
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !name.empty() && name.size() <= 64 && name.front() != '.' && name.front() != '-' &&
         name != "control" && name.find_first_not_of(kLetters) == name.npos;
}

Result<UniqueFd> private_directory(const std::string& path, Access access) {
  FBROKER_TRY_VOID(make_parents(path));
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return Error{path, std::string("cannot make this directory: ") + std::strerror(errno)};
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd)
    return Error{path, errno == ELOOP || errno == ENOTDIR
                           ? "is not a directory but a symlink or a file; it must be a directory of ours"
                           : std::strerror(errno)};
  FBROKER_TRY_VOID(check_owner_and_mode(fd.get(), path, access));
  return fd;
}

Result<void> make_runtime_directory() {
  FBROKER_TRY_VOID(private_directory(runtime_path()));
  FBROKER_TRY_VOID(private_directory(runtime_path() + "/control"));
  FBROKER_TRY_VOID(private_directory(locks_path()));
  return ok;
}

}  // namespace fbroker::broker
