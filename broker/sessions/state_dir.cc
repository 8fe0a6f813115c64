#include "broker/sessions/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstring>

#include "broker/sessions/runtime_dir.h"

namespace fbroker::broker {

namespace {

Error failed(const std::string& path, const char* what) {
  return Error{path, std::string(what) + ": " + std::strerror(errno)};
}

std::string pid_in(int fd) {
  char text[16] = {};
  const ssize_t n = ::pread(fd, text, sizeof text - 1, 0);
  std::string pid(text, n > 0 ? static_cast<std::size_t>(n) : 0);
  while (!pid.empty() && pid.back() == '\n') pid.pop_back();
  return pid.empty() ? "unknown" : pid;
}

Result<void> write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return failed(path, "cannot write");
    content.remove_prefix(static_cast<std::size_t>(n));
  }
  return ok;
}

}  // namespace

// The lock dies with its holder, however that ended: no stale lock can keep a
// successor out.
Result<StateDir> StateDir::open(const std::string& path) {
  FBROKER_TRY(UniqueFd directory, private_directory(path));
  UniqueFd lock(::openat(directory.get(), "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock) return failed(path + "/lock", "cannot open");
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return Error{path, "another broker (pid " + pid_in(lock.get()) +
                           ") uses this state; stop it, or give this one its own --state"};
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock.get(), 0) != 0) return failed(path + "/lock", "cannot write");
  FBROKER_TRY_VOID(write_all(lock.get(), pid, path + "/lock"));
  return StateDir(path, std::move(directory), std::move(lock));
}

Result<std::optional<std::string>> StateDir::read(const std::string& name,
                                                  std::size_t max_bytes) const {
  const std::string where = path_ + "/" + name;
  const UniqueFd fd(
      ::openat(directory_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd && errno == ENOENT) return std::optional<std::string>();
  if (!fd) return failed(where, "cannot open");
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return failed(where, "cannot look at it");
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid())
    return Error{where, "is not a regular file of ours"};
  std::string content(max_bytes + 1, '\0');
  std::size_t size = 0;
  while (size < content.size()) {
    const ssize_t n = ::read(fd.get(), content.data() + size, content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(where, "cannot read");
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  if (size > max_bytes)
    return Error{where, "is larger than " + std::to_string(max_bytes) + " bytes"};
  content.resize(size);
  return std::optional(std::move(content));
}

Result<void> StateDir::replace(const std::string& name, std::string_view content) const {
  const std::string beside = name + ".new";
  const std::string where = path_ + "/" + name;
  {
    const UniqueFd fd(::openat(directory_.get(), beside.c_str(),
                               O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) return failed(where, "cannot write");
    FBROKER_TRY_VOID(write_all(fd.get(), content, where));
    if (::fsync(fd.get()) != 0) return failed(where, "cannot sync");
  }
  if (::renameat(directory_.get(), beside.c_str(), directory_.get(), name.c_str()) != 0)
    return failed(where, "cannot replace");
  if (::fsync(directory_.get()) != 0) return failed(path_, "cannot sync");
  return ok;
}

}  // namespace fbroker::broker
