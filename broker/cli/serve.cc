// fbroker serve: the broker, in the foreground.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "broker/cli/person.h"
#include "broker/cli/table.h"
#include "broker/cli/verbs.h"
#include "broker/control/control_front.h"
#include "broker/control/control_json.h"
#include "broker/sessions/leftovers.h"
#include "broker/sessions/registry.h"
#include "broker/sessions/runtime_dir.h"

namespace fbroker::cli {

using broker::Registry;
using nlohmann::json;

namespace {

constexpr std::chrono::seconds kDrainBound{5};
constexpr int kParentCheckMs = 1000;

struct ServeOptions {
  std::string policy, socket, control, state, audit, audit_head, root, session = "default";
  bool embedded = false, again = false;
  int ready_fd = -1;
};

std::string absolute(const std::string& path, const std::string& cwd) {
  return path.empty() || path.starts_with('/') ? path : cwd + "/" + path;
}

void say(const std::string& words) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  // Where the launcher has a terminal in raw mode a line needs its own return.
  std::fprintf(stderr, "fbroker: %s%s\n", printable_words(words).c_str(), ::isatty(STDERR_FILENO) == 1 ? "\r" : "");
}

int failed(const std::string& words) {
  std::fprintf(stderr, "fbroker serve: %s\n", printable_words(words).c_str());
  return kUsage;
}

// --- the process ----------------------------------------------------------------

// What the broker holds in memory is other people's files: no core dump, no
// debugger of another process. Each open file is a descriptor.
void prepare_process() {
  ::prctl(PR_SET_DUMPABLE, 0);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  ::umask(077);
  // ATTACK: a search list (resolv.conf) makes another name of one that was
  //   allowed and does not exist: api.example.com.corp.example.
  ::setenv("LOCALDOMAIN", "", 1);
  ::setenv("RES_OPTIONS", "timeout:3 attempts:2", 0);
  std::signal(SIGPIPE, SIG_IGN);
}

// Before any thread starts: they inherit the mask.
UniqueFd take_signals() {
  sigset_t taken;
  sigemptyset(&taken);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&taken, signal);
  ::pthread_sigmask(SIG_BLOCK, &taken, nullptr);
  return UniqueFd(::signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
}

// An embedded broker lives no longer than the launcher that started it.
bool follow_parent(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  return ::getppid() == parent;  // it may have died before the line above
}

// --- what a person reads -----------------------------------------------------------

std::string words_at(const json& list) {
  std::string words;
  for (const json& one : list)
    words += (words.empty() ? "" : " ") + (one.is_string() ? shown(one.get<std::string>()) : std::string("?"));
  return words;
}

std::string base_rules(broker::Session& session) {
  const broker::ChangeTurn turn = session.take_turn();
  std::string names, last;
  for (const policy::Rule& rule : session.policy().rules) {
    if (!rule.id.starts_with("base:")) continue;
    const std::string name = rule.id.substr(5, rule.id.find('/', 5) - 5);
    if (name != last) names += (names.empty() ? "" : " ") + name;
    last = name;
  }
  return names.empty() ? "none" : names;
}

void print_session(broker::Session& session) {
  const json shown_session = json::parse(control::session_json(session), nullptr, false);
  std::printf("session %s\n", session.name().c_str());
  for (const json& one : shown_session.value("exports", json::array())) {
    const std::string at = one["at"].is_string() ? one["at"].get<std::string>() : "?";
    std::printf("  /workspace%s = %s (%s)\n", at == "/" ? "" : shown(at).c_str(),
                one["from"].is_string() ? shown(one["from"].get<std::string>()).c_str() : "?",
                one.value("writable", false) ? "rw" : "ro");
  }
  std::printf("  socket  %s\n", shown(session.socket()).c_str());
  std::printf("          mount its directory into the container: %s\n", shown(session.options().socket_directory).c_str());
  std::printf("  policy  %s\n", session.options().policy ? shown(*session.options().policy).c_str() : "the default: all of it, under the base rules");
  std::printf("  base rules on: %s\n", base_rules(session).c_str());
  const auto hidden = shown_session.value("hidden_count", 0);
  if (hidden > 0) std::printf("  %d hidden: %s%s\n", hidden, words_at(shown_session["hidden"]).c_str(), hidden > 20 ? " …" : "");
}

void print_start(Registry& registry, const std::string& control) {
  std::printf("fbroker %s serves\n", FBROKER_VERSION);
  for (const auto& session : registry.all()) print_session(*session);
  std::printf("audit     %s\ncontrol   %s\nother terminal: fbroker grant PATH --read\n",
              registry.options().audit_directory.c_str(), control.c_str());
  std::fflush(stdout);
}

// --- the run --------------------------------------------------------------------------

void tell_ready(int fd, const std::string& control) {
  if (fd < 0) return;
  const std::string line = control + "\n";
  (void)!::write(fd, line.data(), line.size());
  ::close(fd);
}

// Until SIGTERM, SIGINT or the parent's death.
void wait_for_the_end(Registry& registry, int signals, const ServeOptions& options, pid_t parent) {
  for (;;) {
    pollfd waiting{signals, POLLIN, 0};
    ::poll(&waiting, 1, options.embedded ? kParentCheckMs : -1);
    if (options.embedded && ::getppid() != parent) return;
    signalfd_siginfo signal{};
    while (::read(signals, &signal, sizeof signal) == sizeof signal) {
      if (signal.ssi_signo == SIGHUP) registry.reload_all();
      else return;
    }
  }
}

int refused_options(const ServeOptions& options) {
  if (!broker::is_session_name(options.session))
    return failed("--session " + options.session + ": letters, digits, \".\", \"_\" and \"-\", at most 64");
  if (options.embedded && (!options.policy.empty() || !options.root.empty() || !options.socket.empty()))
    return failed("--embedded starts without a session: no --policy, --root, --socket");
  if (options.again && !options.embedded) return failed("--again goes with --embedded");
  return kYes;
}

int serve(const ServeOptions& options) {
  if (const int refused = refused_options(options); refused != kYes) return refused;
  const pid_t parent = ::getppid();
  if (options.ready_fd >= 0) ::fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC);
  prepare_process();
  const UniqueFd signals = take_signals();
  if (options.embedded && !follow_parent(parent)) return kNo;

  const std::string cwd = current_directory();
  const std::string state = options.state.empty() ? broker::state_path(options.session) : absolute(options.state, cwd);
  const std::string audit = options.audit.empty() ? state + "/audit" : absolute(options.audit, cwd);
  const std::string control = options.control.empty() ? broker::control_socket_path(options.session)
                                                      : absolute(options.control, cwd);
  if (auto made = broker::make_runtime_directory(); !made) return failed(made.error().text());
  // First of all: whoever holds the control socket is the broker.
  const std::size_t slash = control.rfind('/');
  auto listener = broker::bind_unix_socket(control.substr(0, slash), control.substr(slash + 1), 0600,
                                           broker::lock_path_of(control));
  if (!listener)
    return failed(listener.error().text() + "\n  `fbroker status` shows what is running; give this one another "
                  "--session or --control and --state");
  if (options.embedded)
    if (const auto owner = broker::HostProcess::open(parent))
      if (auto written = broker::write_owner(listener->lock.get(), *owner, control); !written) say(written.error().text());
  auto registry = Registry::open({options.session, state, audit, absolute(options.audit_head, cwd), &say, "/proc/self/exe"});
  if (!registry) return failed(registry.error().text());
  if (options.embedded) (*registry)->begin_keeper();
  if (options.again) (*registry)->restore("");
  if (!options.embedded) {
    (*registry)->restore(options.session);
    broker::WantedSession wanted{options.session, options.root.empty() ? cwd : absolute(options.root, cwd), {}, {},
                                 absolute(options.socket, cwd)};
    if (!options.policy.empty()) wanted.policy = absolute(options.policy, cwd);
    const auto session = (*registry)->create(wanted, Registry::OldGrants::keep);
    if (!session) return failed(session.error().text());
  }
  control::ControlOptions front_options;
  front_options.embedded = options.embedded;
  auto front = control::ControlFront::start(std::move(*listener), front_options, **registry);
  if (!front) return failed(front.error().text());
  if (!options.embedded) print_start(**registry, control);
  tell_ready(options.ready_fd, control);

  wait_for_the_end(**registry, signals.get(), options, parent);
  if (!options.embedded) say("ending: running requests get " + std::to_string(kDrainBound.count()) + " s");
  if (options.embedded) (*registry)->end_all();
  else (*registry)->drain(kDrainBound);
  broker::remove_socket(control);  // still ours: the front holds the lock
  front->reset();
  return kYes;
}

}  // namespace

void add_serve(CLI::App& app, int& status) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* verb = app.add_subcommand("serve", "The broker: serves files to one or more sandboxes, in the foreground");
  verb->add_option("--policy", options->policy, "p.json; without it all of --root, under the base rules");
  verb->add_option("--root", options->root, "what the policy's exports are relative to (here)");
  verb->add_option("--socket", options->socket, "data socket, alone in its directory");
  verb->add_option("--control", options->control, "control socket");
  verb->add_option("--state", options->state, "grants and sessions, kept over restarts");
  verb->add_option("--audit", options->audit, "audit log's directory");
  verb->add_option("--audit-head", options->audit_head, "where the log's signed head is kept: another disk than the log's is best");
  verb->add_option("--session", options->session, "the session's and the broker's name (default)");
  verb->add_flag("--embedded", options->embedded, "for fbroker run: no session yet; ends with its parent");
  verb->add_flag("--again", options->again, "with --embedded: go on where a broker of this launcher's was killed");
  verb->add_option("--ready-fd", options->ready_fd, "for fbroker run: told there when it can be called");
  verb->footer("Examples:\n  fbroker serve\n  fbroker serve --policy p.json --root ~/project\n"
               "SIGHUP, or a changed policy file: the policy is read anew; a broken one changes nothing.\n"
               "SIGTERM: running requests end, grants stay for the next start.");
  verb->callback([options, &status] { status = serve(*options); });
}

}  // namespace fbroker::cli
