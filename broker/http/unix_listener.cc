#include "broker/http/unix_listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

namespace fbroker::broker {

namespace {

constexpr int kLockAttempts = 5;
constexpr std::chrono::milliseconds kLockPause{20};

Error failure(const std::string& where, const std::string& what) {
  return Error{where, what + ": " + std::strerror(errno)};
}

// Nobody else may put a socket of his own under the name that we announce.
Result<UniqueFd> open_own_directory(const std::string& path) {
  UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) return failure(path, "cannot open the socket's directory");
  struct stat status{};
  if (::fstat(directory.get(), &status) != 0) return failure(path, "cannot stat");
  if (status.st_uid != ::geteuid()) return Error{path, "belongs to another user"};
  if ((status.st_mode & 022) != 0)
    return Error{path, "others may write in it; chmod go-w makes it safe"};
  return directory;
}

// The holder removes the file when its socket goes for good: a lock on a file
// that nobody can find any more would keep nobody out.
bool is_still_there(int lock, const std::string& lock_path) {
  struct stat held{}, named{};
  return ::fstat(lock, &held) == 0 && ::lstat(lock_path.c_str(), &named) == 0 &&
         held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Error{path, "longer than " + std::to_string(sizeof address.sun_path - 1) +
                           " bytes, which a socket's path may not be"};
  std::memcpy(address.sun_path, path.c_str(), path.size());
  return address;
}

// Somebody may listen there who does not hold our lock.
bool answers(const sockaddr_un& address) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe) return false;
  const int done = ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  return done == 0 || errno == EAGAIN;  // EAGAIN: its backlog is full (unix(7))
}

}  // namespace

Result<UniqueFd> take_lock(const std::string& lock_path, const std::string& path) {
  for (int attempt = 1;; ++attempt) {
    UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600));
    if (!lock) return failure(lock_path, "cannot open");
    const bool held = ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0;
    if (!held && errno != EWOULDBLOCK) return failure(lock_path, "cannot lock");
    if (held && is_still_there(lock.get(), lock_path)) {
      if (::ftruncate(lock.get(), 0) != 0) return failure(lock_path, "cannot write");
      return lock;
    }
    // A broker that starts holds other sockets' locks for a moment, to clear away.
    if (attempt == kLockAttempts) return Error{path, "another broker is serving here"};
    if (!held) std::this_thread::sleep_for(kLockPause);
  }
}

Result<UnixListener> bind_unix_socket(const std::string& directory, const std::string& name,
                                      mode_t mode, const std::string& lock_path) {
  const std::string path = directory + "/" + name;
  const std::string fresh = name + ".new";
  FBROKER_TRY(const UniqueFd own, open_own_directory(directory));
  FBROKER_TRY(UniqueFd lock, take_lock(lock_path, path));
  FBROKER_TRY(const sockaddr_un address, address_of(path));
  FBROKER_TRY(const sockaddr_un fresh_address, address_of(directory + "/" + fresh));

  struct stat status{};
  if (::fstatat(own.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISSOCK(status.st_mode)) return Error{path, "exists and is no socket"};
    if (answers(address)) return Error{path, "another program is serving here"};
  }

  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return failure(path, "cannot make a socket");
  ::unlinkat(own.get(), fresh.c_str(), 0);
  const auto* raw = reinterpret_cast<const sockaddr*>(&fresh_address);
  if (::bind(socket.get(), raw, sizeof fresh_address) != 0) return failure(path, "cannot bind");
  // Narrowed before anybody can connect: until listen(2) a connect is refused.
  if (::fchmodat(own.get(), fresh.c_str(), mode, 0) != 0) return failure(path, "cannot chmod");
  if (::listen(socket.get(), SOMAXCONN) != 0) return failure(path, "cannot listen");
  if (::renameat(own.get(), fresh.c_str(), own.get(), name.c_str()) != 0)
    return failure(path, "cannot rename into place");
  return UnixListener{std::move(socket), std::move(lock), path};
}

Result<Peer, Errno> peer_of(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return Errno::last();
  return Peer{static_cast<std::uint32_t>(credentials.pid), credentials.uid};
}

bool may_call(uid_t uid, const std::vector<UidRange>& others) noexcept {
  return uid == ::geteuid() || std::any_of(others.begin(), others.end(), [uid](UidRange range) {
           return range.first <= uid && uid <= range.last;
         });
}

}  // namespace fbroker::broker
