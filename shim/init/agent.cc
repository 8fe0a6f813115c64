#include "shim/init/agent.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <optional>

#include "container/hardening/capabilities.h"
#include "container/hardening/no_new_privs.h"
#include "container/hardening/seccomp.h"
#include "policy/base/unique_fd.h"
#include "shim/init/process.h"
#include "shim/init/terminal.h"

namespace fbroker::init {
namespace {

Result<void> write_file(const char* path, const std::string& text) {
  const UniqueFd fd(::open(path, O_WRONLY | O_CLOEXEC));
  if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return Error{path, last_error()};
  return ok;
}

// The mount and PID namespaces stay the outer user namespace's: even with every
// capability over the nested one the agent could change nothing in them.
Result<void> show_only_our_processes() {
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0) return ok;
  return Error{"/proc", "cannot mount a fresh one: " + last_error() +
                            (errno == EPERM ? " (the container runtime covers parts of /proc, so the "
                                              "kernel gives no other; Podman: --security-opt unmask=ALL)"
                                            : "")};
}

Result<void> hide(const Options& options) {
  for (const std::string& path : options.hide)
    if (::umount2(path.c_str(), MNT_DETACH) < 0) return Error{"--hide " + path, last_error()};
  return ok;
}

// ATTACK: without the nested user namespace the agent and fbroker-fuse would be
//   the same user to each other.
Result<void> become(uid_t uid, gid_t gid) {
  const std::string outer_uid = std::to_string(::geteuid()), outer_gid = std::to_string(::getegid());
  if (::unshare(CLONE_NEWUSER) < 0) return Error{"nested user namespace", last_error()};
  // While we are not dumpable our own files in /proc belong to the container's
  // root. The agent does not run yet; give_everything_up() takes it back.
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  FBROKER_TRY_VOID(write_file("/proc/self/setgroups", "deny"));
  FBROKER_TRY_VOID(write_file("/proc/self/uid_map", std::to_string(uid) + " " + outer_uid + " 1"));
  FBROKER_TRY_VOID(write_file("/proc/self/gid_map", std::to_string(gid) + " " + outer_gid + " 1"));
  // A second lock on what seccomp refuses already. /proc/sys may be read-only.
  (void)write_file("/proc/sys/user/max_user_namespaces", "0");
  return ok;
}

// INVARIANT: no line of the agent's runs before all of these have worked.
Result<void> give_everything_up() {
  FBROKER_TRY_VOID(hardening::set_no_new_privs());
  FBROKER_TRY_VOID(hardening::drop_all_capabilities());
  FBROKER_TRY_VOID(hardening::set_not_dumpable());
  return hardening::apply_seccomp();
}

Result<void> set_limits(const Options& options) {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  for (const Limit& limit : options.limits) {
    rlimit now{};
    ::getrlimit(static_cast<__rlimit_resource>(limit.resource), &now);
    const rlim_t most = limit.value < now.rlim_max ? limit.value : now.rlim_max;
    const rlimit wanted{most, most};
    if (::setrlimit(static_cast<__rlimit_resource>(limit.resource), &wanted) < 0)
      return Error{"--limit", last_error()};
  }
  return ok;
}

Result<void> take_over_terminal(const Options& options, int terminal) {
  if (terminal >= 0) {
    ::dup2(terminal, STDIN_FILENO);
    ::dup2(terminal, STDOUT_FILENO);
    if (!options.keep_stderr) ::dup2(terminal, STDERR_FILENO);
  }
  if ((terminal >= 0 || options.tty) && !take_terminal()) return Error{"terminal", last_error()};
  return ok;
}

[[noreturn]] void become_command(const Options& options, int terminal) {
  ::setsid();
  if (auto done = take_over_terminal(options, terminal); !done) die(done.error().text());
  if (!options.chdir.empty()) {
    if (::chdir(options.chdir.c_str()) < 0) die(options.chdir + ": " + last_error());
    // A backend has said where it was itself; programs believe this before getcwd(3).
    ::setenv("PWD", options.chdir.c_str(), 1);
  }
  if (auto done = set_limits(options); !done) die(done.error().text());
  reset_signals();
  if (!keep_only({})) die("closing descriptors: " + last_error());
  ::execvp(options.command[0], options.command.data());
  const int error = errno;
  die(std::string(options.command[0]) + ": " + std::strerror(error),
      error == ENOENT ? kNotFound : kCannotExecute);
}

// Reaps everything; ends when the command does.
[[noreturn]] void reap_until_end_of(pid_t command) {
  sigset_t all;
  ::sigfillset(&all);
  for (;;) {
    int status = 0;
    for (pid_t ended; (ended = ::waitpid(-1, &status, WNOHANG)) > 0;)
      if (ended == command) ::_exit(exit_status(status));
    const int number = ::sigwaitinfo(&all, nullptr);
    for (const int forwarded : kForwarded)
      // To its group, as a terminal does: a shell alone would wait for its child.
      if (number == forwarded) ::kill(-command, number);
  }
}

[[noreturn]] void first_process(const Options& options, int terminal) {
  ::prctl(PR_SET_NAME, "fbroker-agent");
  if (auto done = hide(options); !done) die(done.error().text());
  if (auto done = show_only_our_processes(); !done) die(done.error().text());
  if (options.uid)
    if (auto done = become(*options.uid, *options.gid); !done) die(done.error().text());
  if (auto done = give_everything_up(); !done) die(done.error().text());

  const pid_t command = ::fork();
  if (command < 0) die("fork: " + last_error());
  if (command == 0) become_command(options, terminal);
  // The command has its own copies; ours would keep its pipes open.
  ::syscall(SYS_close_range, 0u, ~0u, 0u);
  reap_until_end_of(command);
}

}  // namespace

Result<pid_t> start_agent(const Options& options, int terminal) {
  if (::unshare(CLONE_NEWPID) < 0) return Error{"nested PID namespace", last_error()};
  const pid_t child = ::fork();
  if (child < 0) return Error{"fork", last_error()};
  if (child == 0) first_process(options, terminal);
  return child;
}

}  // namespace fbroker::init
