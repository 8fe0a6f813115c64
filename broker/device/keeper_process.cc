#include "broker/device/keeper_process.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <list>
#include <map>
#include <optional>
#include <thread>

#include "broker/device/keeper_messages.h"

namespace fbroker::broker {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr std::size_t kMaxConnections = 16;   // one broker, and one that follows it
constexpr std::size_t kOwnDescriptors = 64;   // of the process itself: sockets, messages under way
constexpr int kMessagesPerTurn = 64;          // of a long answer, before others get their turn
constexpr milliseconds kTryAgain{50};         // where the system has no room for now

// Closes what may hang in being closed.
class Closer {
 public:
  Closer() : thread_([this] { run(); }) { thread_.detach(); }

  void close(UniqueFd fd) {
    if (!fd) return;
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(fd));
    more_.notify_one();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      more_.wait(lock, [&] { return !waiting_.empty(); });
      UniqueFd next = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      next = UniqueFd();
      lock.lock();
    }
  }

  std::mutex mutex_;   // guards waiting_
  std::condition_variable more_;
  std::deque<UniqueFd> waiting_;
  std::thread thread_;
};

struct Entry {
  Kept kind;
  UniqueFd fd;
};
using Table = std::map<std::string, Entry, std::less<>>;

// The rest of an answer to "list" or "take": what is kept now, after `last`.
struct Listing {
  std::string prefix;
  bool with_descriptors;
  std::optional<std::string> last = {};
};

// INVARIANT: nothing is read from a connection while an answer to it is not
// sent: a client that does not read has at most one question here.
struct Connection {
  UniqueFd socket;
  steady_clock::time_point heard;
  std::optional<std::pair<std::uint8_t, std::string>> answer = {};   // error number, name
  std::optional<Listing> listing = {};
  bool no_room = false;   // the system's, to send: to be tried again soon
  bool over = false;

  bool owes() const { return answer || listing; }
};

class KeeperProcess {
 public:
  KeeperProcess(UniqueFd listener, UniqueFd signals, const KeeperProcessOptions& options, std::size_t capacity)
      : listener_(std::move(listener)), signals_(std::move(signals)), options_(options), capacity_(capacity) {}

  void serve() {
    while (!is_over()) {
      wait();
      accept_all();
      for (Connection& one : connections_) attend(one);
      std::erase_if(connections_, [](const Connection& one) { return one.over; });
      if (steady_clock::now() >= next_check_) check_devices();
      give_up_files();
    }
    listener_ = UniqueFd();   // whoever connects from now on is refused, and starts another
  }

 private:
  bool is_over() {
    const auto now = steady_clock::now();
    if (!connections_.empty()) alone_since_ = now;
    if (!connections_.empty() || !kept_.empty()) idle_since_ = now;
    return asked_to_end_ ? connections_.empty() && kept_.empty() : now - idle_since_ >= options_.grace;
  }

  void wait() {
    std::vector<pollfd> polled;
    polled.push_back({signals_.get(), POLLIN, 0});
    const bool accepting = steady_clock::now() >= accept_again_;
    polled.push_back({accepting ? listener_.get() : -1, POLLIN, 0});
    milliseconds longest = std::max(milliseconds(1), std::min(options_.grace, options_.device_check));
    if (!accepting) longest = std::min(longest, kTryAgain);
    for (const Connection& one : connections_) {
      if (one.no_room) longest = std::min(longest, kTryAgain);
      polled.push_back({one.no_room ? -1 : one.socket.get(), static_cast<short>(one.owes() ? POLLOUT : POLLIN), 0});
    }
    // With a broker connected and no device kept there is nothing to look after.
    const bool quiet = !connections_.empty() && devices_ == 0 && accepting &&
                       std::ranges::none_of(connections_, &Connection::no_room);
    ::poll(polled.data(), polled.size(), quiet ? -1 : static_cast<int>(longest.count()));
    signalfd_siginfo signal{};
    while (::read(signals_.get(), &signal, sizeof signal) == sizeof signal) asked_to_end_ = true;
  }

  void accept_all() {
    if (steady_clock::now() < accept_again_) return;
    for (;;) {
      UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
          accept_again_ = steady_clock::now() + kTryAgain;
        return;
      }
      // INVARIANT: whoever is of another user gets nothing, not even an answer.
      ucred peer{};
      socklen_t size = sizeof peer;
      if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != ::geteuid()) continue;
      // ATTACK: connections that only lie there, until the broker finds no room.
      if (connections_.size() >= kMaxConnections)
        connections_.erase(std::ranges::min_element(connections_, {}, &Connection::heard));
      connections_.push_back({std::move(socket), steady_clock::now()});
    }
  }

  // One message a turn: nobody keeps the others from being heard.
  void attend(Connection& one) {
    if (!one.owes()) {
      auto message = receive_message(one.socket.get());
      if (!message) {
        one.over = message.error().value != EAGAIN;
        return;
      }
      one.heard = steady_clock::now();
      one.over = !take_in(one, *message);
      for (UniqueFd& left : message->descriptors) closer_.close(std::move(left));
      if (one.over) return;
    }
    answer(one);
  }

  // False: not a message of a broker's; whoever sent it is not heard again.
  bool take_in(Connection& one, KeeperMessage& message) {
    if (!message.whole) return false;
    if (message.kind == say::kHello) {
      one.answer = {0, std::to_string(::getpid())};
      return message.descriptors.empty();
    }
    if (message.version != kKeeperVersion) return false;
    if (message.kind == say::kKeep) return keep(one, message);
    if (!message.descriptors.empty() || message.cut || message.detail != 0) return false;
    if (message.kind == say::kDrop) {
      if (!is_kept_name(message.name)) return false;
      drop(kept_.find(message.name));
      return true;
    }
    if (message.kind != say::kList && message.kind != say::kTake) return false;
    if (!message.name.empty() && !is_kept_name(message.name)) return false;
    one.listing = {std::move(message.name), message.kind == say::kTake};
    return true;
  }

  bool keep(Connection& one, KeeperMessage& message) {
    const auto kind = static_cast<Kept>(message.detail);
    if (!is_kept_name(message.name) || (kind != Kept::file && kind != Kept::device)) return false;
    if (message.descriptors.empty() && !message.cut) return false;
    const auto known = kept_.find(message.name);
    if (message.descriptors.empty() || (known == kept_.end() && kept_.size() >= capacity_)) {
      one.answer = {static_cast<std::uint8_t>(EMFILE), ""};
      return true;
    }
    drop(known);
    kept_.emplace(std::move(message.name), Entry{kind, std::move(message.descriptors.front())});
    if (kind == Kept::device) ++devices_;
    one.answer = {0, ""};
    return true;
  }

  Table::iterator drop(Table::iterator entry) {
    if (entry == kept_.end()) return entry;
    if (entry->second.kind == Kept::device) --devices_;
    closer_.close(std::move(entry->second.fd));
    return kept_.erase(entry);
  }

  // As much as there is room for.
  void answer(Connection& one) {
    one.no_room = false;
    for (int turn = 0; turn < kMessagesPerTurn && one.owes(); ++turn) {
      if (one.listing && !one.answer && !send_next(one)) return;
      if (one.answer && !sent(one, send_message(one.socket.get(), say::kDone, one.answer->first, one.answer->second)))
        return;
      if (one.answer) one.answer.reset();
    }
  }

  // The next of a listing; at its end what says so is to be answered.
  bool send_next(Connection& one) {
    Listing& listing = *one.listing;
    const auto next = listing.last ? kept_.upper_bound(*listing.last) : kept_.lower_bound(listing.prefix);
    if (next == kept_.end() || !next->first.starts_with(listing.prefix)) {
      one.listing.reset();
      one.answer = {0, ""};
      return true;
    }
    const int fd = listing.with_descriptors ? next->second.fd.get() : -1;
    const auto kind = static_cast<std::uint8_t>(next->second.kind);
    if (!sent(one, send_message(one.socket.get(), say::kFound, kind, next->first, fd))) return false;
    listing.last = next->first;
    return true;
  }

  bool sent(Connection& one, const Result<void, Errno>& outcome) {
    if (outcome) return true;
    const int why = outcome.error().value;
    // unix(7): too many descriptors of this user's are on their way.
    one.no_room = why == ETOOMANYREFS || why == ENOBUFS || why == ENOMEM;
    one.over = why != EAGAIN && !one.no_room;
    return false;
  }

  // fuse_dev_poll() says POLLERR at once when the connection is gone. Not by
  // epoll: that would wake us for each request that the broker reads.
  void check_devices() {
    next_check_ = steady_clock::now() + options_.device_check;
    if (devices_ == 0) return;
    std::vector<pollfd> devices;
    for (const auto& [name, entry] : kept_)
      if (entry.kind == Kept::device) devices.push_back({entry.fd.get(), 0, 0});
    if (::poll(devices.data(), devices.size(), 0) <= 0) return;
    auto looked_at = devices.begin();
    for (auto entry = kept_.begin(); entry != kept_.end();) {
      const bool gone = entry->second.kind == Kept::device && (looked_at++)->revents != 0;
      entry = gone ? drop(entry) : std::next(entry);
    }
  }

  void give_up_files() {
    if (!connections_.empty() || devices_ != 0 || steady_clock::now() - alone_since_ < options_.files_alone) return;
    while (!kept_.empty()) drop(kept_.begin());
  }

  UniqueFd listener_;
  const UniqueFd signals_;
  const KeeperProcessOptions options_;
  const std::size_t capacity_;
  Table kept_;
  std::size_t devices_ = 0;   // of kept_
  std::list<Connection> connections_;
  bool asked_to_end_ = false;
  steady_clock::time_point idle_since_ = steady_clock::now();    // nothing kept, nobody there
  steady_clock::time_point alone_since_ = idle_since_;           // nobody there
  steady_clock::time_point next_check_{}, accept_again_{};
  Closer closer_;
};

bool is_listening(int fd) {
  const auto is = [fd](int option, int wanted) {
    int value = -1;
    socklen_t size = sizeof value;
    return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 && value == wanted;
  };
  return is(SO_DOMAIN, AF_UNIX) && is(SO_TYPE, SOCK_SEQPACKET) && is(SO_ACCEPTCONN, 1);
}

// What it keeps opens other people's files: no core dump, no debugger, no way
// to its descriptors through /proc.
std::size_t prepare_process() {
  ::prctl(PR_SET_DUMPABLE, 0);
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  (void)!::chdir("/");   // no directory is held up
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  return files.rlim_cur > kOwnDescriptors ? files.rlim_cur - kOwnDescriptors : 0;
}

}  // namespace

bool run_keeper(int listener, const KeeperProcessOptions& options) {
  if (!is_listening(listener)) return false;
  const std::size_t room = prepare_process();
  // A signal means "end when you can": what is kept has no other place. Blocked
  // before the closing thread starts.
  sigset_t taken;
  sigemptyset(&taken);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) sigaddset(&taken, signal);
  ::pthread_sigmask(SIG_BLOCK, &taken, nullptr);
  UniqueFd signals(::signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return false;
  KeeperProcess process(UniqueFd(listener), std::move(signals), options, std::min(options.max_kept, room));
  process.serve();
  ::_exit(0);
}

}  // namespace fbroker::broker
