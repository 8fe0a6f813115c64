#include "container/supervise.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

namespace fbroker::container {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTaken[]{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT, SIGCHLD, SIGPIPE};
constexpr auto kGrace = std::chrono::seconds(5);   // from a polite end to a forced one
constexpr int kDrainMs = 1000;
constexpr int kMostInterrupts = 3;
constexpr std::size_t kMostStatusBytes = 4096;

Error failed(const char* what) { return Error{what, std::strerror(errno)}; }

UniqueFd duplicate(int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

// The terminal behind `fd`, for us alone where it can be had.
UniqueFd terminal_of(int fd, int flags) {
  UniqueFd own = own_terminal(fd, flags);
  return own ? std::move(own) : duplicate(fd);
}

bool same_file(int a, int b) {
  struct stat one {}, other {};
  return ::fstat(a, &one) == 0 && ::fstat(b, &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

UniqueFd receive_descriptor(int socket) {
  char byte;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != 1) return UniqueFd();
  const cmsghdr* part = CMSG_FIRSTHDR(&message);
  if (part == nullptr || part->cmsg_type != SCM_RIGHTS || part->cmsg_len != CMSG_LEN(sizeof(int)))
    return UniqueFd();
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
  return UniqueFd(fd);
}

// What fbroker-init says of itself.
class InitStatus {
 public:
  // False at the end.
  bool read_from(int fd) {
    char buffer[256];
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got <= 0) return false;
    if (text_.size() < kMostStatusBytes) text_.append(buffer, static_cast<std::size_t>(got));
    return true;
  }
  int exit_status() const {
    const std::size_t at = text_.find("exit ");
    if (at != text_.npos) return std::atoi(text_.c_str() + at + 5) & 0xff;
    return text_.starts_with("started") ? 128 + SIGKILL : 125;
  }

 private:
  std::string text_;
};

// One run of the poll loop's state.
class Attendance {
 public:
  Attendance(Sandbox& sandbox, Streams& streams, const Signals& signals, const Companion& companion)
      : sandbox_(sandbox), streams_(streams), signals_(signals), companion_(companion) {}

  int until_end() {
    start(sandbox_);
    while (!ended_) turn(timeout());
    sandbox_.first.signal(SIGKILL);  // should the backend have died before it
    streams_.stop_input();
    drain();
    read_last_words();
    streams_.restore();
    return status_with(streams_.lost());
  }

 private:
  int timeout() const {
    if (!kill_at_) return -1;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(*kill_at_ - Clock::now());
    return static_cast<int>(std::max<long>(0, left.count()));
  }

  void turn(int timeout_ms) {
    std::vector<pollfd> wait{{signals_.fd(), POLLIN, 0},
                             {sandbox_.backend.pidfd(), POLLIN, 0},
                             {sandbox_.status.get(), POLLIN, 0},
                             {sandbox_.console.get(), POLLIN, 0},
                             {companion_.ended(), POLLIN, 0}};
    for (const auto& channel : streams_.channels()) wait.push_back(channel->want());
    const int ready = ::poll(wait.data(), wait.size(), timeout_ms);
    if (ready == 0 && kill_at_) return kill();
    if (ready < 0) return;
    while (const auto number = signals_.next()) take(*number);
    if (wait[1].revents != 0) ended_ = true;
    if (wait[2].revents != 0 && !init_.read_from(sandbox_.status.get())) sandbox_.status = UniqueFd();
    if (wait[3].revents != 0) {
      if (UniqueFd master = receive_descriptor(sandbox_.console.get())) streams_.connect(std::move(master));
      sandbox_.console = UniqueFd();  // one terminal, once
    }
    if (wait[4].revents != 0 && !ended_) restart_companion();
    for (const auto& channel : streams_.channels()) channel->pump();
  }

  void restart_companion() {
    std::fprintf(stderr, "fbroker run: the broker ended and is started again\n");
    const auto restarted = companion_.restart();
    if (restarted) return;
    std::fprintf(stderr, "fbroker run: %s; the sandbox cannot go on\n", restarted.error().text().c_str());
    kill();
  }

  void take(int number) {
    switch (number) {
      case SIGWINCH: return streams_.resize();
      case SIGCONT: return streams_.continued();
      case SIGCHLD: case SIGPIPE: return;
      case SIGINT: case SIGQUIT:
        if (++interrupts_ >= kMostInterrupts) return kill();
        return sandbox_.first.signal(number);
      default:  // SIGTERM, SIGHUP: the second one does not ask
        if (kill_at_) return kill();
        kill_at_ = Clock::now() + kGrace;
        sandbox_.first.signal(number);
    }
  }

  void kill() {
    kill_at_.reset();
    sandbox_.first.signal(SIGKILL);
  }

  int status_with(int lost) const {
    if (lost == 0) return init_.exit_status();
    std::fprintf(stderr, "fbroker run: the output could not be written: %s\n", std::strerror(lost));
    return std::max(init_.exit_status(), 1);
  }

  void read_last_words() {
    pollfd more{.fd = sandbox_.status.get(), .events = POLLIN, .revents = 0};
    while (sandbox_.status && ::poll(&more, 1, kDrainMs) > 0 && init_.read_from(sandbox_.status.get())) {}
  }

  // Everybody inside is dead, so the sources end by themselves; who reads slowly
  // still gets all. But a terminal that was stopped (^S) is not waited for, and
  // a signal ends it: there is no key in raw mode that could.
  void drain() {
    const auto until = Clock::now() + std::chrono::milliseconds(kDrainMs);
    while (!streams_.terminal().wanted || Clock::now() < until) {
      std::vector<pollfd> wait{{signals_.fd(), POLLIN, 0}};
      for (const auto& channel : streams_.channels()) {
        channel->pump();
        if (!channel->ended()) wait.push_back(channel->want());
      }
      if (wait.size() == 1) return;
      ::poll(wait.data(), wait.size(), kDrainMs);
      while (const auto number = signals_.next())
        if (*number != SIGCHLD && *number != SIGWINCH && *number != SIGCONT && *number != SIGPIPE) return;
    }
  }

  Sandbox& sandbox_;
  Streams& streams_;
  const Signals& signals_;
  const Companion& companion_;
  InitStatus init_;
  std::optional<Clock::time_point> kill_at_;
  int interrupts_ = 0;
  bool ended_ = false;
};

}  // namespace

Result<Streams> Streams::plan() {
  Streams streams;
  Stdio& inside = streams.stdio_;
  if (!is_terminal(0) || !is_terminal(1)) {
    FBROKER_TRY_VOID(streams.carry(0, inside.in));
    FBROKER_TRY_VOID(streams.carry(1, inside.out));
    inside.err = inside.out;
    if (!same_file(1, 2)) FBROKER_TRY_VOID(streams.carry(2, inside.err));
    return streams;
  }
  // The terminal is made inside; the first process needs nothing of ours.
  FBROKER_TRY_VOID(streams.carry(2, inside.err));
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) return failed("/dev/null");
  inside.in = inside.out = null.get();
  streams.kept_.push_back(std::move(null));
  winsize size{};
  ::ioctl(0, TIOCGWINSZ, &size);
  streams.terminal_ = {
      .wanted = true, .keep_stderr = !is_terminal(2), .rows = size.ws_row, .columns = size.ws_col};
  return streams;
}

Result<void> Streams::carry(int fd, int& for_sandbox) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return failed("pipe");
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  const bool input = fd == 0;
  for_sandbox = input ? read_end.get() : write_end.get();
  UniqueFd own = is_terminal(fd) ? terminal_of(fd, input ? O_RDONLY : O_WRONLY) : duplicate(fd);
  channels_.push_back(input ? std::make_unique<Channel>(std::move(own), std::move(write_end))
                            : std::make_unique<Channel>(std::move(read_end), std::move(own)));
  if (input) input_ = channels_.back().get();
  kept_.push_back(input ? std::move(read_end) : std::move(write_end));
  return ok;
}

void Streams::connect(UniqueFd master) {
  ::fcntl(master.get(), F_SETFL, ::fcntl(master.get(), F_GETFL) | O_NONBLOCK);
  channels_.push_back(std::make_unique<Channel>(terminal_of(0, O_RDONLY), duplicate(master.get())));
  input_ = channels_.back().get();
  channels_.push_back(std::make_unique<Channel>(duplicate(master.get()), terminal_of(1, O_WRONLY),
                                                Channel::TargetGone::go_on));
  master_ = std::move(master);
  resize();
  raw_.enter(0);
}

int Streams::lost() const noexcept {
  for (const auto& channel : channels_)
    if (channel.get() != input_ && channel->error() != 0) return channel->error();
  return 0;
}

void Streams::stop_input() noexcept {
  if (input_ != nullptr) input_->stop();
}

void Streams::resize() noexcept {
  winsize size{};
  if (master_ && ::ioctl(0, TIOCGWINSZ, &size) == 0) ::ioctl(master_.get(), TIOCSWINSZ, &size);
}

void Streams::continued() noexcept {
  raw_.enter_again();
  resize();
}

Result<Signals> Signals::take() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : kTaken) ::sigaddset(&set, number);
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) < 0) return failed("signals");
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return failed("signalfd");
  return Signals(std::move(fd));
}

std::optional<int> Signals::next() const noexcept {
  signalfd_siginfo info{};
  if (::read(fd_.get(), &info, sizeof info) != sizeof info) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

int supervise(Sandbox& sandbox, Streams& streams, const Signals& signals, const Companion& companion) {
  return Attendance(sandbox, streams, signals, companion).until_end();
}

}  // namespace fbroker::container
