// fbroker-init: a container's first process. Mounts the workspace and gives it
// to the broker, or starts fbroker-fuse to answer for it; starts the relay to
// carry its connections, and runs the agent beside them without any capability, in a PID namespace where it can
// neither see nor signal them.
//
// It holds no authority: what it checks is for clear errors. The broker decides.
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string>

#include "container/hardening/capabilities.h"
#include "container/hardening/no_new_privs.h"
#include "shim/init/agent.h"
#include "shim/init/give_device.h"
#include "shim/init/options.h"
#include "shim/init/process.h"
#include "shim/init/relay_process.h"
#include "shim/init/terminal.h"
#include "shim/init/workspace.h"

namespace fbroker::init {
namespace {

void tell(const Options& options, const std::string& line) {
  if (options.status_fd < 0) return;
  [[maybe_unused]] const ssize_t written =
      ::write(options.status_fd, (line + "\n").c_str(), line.size() + 1);
}

[[noreturn]] void cannot_start(const Options& options, const Error& error) {
  tell(options, "failed");
  die(error.text());
}

// Everything that arrives from outside stays ours, and nothing is inherited by
// accident: each child names what it keeps.
void close_on_exec_from_here_on() {
  ::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
}

// Blocked for good: a first process ignores signals without a handler unless
// they are blocked, and we take them one by one.
void block_signals() {
  sigset_t all;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
}

struct Children {
  std::optional<pid_t> file_service;   // none: the broker is
  std::optional<pid_t> relay;
  pid_t agent;
};

// Ends what is left beside the agent: politely, then not.
void end_file_service(pid_t file_service) {
  ::kill(file_service, SIGTERM);
  sigset_t child;
  ::sigemptyset(&child);
  ::sigaddset(&child, SIGCHLD);
  timespec left{.tv_sec = 2, .tv_nsec = 0};
  while (::waitpid(file_service, nullptr, WNOHANG) == 0)
    if (::sigtimedwait(&child, nullptr, &left) < 0 && errno == EAGAIN) {
      ::kill(file_service, SIGKILL);
      return;  // the namespace's end takes it
    }
}

// Reaps, passes signals on, and returns the agent's status.
int supervise(const Children& children) {
  pid_t relay = children.relay.value_or(0);   // 0: none
  sigset_t all;
  ::sigfillset(&all);
  bool serves = children.file_service.has_value();
  for (;;) {
    int status = 0;
    for (pid_t ended; (ended = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (ended == children.agent) {
        if (relay > 0) ::kill(relay, SIGKILL);  // it holds nothing that could be lost
        if (serves) end_file_service(*children.file_service);
        return exit_status(status);
      }
      if (ended == relay) {
        relay = 0;
        std::fprintf(stderr, "fbroker-init: the relay ended (status %d): no connection in or out is left\n",
                     exit_status(status));
      }
      if (serves && ended == *children.file_service) {
        serves = false;
        std::fprintf(stderr, "fbroker-init: fbroker-fuse ended (status %d): the workspace is gone\n",
                     exit_status(status));
      }
    }
    const int number = ::sigwaitinfo(&all, nullptr);
    for (const int forwarded : kForwarded)
      if (number == forwarded) ::kill(children.agent, number);
  }
}

// Who answers for the workspace; none: the broker itself.
Result<std::optional<pid_t>> serve_workspace(const Options& options) {
  FBROKER_TRY(UniqueFd device, mount_workspace(options));
  if (options.transport != Transport::http) {
    const auto given = give_device(options, device);
    if (given) return std::optional<pid_t>();
    if (options.transport == Transport::device) return Error{options.mount, given.error().text()};
    std::fprintf(stderr, "fbroker-init: the workspace is served over HTTP, which is slower: %s\n",
                 given.error().text().c_str());
  }
  FBROKER_TRY(const pid_t file_service, start_file_service(options, std::move(device)));
  return std::optional(file_service);
}

int run(int argc, char** argv) {
  auto parsed = parse_options(argc, argv);
  if (!parsed) die(parsed.error().text());
  const Options& options = *parsed;
  close_on_exec_from_here_on();
  if (auto done = hardening::set_not_dumpable(); !done) cannot_start(options, done.error());
  if (options.tty) release_terminal();
  block_signals();

  auto file_service = serve_workspace(options);
  if (!file_service) cannot_start(options, file_service.error());
  auto relay = start_relay(options);
  if (!relay) cannot_start(options, relay.error());

  UniqueFd terminal;
  if (options.console_fd >= 0) {
    auto made = make_terminal(options);
    if (!made) cannot_start(options, made.error());
    terminal = std::move(*made);
    ::close(options.console_fd);
  }
  auto agent = start_agent(options, terminal.get());
  if (!agent) cannot_start(options, agent.error());
  terminal = UniqueFd();
  // What watches needs no power either.
  if (auto done = hardening::set_no_new_privs(); !done) cannot_start(options, done.error());
  if (auto done = hardening::drop_all_capabilities(); !done) cannot_start(options, done.error());
  tell(options, "started");
  ::close(STDIN_FILENO);
  ::close(STDOUT_FILENO);

  const int status = supervise({*file_service, *relay, *agent});
  tell(options, "exit " + std::to_string(status));
  return status;
}

}  // namespace
}  // namespace fbroker::init

#ifdef __SANITIZE_ADDRESS__
// The leak detector attaches to its own process, which nobody may do here.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

int main(int argc, char** argv) { return fbroker::init::run(argc, argv); }
