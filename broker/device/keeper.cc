#include "broker/device/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "broker/device/keeper_messages.h"

namespace fbroker::broker {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr const char* kSocketName = "keeper.sock";
constexpr int kInheritedSocket = 3;   // in the keeper, after the three standard ones
constexpr int kBacklog = 16;
// An old keeper may be ending as we connect.
constexpr int kMaxStarts = 3;

// Through the directory's descriptor: a sun_path has 108 bytes, a state
// directory's path may have more.
sockaddr_un address_in(int directory) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = "/proc/self/fd/" + std::to_string(directory) + "/" + kSocketName;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

UniqueFd unix_socket() { return UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); }

// False: `bound` passed. What poll(2) finds wrong the next call will say.
bool wait_for(int socket, short events, milliseconds bound) {
  const auto until = steady_clock::now() + bound;
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(until - steady_clock::now()).count();
    pollfd waiting{socket, events, 0};
    const int ready = ::poll(&waiting, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

Result<void, Errno> send_bounded(int socket, std::uint8_t kind, std::uint8_t detail, std::string_view name, int fd,
                                 milliseconds bound) {
  for (;;) {
    const auto sent = send_message(socket, kind, detail, name, fd);
    if (sent || sent.error().value != EAGAIN) return sent;
    if (!wait_for(socket, POLLOUT, bound)) return Errno{ETIMEDOUT};
  }
}

Result<KeeperMessage, Errno> receive_bounded(int socket, milliseconds bound) {
  for (;;) {
    auto message = receive_message(socket);
    if (message && !message->whole) return Errno{EPROTO};
    if (message || message.error().value != EAGAIN) return message;
    if (!wait_for(socket, POLLIN, bound)) return Errno{ETIMEDOUT};
  }
}

// Nothing of ours goes with it but the listening socket: a session of its own,
// so that no terminal ends it, and no other descriptor.
class Spawning {
 public:
  Spawning() {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
  }
  ~Spawning() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  Spawning(const Spawning&) = delete;
  Spawning& operator=(const Spawning&) = delete;

  Result<pid_t, Errno> start(const std::string& program, std::vector<std::string> words, int listener) {
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int failed = ::posix_spawn_file_actions_adddup2(&actions_, listener, kInheritedSocket);
    for (int fd = 0; fd <= 2 && failed == 0; ++fd)
      failed = ::posix_spawn_file_actions_addopen(&actions_, fd, "/dev/null", O_RDWR, 0);
    if (failed == 0) failed = ::posix_spawn_file_actions_addclosefrom_np(&actions_, kInheritedSocket + 1);
    if (failed != 0) return Errno{failed};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t pid = -1;
    failed = ::posix_spawn(&pid, program.c_str(), &actions_, &attributes_, argv.data(), environ);
    if (failed != 0) return Errno{failed};
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

Result<std::unique_ptr<Keeper>> Keeper::reach(int directory, KeeperOptions options) {
  UniqueFd own(::fcntl(directory, F_DUPFD_CLOEXEC, kInheritedSocket));
  if (!own) return Error{"keeper", std::string("no descriptor of the state directory: ") + std::strerror(errno)};
  std::unique_ptr<Keeper> keeper(new Keeper(std::move(own), std::move(options)));
  if (auto connected = keeper->connect(keeper->options_.start); !connected)
    return Error{"keeper", std::string("cannot be reached or started: ") + std::strerror(connected.error().value)};
  return keeper;
}

Keeper::~Keeper() { reap(); }

Result<void, Errno> Keeper::begin() {
  const std::lock_guard lock(mutex_);
  return none_yet_ ? connect(true) : Result<void, Errno>(ok);
}

void Keeper::end_with_us() {
  const std::lock_guard lock(mutex_);
  if (none_yet_ || !ready()) return;
  ::kill(pid_, SIGTERM);
}

void Keeper::reap() {
  if (child_ > 0 && ::waitpid(child_, nullptr, WNOHANG) == child_) child_ = -1;
}

// One that runs has the connection in its backlog at once; where none listens
// one is started.
Result<void, Errno> Keeper::connect(bool may_start) {
  none_yet_ = false;
  for (int attempt = 0; attempt < kMaxStarts; ++attempt) {
    UniqueFd socket = unix_socket();
    if (!socket) return Errno::last();
    const sockaddr_un address = address_in(directory_.get());
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      socket_ = std::move(socket);
      greeted_ = false;
      return ok;
    }
    if (errno != ENOENT && errno != ECONNREFUSED) return Errno::last();
    if (!may_start) {
      none_yet_ = true;
      return ok;
    }
    FBROKER_TRY_VOID(start());
  }
  return Errno{ECONNREFUSED};
}

Result<void, Errno> Keeper::start() {
  if (options_.program.empty()) return Errno{ENOTSUP};
  reap();
  UniqueFd listener = unix_socket();
  if (!listener) return Errno::last();
  // Nobody else starts one here: the state directory's lock is ours.
  if (::unlinkat(directory_.get(), kSocketName, 0) != 0 && errno != ENOENT) return Errno::last();
  const sockaddr_un address = address_in(directory_.get());
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::fchmodat(directory_.get(), kSocketName, 0600, 0) != 0 || ::listen(listener.get(), kBacklog) != 0)
    return Errno::last();
  std::vector<std::string> words{"fbroker", "keeper", "--socket-fd", std::to_string(kInheritedSocket)};
  words.insert(words.end(), options_.arguments.begin(), options_.arguments.end());
  Spawning spawning;
  FBROKER_TRY(child_, spawning.start(options_.program, std::move(words), listener.get()));
  return ok;
}

Result<void, Errno> Keeper::greet() {
  FBROKER_TRY_VOID(send_bounded(socket_.get(), say::kHello, 0, {}, -1, options_.start_bound));
  FBROKER_TRY(const KeeperMessage answer, receive_bounded(socket_.get(), options_.start_bound));
  if (answer.kind != say::kDone) return Errno{EPROTO};
  if (answer.version != kKeeperVersion) return Errno{EPROTONOSUPPORT};
  pid_ = static_cast<pid_t>(std::strtol(answer.name.c_str(), nullptr, 10));
  greeted_ = true;
  return ok;
}

// Precondition: mutex_ is held. Nothing was kept by one that never answered, so
// that another may be started in its place.
Result<void, Errno> Keeper::ready() {
  if (greeted_) return ok;
  if (none_yet_) FBROKER_TRY_VOID(connect(true));
  for (int attempt = 1; socket_; ++attempt) {
    const auto greeted = greet();
    if (greeted) return ok;
    const Errno why = greeted.error();
    const bool ended = why.value == ECONNRESET || why.value == EPIPE;
    if (!ended || attempt == kMaxStarts) return lose(why);
    if (auto again = connect(true); !again) return lose(again.error());
  }
  return Errno{ENOTCONN};
}

Errno Keeper::lose(Errno why) {
  socket_ = UniqueFd();
  greeted_ = false;
  reap();
  return why;
}

Result<void, Errno> Keeper::keep(std::string_view name, Kept kind, int fd) {
  if (!is_kept_name(name)) return Errno{EINVAL};
  if (fd < 0) return Errno{EBADF};
  const std::lock_guard lock(mutex_);
  FBROKER_TRY_VOID(ready());
  if (auto sent = send_bounded(socket_.get(), say::kKeep, static_cast<std::uint8_t>(kind), name, fd, options_.bound);
      !sent) {
    const int why = sent.error().value;
    // Of this descriptor, not of the keeper.
    if (why == EBADF || why == ETOOMANYREFS) return sent;
    return lose(sent.error());
  }
  const auto answer = receive_bounded(socket_.get(), options_.bound);
  if (!answer) return lose(answer.error());
  if (answer->kind != say::kDone) return lose(Errno{EPROTO});
  if (answer->detail != 0) return Errno{answer->detail};
  return ok;
}

Result<void, Errno> Keeper::drop(std::string_view name) {
  if (!is_kept_name(name)) return Errno{EINVAL};
  const std::lock_guard lock(mutex_);
  if (none_yet_) return ok;
  FBROKER_TRY_VOID(ready());
  if (auto sent = send_bounded(socket_.get(), say::kDrop, 0, name, -1, options_.bound); !sent)
    return lose(sent.error());
  return ok;
}

Result<std::vector<KeptDescriptor>, Errno> Keeper::all(std::uint8_t question, std::string_view prefix) {
  if (!prefix.empty() && !is_kept_name(prefix)) return Errno{EINVAL};
  const std::lock_guard lock(mutex_);
  std::vector<KeptDescriptor> found;
  if (none_yet_) return found;
  FBROKER_TRY_VOID(ready());
  if (auto sent = send_bounded(socket_.get(), question, 0, prefix, -1, options_.bound); !sent)
    return lose(sent.error());
  bool no_room = false;
  for (;;) {
    auto answer = receive_bounded(socket_.get(), options_.bound);
    if (!answer) return lose(answer.error());
    if (answer->kind == say::kDone) break;
    const bool has_one = answer->descriptors.size() == 1;
    if (answer->kind != say::kFound || !is_kept_name(answer->name)) return lose(Errno{EPROTO});
    no_room = no_room || answer->cut;
    if (question == say::kTake && !has_one && !answer->cut) return lose(Errno{EPROTO});
    found.push_back({std::move(answer->name), static_cast<Kept>(answer->detail),
                     has_one ? std::move(answer->descriptors.front()) : UniqueFd()});
  }
  if (no_room) return Errno{EMFILE};
  return found;
}

Result<std::vector<KeptDescriptor>, Errno> Keeper::take(std::string_view prefix) { return all(say::kTake, prefix); }

Result<std::vector<std::string>, Errno> Keeper::list(std::string_view prefix) {
  FBROKER_TRY(const auto found, all(say::kList, prefix));
  std::vector<std::string> names;
  for (const KeptDescriptor& one : found) names.push_back(one.name);
  return names;
}

Result<pid_t, Errno> Keeper::pid() {
  const std::lock_guard lock(mutex_);
  FBROKER_TRY_VOID(ready());
  return pid_;
}

}  // namespace fbroker::broker
