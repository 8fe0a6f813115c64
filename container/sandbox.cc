#include "container/sandbox.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>

#include "container/backends/bwrap.h"
#include "container/carry/hand_over.h"
#include "container/stage.h"

namespace fbroker::container {
namespace {

constexpr int kPatienceMs = 10'000;
constexpr std::size_t kMostInfoBytes = 4096;

Error failed(const char* what) { return Error{what, std::strerror(errno)}; }

struct Pipe {
  UniqueFd out, in;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return failed("pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<Pipe> make_socketpair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return failed("socketpair");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<carry::Ends> make_publish_channel(const SandboxSpec& spec) {
  if (!spec.publishes) return carry::Ends{UniqueFd(), UniqueFd()};
  auto channel = carry::make_channel();
  if (!channel) return Error{"--publish", std::strerror(channel.error().value)};
  return std::move(*channel);
}

UniqueFd pidfd_of(pid_t pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u))); }

// Every descriptor that the backend shall inherit.
std::vector<int> inherited(const SandboxSpec& spec) {
  std::vector<int> fds{spec.status_fd, spec.console_fd, spec.publish_fd,
                       spec.info_fd,   spec.block_fd,   spec.secrets_fd};
  for (const DataFile& file : spec.files) fds.push_back(file.fd);
  for (const Mount* mount : {&spec.socket_directory, &spec.init_program, &spec.fuse_program})
    fds.push_back(mount->fd);
  if (spec.home_directory) fds.push_back(spec.home_directory->fd);
  for (const Mount& kept : spec.kept) fds.push_back(kept.fd);
  for (const Mount& tool : spec.tools) fds.push_back(tool.fd);
  return fds;
}

struct Launch {
  const SandboxSpec& spec;
  const std::vector<std::string>& argv;
  const std::vector<Mount>& staged;
  const std::string& bwrap;
  HostUser user;
  Stdio stdio;
};

void reset_signals() {
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

Result<void> set_up_child(const Launch& launch) {
  // A session of its own: the person's terminal is nobody's controlling
  // terminal inside, and its Ctrl-C comes through us.
  ::setsid();
  reset_signals();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::geteuid() == 0) {
    FBROKER_TRY_VOID(build_stage(launch.staged));
    FBROKER_TRY_VOID(become(launch.user));
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a change of user takes it back
  }
  // INVARIANT: what is not listed does not reach the sandbox.
  if (::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) < 0) return failed("close_range");
  for (const int fd : inherited(launch.spec))
    if (fd >= 0 && ::fcntl(fd, F_SETFD, 0) < 0) return failed("descriptor for the sandbox");
  ::dup2(launch.stdio.in, STDIN_FILENO);
  ::dup2(launch.stdio.out, STDOUT_FILENO);
  ::dup2(launch.stdio.err, STDERR_FILENO);
  return ok;
}

[[noreturn]] void become_backend(const Launch& launch) {
  if (auto done = set_up_child(launch); !done) {
    ::dprintf(launch.stdio.err, "fbroker: %s\n", done.error().text().c_str());
    ::_exit(125);
  }
  std::vector<char*> words;
  for (const std::string& word : launch.argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execv(launch.bwrap.c_str(), words.data());
  ::dprintf(STDERR_FILENO, "fbroker: %s: %s\n", launch.bwrap.c_str(), std::strerror(errno));
  ::_exit(125);
}

// One JSON object: {"child-pid": 4711, …}.
std::optional<pid_t> child_pid(std::string_view info) {
  constexpr std::string_view kKey = "\"child-pid\":";
  std::size_t at = info.find(kKey);
  if (at == info.npos) return std::nullopt;
  at = info.find_first_not_of(' ', at + kKey.size());
  if (at == info.npos) return std::nullopt;
  pid_t pid = 0;
  const auto parsed = std::from_chars(info.data() + at, info.data() + info.size(), pid);
  if (parsed.ec != std::errc() || parsed.ptr == info.data() + info.size() || pid <= 1) return std::nullopt;
  return pid;
}

Result<pid_t> read_child_pid(int info) {
  std::string text;
  pollfd wait{.fd = info, .events = POLLIN, .revents = 0};
  while (text.size() < kMostInfoBytes) {
    // To its end: bwrap would be killed by a pipe that nobody reads any more.
    if (text.find('}') != text.npos)
      if (const auto pid = child_pid(text)) return *pid;
    if (::poll(&wait, 1, kPatienceMs) <= 0) break;
    char buffer[512];
    const ssize_t got = ::read(info, buffer, sizeof buffer);
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return Error{"bwrap", "did not make the sandbox (its own message is above)"};
}

}  // namespace

void Child::signal(int number) const noexcept {
  if (pidfd_) ::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0u);
}

Result<Sandbox> prepare(SandboxSpec spec, const Programs& programs, HostUser user, Stdio stdio) {
  FBROKER_TRY(Pipe status, make_pipe());
  FBROKER_TRY(Pipe info, make_pipe());
  FBROKER_TRY(Pipe go, make_pipe());
  FBROKER_TRY(Pipe console, make_socketpair());
  FBROKER_TRY(carry::Ends publish, make_publish_channel(spec));
  spec.status_fd = status.in.get();
  spec.info_fd = info.in.get();
  spec.block_fd = go.out.get();
  if (spec.terminal.wanted) spec.console_fd = console.in.get();
  spec.publish_fd = publish.relay.get();

  UniqueFd secrets;
  if (!spec.secrets.empty()) {
    FBROKER_TRY(secrets, file_of("environment", bwrap_secrets(spec)));
    spec.secrets_fd = secrets.get();
  }

  std::vector<Mount> staged;
  if (::geteuid() == 0) {
    FBROKER_TRY(staged, plan_stage(spec));
  }
  const std::vector<std::string> argv = bwrap_argv(spec);
  const pid_t pid = ::fork();
  if (pid < 0) return failed("fork");
  if (pid == 0) become_backend({spec, argv, staged, programs.bwrap, user, stdio});

  Sandbox sandbox;
  sandbox.backend = Child(pid, pidfd_of(pid));
  info.in = UniqueFd();
  auto first = read_child_pid(info.out.get());
  if (!first) {
    destroy(sandbox);
    return first.error();
  }
  sandbox.first = Child(*first, pidfd_of(*first));
  sandbox.status = std::move(status.out);
  if (spec.terminal.wanted) sandbox.console = std::move(console.out);
  sandbox.publish = std::move(publish.launcher);
  sandbox.go = std::move(go.in);
  if (!sandbox.first) {
    destroy(sandbox);
    return Error{"sandbox", "ended before it began"};
  }
  return sandbox;
}

void start(Sandbox& sandbox) noexcept {
  [[maybe_unused]] const ssize_t written = ::write(sandbox.go.get(), "g", 1);
  sandbox.go = UniqueFd();
}

void destroy(Sandbox& sandbox) noexcept {
  sandbox.first.signal(SIGKILL);
  if (!sandbox.backend) return;
  // bwrap ends by itself after its child; it is not waited for without bound.
  pollfd ended{.fd = sandbox.backend.pidfd(), .events = POLLIN, .revents = 0};
  if (!sandbox.first || ::poll(&ended, 1, 2000) <= 0) sandbox.backend.signal(SIGKILL);
  ::waitpid(sandbox.backend.pid(), nullptr, 0);
  sandbox.backend = Child();
}

Result<UniqueFd> file_of(const std::string& name, const std::string& content) {
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC));
  if (!fd || ::write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()) ||
      ::lseek(fd.get(), 0, SEEK_SET) != 0)
    return failed("file for the sandbox");
  return fd;
}

}  // namespace fbroker::container
