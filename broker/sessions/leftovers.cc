#include "broker/sessions/leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <vector>

#include "broker/http/unix_listener.h"
#include "broker/sessions/runtime_dir.h"

namespace fbroker::broker {

namespace {

constexpr std::size_t kMaxLocks = 4096;       // looked at in one start
constexpr std::size_t kMaxOwnerBytes = 1024;  // two numbers and a socket's path

struct Owner {
  pid_t pid = 0;
  std::uint64_t started = 0;
  std::string socket;
};

void unlink_socket(const std::string& path) {
  struct stat found{};
  if (::lstat(path.c_str(), &found) == 0 && S_ISSOCK(found.st_mode)) ::unlink(path.c_str());
}

// A directory that a person chose (--socket), or the control sockets' own, stays.
bool is_session_directory(const std::string& directory) {
  const std::string above = runtime_path() + "/";
  return directory.starts_with(above) && is_session_name(std::string_view(directory).substr(above.size()));
}

std::optional<Owner> owner_in(const std::string& lock_path) {
  const UniqueFd file(::open(lock_path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  std::array<char, kMaxOwnerBytes> text{};
  const ssize_t size = file ? ::read(file.get(), text.data(), text.size()) : -1;
  if (size <= 0) return std::nullopt;
  std::istringstream words(std::string(text.data(), static_cast<std::size_t>(size)));
  Owner owner;
  words >> owner.pid >> owner.started;
  words.get();
  std::getline(words, owner.socket);
  if (!words || owner.started == 0 || lock_path_of(owner.socket) != lock_path) return std::nullopt;
  return owner;
}

std::vector<std::string> lock_files() {
  const std::string directory = locks_path();
  std::vector<std::string> files;
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(directory.c_str()), &::closedir);
  if (open == nullptr) return files;
  while (const dirent* entry = ::readdir(open.get()))
    if (entry->d_name[0] != '.' && files.size() < kMaxLocks) files.push_back(directory + "/" + entry->d_name);
  return files;
}

}  // namespace

Result<void> write_owner(int lock, const HostProcess& owner, const std::string& socket) {
  const std::string line = std::to_string(owner.pid()) + " " + std::to_string(owner.started()) + " " + socket + "\n";
  if (::pwrite(lock, line.data(), line.size(), 0) != static_cast<ssize_t>(line.size()))
    return Error{lock_path_of(socket), std::string("cannot write: ") + std::strerror(errno)};
  return ok;
}

// INVARIANT: the lock's name goes last. Whoever finds it gone makes a new one,
//   and then nothing of ours may be left to remove.
void remove_socket(const std::string& socket) {
  unlink_socket(socket);
  unlink_socket(socket + ".new");
  const std::string directory = socket.substr(0, socket.rfind('/'));
  if (is_session_directory(directory)) ::rmdir(directory.c_str());
  ::unlink(lock_path_of(socket).c_str());
}

void remove_dead_socket(const std::string& socket) {
  if (const auto lock = take_lock(lock_path_of(socket), socket)) remove_socket(socket);
}

void remove_orphaned_sockets() {
  for (const std::string& file : lock_files()) {
    const auto owner = owner_in(file);
    if (owner && !HostProcess::open(owner->pid, owner->started)) remove_dead_socket(owner->socket);
  }
}

}  // namespace fbroker::broker
