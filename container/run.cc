#include "container/run.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "broker/sessions/runtime_dir.h"
#include "container/agents/launch.h"
#include "container/broker_session.h"
#include "container/git_tracked.h"
#include "container/host_root.h"
#include "container/kept_directory.h"
#include "container/preconditions.h"
#include "container/proxy.h"
#include "container/publish.h"
#include "container/sandbox.h"
#include "container/supervise.h"
#include "container/tools.h"
#include "container/words.h"
#include "policy/base/workspace_path.h"
#include "policy/network.h"
#include "policy/policy.h"

namespace fbroker::container {
namespace {

constexpr std::size_t kMaxPolicyBytes = 64 * 1024;
// The agent's own numbers when the sandbox's user on the host is root's choice.
constexpr uid_t kAgentId = 1000;

Result<std::string> canonical(const std::string& what, const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return Error{what + " " + path, std::strerror(errno)};
  return std::string(resolved);
}

std::string canonical_or(const std::string& path) {
  auto resolved = canonical("", path);
  return resolved ? *resolved : path;
}

bool at_or_below(std::string_view path, std::string_view place) {
  return path.starts_with(place) && (path.size() == place.size() || place == "/" || path[place.size()] == '/');
}

// The broker reads it again; this is so that a mistake is seen before anything starts.
Result<void> check_policy(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return Error{"--policy " + path, std::strerror(errno)};
  std::string text(kMaxPolicyBytes + 1, '\0');
  std::size_t size = 0;
  for (ssize_t got; (got = ::read(fd.get(), text.data() + size, text.size() - size)) != 0;) {
    if (got < 0) return Error{"--policy " + path, std::strerror(errno)};
    size += static_cast<std::size_t>(got);
    if (size > kMaxPolicyBytes) return Error{"--policy " + path, "is larger than 64 KiB"};
  }
  text.resize(size);
  const auto parsed = policy::parse_policy(text, path);
  if (parsed) return ok;
  std::string all;
  for (const policy::Diagnostic& one : parsed.error()) all += (all.empty() ? "" : "\n") + one.text();
  return Error{"", all};
}

struct Wanted {
  std::string root;                    // canonical
  std::optional<std::string> policy;   // canonical
};

Result<Wanted> check_request(const RunOptions& options) {
  FBROKER_TRY_VOID(refuse_inside_sandbox());
  FBROKER_TRY_VOID(check_workspace(options.workspace));
  if (!options.name.empty() && !broker::is_session_name(options.name))
    return Error{"--name " + printable(options.name),
                 "expected up to 64 letters, digits, \".\", \"_\" and \"-\", a letter or digit first"};
  Wanted wanted;
  FBROKER_TRY(wanted.root, canonical("--root", options.root));
  struct stat found {};
  if (::stat(wanted.root.c_str(), &found) < 0 || !S_ISDIR(found.st_mode))
    return Error{"--root " + options.root, "is not a directory"};
  if (!options.policy) {
    FBROKER_TRY_VOID(check_root(wanted.root, canonical_or(broker::home_directory())));
    return wanted;
  }
  FBROKER_TRY(wanted.policy, canonical("--policy", *options.policy));
  FBROKER_TRY_VOID(check_policy(*wanted.policy));
  return wanted;
}

Result<void> check_machine(HostUser user) {
  FBROKER_TRY_VOID(check_user_namespaces(user));
  return check_fuse_device();
}

Result<UniqueFd> open_path(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return Error{path, std::strerror(errno)};
  return fd;
}

// The HOME of a named session, kept from one run to the next. The dot keeps it
// apart from every broker's state: no name of a session starts with one.
Result<UniqueFd> home_of(const std::string& name, HostUser user) {
  const std::string homes = broker::state_root() + "/.homes";
  FBROKER_TRY(const UniqueFd parent, broker::private_directory(homes));
  return kept_directory(parent.get(), name, homes + "/" + name, user);
}

// Everything that the specification borrows, kept until the sandbox runs.
struct Materials {
  SandboxSpec spec;
  Publisher publisher;
  std::vector<UniqueFd> kept;
  std::vector<std::string> tool_programs;
  std::vector<control::ReachableHost> hosts;
  std::string about_agent;   // what the person reads of it

  int keep(UniqueFd fd) {
    kept.push_back(std::move(fd));
    return kept.back().get();
  }
};

Result<void> add_tools(Materials& materials, const RunOptions& options, const Forbidden& forbidden) {
  for (const std::string& name : options.tools) {
    FBROKER_TRY(Tool tool, open_tool(name, forbidden));
    materials.tool_programs.push_back(tool.programs);
    materials.spec.tools.push_back(tool.mount);
    materials.keep(std::move(tool.directory));
  }
  return ok;
}

// The agent's program and what it needs, read-only; what it keeps, writable.
void add_program(Materials& materials, agents::Resolved& program) {
  const std::size_t toolchains = materials.spec.tools.size();
  for (agents::Shown& one : program.shown)
    materials.spec.tools.push_back({.source = one.path, .fd = materials.keep(std::move(one.fd)), .at = one.path});
  for (const Symlink& link : program.links) {
    const auto holds = [&](const Mount& tool) { return at_or_below(link.at, tool.at); };
    const auto begin = materials.spec.tools.begin();
    if (std::none_of(begin, begin + static_cast<std::ptrdiff_t>(toolchains), holds))
      materials.spec.tool_links.push_back(link);
  }
  materials.tool_programs.insert(materials.tool_programs.end(), program.programs.begin(), program.programs.end());
}

Result<void> add_state(Materials& materials, const RunOptions& options, const agents::Agent& agent, HostUser user) {
  const std::string name = options.name.empty() ? "default" : options.name;
  FBROKER_TRY(std::vector<agents::Kept> state, agents::open_state(agent.profile, name, user, options.offline));
  std::string copied;
  if (options.share_login) {
    FBROKER_TRY(const auto lines, agents::share_login(agent.profile, broker::home_directory(), state, user));
    for (const std::string& line : lines) copied += "--share-login: " + line + "\n";
    std::fputs(copied.c_str(), stderr);   // with --quiet too: a secret went in
  }
  for (agents::Kept& kept : state) {
    if (kept.lock) (void)materials.keep(std::move(kept.lock));
    materials.spec.kept.push_back({.source = kept.path,
                                   .fd = materials.keep(std::move(kept.fd)),
                                   .at = materials.spec.home + "/" + kept.below_home,
                                   .mode = Mount::Mode::writable});
  }
  materials.about_agent = agents::words_for(agent, agents::state_directory(agent.profile, name), options);
  return ok;
}

// Everything that can be refused, before anything is made on disk.
Result<void> add_command(Materials& materials, const RunOptions& options, const Forbidden& forbidden, HostUser user) {
  SandboxSpec& spec = materials.spec;
  FBROKER_TRY(spec.secrets, agents::variables_of(options.env));
  for (const std::string& domain : options.domains) {
    if (const auto pattern = policy::HostPattern::parse(domain); !pattern) return Error{"--domain", pattern.error().text()};
    materials.hosts.push_back({.id = "run", .host = domain});
  }
  spec.command = options.command;
  if (options.agent.empty()) {
    if (options.share_login) return Error{"--share-login", "needs --agent: whose login is meant?"};
    return agents::check_command(options.command.front(), agents::this_person(), spec, materials.tool_programs);
  }
  FBROKER_TRY(agents::Agent agent, agents::find_agent(options.agent, forbidden));
  spec.command = agent.command(options.command);
  for (control::ReachableHost& host : agent.hosts()) materials.hosts.push_back(std::move(host));
  // The person's --env comes last and wins.
  spec.secrets.insert(spec.secrets.begin(), agent.passed.begin(), agent.passed.end());
  add_program(materials, agent.program);
  for (const auto& [file, text] : agent.profile.settings) {
    FBROKER_TRY(UniqueFd content, file_of(file, text));
    spec.files.push_back({.fd = materials.keep(std::move(content)), .at = std::string(agents::kSettingsInside) + "/" + file});
  }
  FBROKER_TRY_VOID(add_state(materials, options, agent, user));
  spec.environment = agent.profile.set;
  return ok;
}

Result<Mount> opened(Materials& materials, const std::string& source, const std::string& at) {
  FBROKER_TRY(UniqueFd fd, open_path(source));
  return Mount{.source = source, .fd = materials.keep(std::move(fd)), .at = at};
}

Result<void> add_programs(Materials& materials, const Programs& programs) {
  const std::string inside = kPrivateDirectory;
  FBROKER_TRY(materials.spec.init_program, opened(materials, programs.init, inside + "/fbroker-init"));
  FBROKER_TRY(materials.spec.fuse_program, opened(materials, programs.fuse, inside + "/fbroker-fuse"));
  materials.spec.fuse_device = {
      .source = "/dev/fuse", .at = inside + "/device", .mode = Mount::Mode::device};
  return ok;
}

Result<Materials> materials_for(const RunOptions& options, const Wanted& wanted, const Programs& programs,
                                HostUser user) {
  Materials materials;
  SandboxSpec& spec = materials.spec;
  spec.uid = ::geteuid() == 0 && user.uid == 65534 ? kAgentId : user.uid;
  spec.gid = ::geteuid() == 0 && user.gid == 65534 ? kAgentId : user.gid;
  spec.workspace = options.workspace;
  spec.limits = options.limits;
  spec.transport = options.transport;
  FBROKER_TRY(materials.publisher, Publisher::listen(options.publish));
  spec.publishes = materials.publisher.any();
  if (!options.offline) spec.proxy = kProxy;
  add_host_system(spec);
  const Forbidden forbidden{.home = canonical_or(broker::home_directory()),
                            .workspace_root = wanted.root,
                            .own = {canonical_or(broker::state_root()), canonical_or(broker::runtime_path())}};
  FBROKER_TRY_VOID(add_tools(materials, options, forbidden));
  FBROKER_TRY_VOID(add_command(materials, options, forbidden, user));
  FBROKER_TRY_VOID(add_programs(materials, programs));
  for (const auto& [at, content] : written_files(spec.uid, spec.gid, spec.home)) {
    FBROKER_TRY(UniqueFd file, file_of(at, content));
    spec.files.push_back({.fd = materials.keep(std::move(file)), .at = at});
  }
  // An agent's HOME is in memory: what it may keep stands in its profile.
  if (!options.name.empty() && options.agent.empty()) {
    FBROKER_TRY(UniqueFd home, home_of(options.name, user));
    spec.home_directory = Mount{.source = broker::state_root() + "/.homes/" + options.name,
                                .fd = materials.keep(std::move(home)),
                                .at = spec.home,
                                .mode = Mount::Mode::writable};
  }
  const auto inside = environment_inside(environ, spec, materials.tool_programs);
  spec.environment.insert(spec.environment.begin(), inside.begin(), inside.end());
  return materials;
}

void say(const RunOptions& options, const std::string& text) {
  if (!options.quiet) std::fputs(text.c_str(), stderr);
}

// Files that git tracks and the agent does not see.
std::size_t tracked_hidden(const control::Session& session) {
  if (session.hidden.empty()) return 0;
  std::size_t count = 0;
  for (const control::ExportShown& one : session.exports) {
    const std::string place = one.at == "/" ? "/" : one.at + "/";
    for (const std::string& name : git_tracked(one.from))
      for (const std::string& hidden : session.hidden)
        count += at_or_below(place + name, hidden) ? 1 : 0;
  }
  return count;
}

BannerFacts banner_facts(const RunOptions& options, const BrokerSession& session) {
  if (options.quiet) return {};
  return {.workspace = options.workspace, .home = broker::home_directory(), .broker = session.serving_broker(),
          .policy = options.policy.value_or(""), .tracked_hidden = tracked_hidden(session.session())};
}

Result<int> run_in(const RunOptions& options, Materials& materials, const Programs& programs, HostUser user,
                   BrokerSession& session, const Signals& signals) {
  FBROKER_TRY(materials.spec.socket_directory,
              opened(materials, session.session().socket_directory, kSocketDirectory));
  materials.spec.socket_name = std::filesystem::path(session.session().socket).filename().string();
  FBROKER_TRY(Streams streams, Streams::plan());
  materials.spec.terminal = streams.terminal();
  FBROKER_TRY(Sandbox sandbox, prepare(materials.spec, programs, user, streams.stdio()));
  streams.close_sandbox_ends();
  // Before the agent's first instruction: what it may not keep can be taken back.
  auto registered = session.register_sandbox(sandbox.first.pid());
  if (!registered) {
    destroy(sandbox);
    return registered.error();
  }
  if (auto published = materials.publisher.start(std::move(sandbox.publish)); !published) {
    destroy(sandbox);
    return published.error();
  }
  say(options, banner(session.session(), banner_facts(options, session)));
  say(options, materials.about_agent);
  const Companion broker{[&] { return session.broker_ended(); }, [&] { return session.restart_broker(); }};
  const int status = supervise(sandbox, streams, signals, broker);
  destroy(sandbox);
  return status;
}

}  // namespace

Result<void> check_root(const std::string& root, const std::string& home) {
  if (root == "/") return Error{"--root /", "would export the whole machine; start in a project directory, or name a policy"};
  if (!home.empty() && at_or_below(home, root))
    return Error{"--root " + root, "would export your home directory; start in a project directory, or name a policy"};
  return ok;
}

Result<void> check_workspace(const std::string& path) {
  constexpr std::array<std::string_view, 12> kTaken{"/dev", "/etc",  "/proc", "/run", "/sys", "/usr",
                                                    "/bin", "/sbin", "/lib",  "/lib64", "/tmp", "/var"};
  const auto parsed = WorkspacePath::parse(path);
  if (!parsed || parsed->is_root())
    return Error{"--workspace " + printable(path), "expected an absolute path without \"..\", not \"/\""};
  for (const std::string_view taken : kTaken)
    if (at_or_below(path, taken))
      return Error{"--workspace " + path, "lies in the sandbox's own " + std::string(taken)};
  if (at_or_below("/home/agent", path)) return Error{"--workspace " + path, "would hide the agent's HOME"};
  return ok;
}

Result<int> run(const RunOptions& options) {
  // All that can be refused is refused before anything exists.
  FBROKER_TRY(const Wanted wanted, check_request(options));
  FBROKER_TRY(const auto aliases, agents::aliases_of(options.aliases));
  FBROKER_TRY(const Programs programs, find_programs());
  const HostUser user = sandbox_user(wanted.root);
  FBROKER_TRY_VOID(check_machine(user));
  FBROKER_TRY(Materials materials, materials_for(options, wanted, programs, user));
  FBROKER_TRY(const Signals signals, Signals::take());

  FBROKER_TRY(BrokerSession session, BrokerSession::open({.name = options.name,
                                                          .root = wanted.root,
                                                          .policy = wanted.policy,
                                                          .peer_uid = user.uid,
                                                          .self = programs.self,
                                                          .hosts = materials.hosts,
                                                          .aliases = aliases,
                                                          .offline = options.offline}));
  const control::Session about = session.session();
  auto status = run_in(options, materials, programs, user, session, signals);
  const auto report = session.end();
  if (status && report) say(options, end_report(about, *report));
  if (status && !report) say(options, "fbroker run: no end report: " + report.error().text() + "\n");
  return status;
}

}  // namespace fbroker::container
