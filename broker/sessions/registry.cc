#include "broker/sessions/registry.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "broker/protocol/wire_json.h"
#include "broker/sessions/canonical_path.h"
#include "broker/sessions/leftovers.h"
#include "broker/sessions/hosts_json.h"
#include "broker/sessions/maintenance.h"
#include "broker/sessions/runtime_dir.h"

namespace fbroker::broker {

using nlohmann::json;
using protocol::FieldReader;

namespace {

constexpr const char* kFile = "sessions.json";
constexpr std::size_t kMaxFileBytes = 1 << 20;
constexpr std::uint64_t kVersion = 1;
constexpr std::chrono::milliseconds kEndGrace{500};    // for running requests
constexpr std::chrono::milliseconds kKillBound{2000};  // for a killed sandbox to be gone
constexpr std::chrono::milliseconds kEndBound{5000};   // for a name to be free again

std::string last_component(const std::string& path) {
  const std::size_t end = path.find_last_not_of('/');
  if (end == path.npos) return "";
  return path.substr(path.rfind('/', end) + 1, end - path.rfind('/', end));
}

// A directory's name made a session's: what is not allowed in one becomes "-".
std::string session_name_from(const std::string& root) {
  std::string name = last_component(root).substr(0, 60);
  for (char& c : name)
    if (!is_session_name(std::string("x") + c)) c = '-';
  return is_session_name(name) ? name : "session";
}

Result<void> check_root(const WantedSession& wanted) {
  struct stat info{};
  if (!wanted.root.starts_with('/')) return Error{"root", "is not an absolute path: " + wanted.root};
  if (::stat(wanted.root.c_str(), &info) != 0) return Error{wanted.root, std::strerror(errno)};
  if (!S_ISDIR(info.st_mode)) return Error{wanted.root, "is not a directory"};
  if (wanted.policy) return ok;
  struct stat home{}, top{};
  const bool is_home = ::stat(home_directory().c_str(), &home) == 0 && home.st_dev == info.st_dev &&
                       home.st_ino == info.st_ino;
  const bool is_top = ::stat("/", &top) == 0 && top.st_dev == info.st_dev && top.st_ino == info.st_ino;
  if (is_home || is_top)
    return Error{wanted.root, "would be exported whole, for reading and writing; start in a "
                              "project's directory, or say with --policy what is to be seen"};
  return ok;
}

std::string socket_of(const WantedSession& wanted) {
  return wanted.socket.empty() ? session_directory_path(wanted.name) + "/" + SessionOptions().socket_name : wanted.socket;
}

}  // namespace

Result<std::unique_ptr<Registry>> Registry::open(RegistryOptions options) {
  FBROKER_TRY_VOID(make_runtime_directory());
  remove_orphaned_sockets();
  FBROKER_TRY(StateDir state, StateDir::open(options.state_directory));
  std::unique_ptr<Registry> registry(new Registry(std::move(options), std::move(state)));
  FBROKER_TRY_VOID(registry->start());
  return registry;
}

Registry::Registry(RegistryOptions options, StateDir state)
    : options_(std::move(options)), state_(std::move(state)) {}

// The fronts first: their threads call maintenance.
Registry::~Registry() {
  drain(std::chrono::milliseconds(0));
  maintenance_.reset();
}

Result<void> Registry::start() {
  own_files_.add_directory(state_.path());
  // ATTACK: another broker's log, grants and key, and what a profile shows to
  //   the next agent, seen through a wide export.
  own_files_.add_directory(state_root());
  own_files_.add_directory(config_root());
  own_files_.add_directory(options_.audit_directory);
  own_files_.add_directory(runtime_path());
  if (!options_.audit_head.empty())
    for (const char* part : {"", ".new"}) own_files_.add_file(options_.audit_head + part);
  audit::AuditOptions audit;
  audit.directory = options_.audit_directory;
  audit.key_directory = state_.path();
  audit.head_file = options_.audit_head;
  FBROKER_TRY(audit_, audit::AuditLog::open(std::move(audit)));
  FBROKER_TRY(grants_, GrantStore::open(state_));
  FBROKER_TRY(keeper_, Keeper::reach(state_.fd(), {.program = options_.keeper_program, .start = false}));
  FBROKER_TRY_VOID(private_directory(mounts()));
  FBROKER_TRY(remembered_, read_remembered());
  FBROKER_TRY(maintenance_, Maintenance::start(*this));
  parts_.emplace(BrokerParts{*audit_, own_files_, *grants_,
                             [this](const std::string& session, std::string grant) {
                               maintenance_->used(session, std::move(grant));
                             },
                             options_.say,
                             [this](Session& session, pid_t pid) { return register_sandbox(session, pid); },
                             *keeper_, mounts()});
  forget_if([](const std::string&, const Remembered& known) {
    return known.launcher != 0 && !HostProcess::open(known.launcher, known.launcher_started);
  }, "launcher");
  return ok;
}

// ATTACK: the policy's path leads through a link in the exported tree; the agent
//   puts a directory of its own in the link's place, and the next reload reads
//   the agent's policy. So it is followed once, here, and what is read, watched
//   and kept from everybody is what it led to. The links are kept from everybody
//   too, for the next broker that is started with that path.
Result<WantedSession> Registry::canonical(WantedSession wanted) {
  FBROKER_TRY(CanonicalPath root, canonical_path(wanted.root));
  wanted.root = std::move(root.path);
  if (!wanted.policy) return wanted;
  FBROKER_TRY(CanonicalPath policy, canonical_path(*wanted.policy));
  for (const std::string& link : policy.links) own_files_.add_link(link);
  wanted.policy = std::move(policy.path);
  return wanted;
}

void Registry::restore(const std::string& but_not) {
  const std::lock_guard lock(mutex_);
  forget_if([&](const std::string& name, const Remembered& known) {
    return name != but_not && known.sandbox != 0 && !Sandbox::open(known.sandbox, known.sandbox_started);
  }, "sandbox");
  for (const auto& [name, known] : remembered_)
    if (name != but_not) take_up(name, known);
  maintenance_->wake();  // there are launchers to watch
}

// For sessions that ended while no broker was there to see it. `whose`: with
// which process.
template <class Ended>
void Registry::forget_if(Ended ended, const std::string& whose) {
  const auto forgotten = std::erase_if(remembered_, [&](const auto& entry) {
    const auto& [name, known] = entry;
    if (!ended(name, known)) return false;
    if (known.sandbox != 0)
      if (const auto left = Sandbox::open(known.sandbox, known.sandbox_started)) left->kill(kKillBound);
    options_.say("session " + name + " has ended with its " + whose);
    grants_->forget_session(name);
    MountState::forget(*keeper_, mounts(), name);
    remove_dead_socket(socket_of(known.wanted));
    record(name, "session-end", known.wanted.root, whose + " gone");
    return true;
  });
  if (forgotten == 0) return;
  if (auto stored = remember(); !stored) options_.say(stored.error().text());
  if (auto stored = grants_->store(); !stored) options_.say(stored.error().text());
}

void Registry::take_up(const std::string& name, const Remembered& known) {
  std::optional<Sandbox> sandbox;
  if (known.sandbox != 0)
    if (auto alive = Sandbox::open(known.sandbox, known.sandbox_started)) sandbox = std::move(*alive);
  auto session = open_session(known.wanted, std::move(sandbox));
  if (!session) return options_.say("session " + name + " cannot be taken up again: " + session.error().text());
  // Whoever died since forget_ended() looked is found by maintenance.
  if (known.launcher != 0)
    if (auto launcher = HostProcess::open(known.launcher, known.launcher_started)) (*session)->set_launcher(std::move(*launcher));
}

Result<std::shared_ptr<Session>> Registry::open_session(const WantedSession& wanted, std::optional<Sandbox> sandbox) {
  SessionOptions options;
  options.name = wanted.name;
  options.root = wanted.root;
  options.home = home_directory();
  options.policy = wanted.policy;
  options.peer_uid = wanted.peer_uid.value_or(::geteuid());
  options.hosts = wanted.hosts;
  options.offline = wanted.offline;
  if (wanted.socket.empty()) {
    options.socket_directory = session_directory_path(wanted.name);
    FBROKER_TRY_VOID(private_directory(options.socket_directory, Access::anybody_may_enter));
  } else {
    const std::size_t slash = wanted.socket.rfind('/');
    options.socket_directory = slash == 0 ? "/" : wanted.socket.substr(0, slash);
    options.socket_name = wanted.socket.substr(slash + 1);
    own_files_.add_file(wanted.socket);
  }
  FBROKER_TRY(auto opened, Session::open(std::move(options), *parts_, std::move(sandbox)));
  std::shared_ptr<Session> session = std::move(opened);
  if (wanted.policy)
    if (auto watched = maintenance_->watch_policy(*wanted.policy); !watched)
      options_.say(watched.error().text() + "; changes of the policy need SIGHUP");
  sessions_[session->name()] = session;
  record(session->name(), "session-start", wanted.root);
  return session;
}

Result<std::shared_ptr<Session>> Registry::create(const WantedSession& wanted, OldGrants old,
                                                   std::optional<HostProcess> launcher) {
  FBROKER_TRY_VOID(check_root(wanted));
  FBROKER_TRY(WantedSession named, canonical(wanted));
  std::unique_lock lock(mutex_);
  if (!ended_.wait_for(lock, kEndBound, [&] { return !ending_.contains(wanted.name); }))
    return Error{wanted.name, "is the name of a session that is just ending"};
  if (named.name.empty()) {
    const std::string base = session_name_from(named.root);
    named.name = base;
    for (int number = 2; sessions_.contains(named.name) || ending_.contains(named.name); ++number)
      named.name = base + "-" + std::to_string(number);
  }
  if (!is_session_name(named.name))
    return Error{named.name, "is no session's name: letters, digits, \".\", \"_\" and \"-\", at most 64, "
                             "not \"control\", not starting with \".\" or \"-\""};
  if (sessions_.contains(named.name)) return Error{named.name, "is the name of a live session"};
  if (sessions_.size() >= kMaxSessions)
    return Error{named.name, "there are " + std::to_string(kMaxSessions) + " sessions already; end some"};
  if (old == OldGrants::forget) grants_->forget_session(named.name);
  // The same session again has its sandbox still, if that is alive.
  std::optional<Sandbox> sandbox;
  if (const auto before = remembered_.find(named.name); old == OldGrants::keep && before != remembered_.end())
    if (auto alive = Sandbox::open(before->second.sandbox, before->second.sandbox_started)) sandbox = std::move(*alive);
  if (!sandbox) MountState::forget(*keeper_, mounts(), named.name);
  Remembered known_anew{.wanted = named};
  if (sandbox) known_anew.sandbox = sandbox->pid(), known_anew.sandbox_started = sandbox->started();
  FBROKER_TRY(auto session, open_session(named, std::move(sandbox)));
  Remembered& known = remembered_[named.name] = std::move(known_anew);
  if (launcher) {
    known.launcher = launcher->pid();
    known.launcher_started = launcher->started();
    session->set_launcher(std::move(*launcher));
  }
  if (auto stored = remember(); !stored) options_.say(stored.error().text());
  maintenance_->wake();
  return session;
}

std::shared_ptr<Session> Registry::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(name);
  return found == sessions_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Session>> Registry::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Session>> list;
  for (const auto& [name, session] : sessions_) list.push_back(session);
  return list;
}

std::shared_ptr<Session> Registry::end(const std::string& name) {
  auto session = find(name);
  return session && end(*session, "") ? session : nullptr;
}

// False: somebody else has ended it.
bool Registry::end(Session& session, const std::string& why) {
  const std::string& name = session.name();
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find(name);
    if (found == sessions_.end() || found->second.get() != &session) return false;
    sessions_.erase(found);
    ending_.insert(name);
    remembered_.erase(name);
    grants_->forget_session(name);
    if (auto stored = remember(); !stored) options_.say(stored.error().text());
    if (auto stored = grants_->store(); !stored) options_.say(stored.error().text());
  }
  // ATTACK: keep a request unanswered: whoever waits for it, and the process
  //   that tells the kernel, would hang for as long as the connection lives.
  if (const auto mount = session.mount()) mount->abort();
  session.stop(kEndGrace);
  session.remove_socket();
  MountState::forget(*keeper_, mounts(), name);
  record(name, "session-end", session.options().root, why);
  {
    const std::lock_guard lock(mutex_);
    ending_.erase(name);
  }
  ended_.notify_all();
  return true;
}

// The launcher's death alone ends a session: it asks for its report after the
// sandbox died.
void Registry::end_abandoned() {
  for (const auto& session : all()) {
    const auto launcher = session->launcher();
    if (!launcher || launcher->alive()) continue;
    session->kill_sandbox(kKillBound);
    if (end(*session, "launcher gone"))
      options_.say("session " + session->name() + " has ended with its launcher");
  }
}

Result<void> Registry::register_sandbox(Session& session, pid_t pid) {
  FBROKER_TRY(Sandbox sandbox, Sandbox::open(pid));
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session.name());
  if (found == sessions_.end() || found->second.get() != &session) return Error{session.name(), "has ended"};
  Remembered& known = remembered_[session.name()];
  known.sandbox = sandbox.pid();
  known.sandbox_started = sandbox.started();
  session.set_sandbox(std::move(sandbox));
  if (auto stored = remember(); !stored) options_.say(stored.error().text());
  return ok;
}

void Registry::wake() { maintenance_->wake(); }

void Registry::begin_keeper() { (void)keeper_->begin(); }   // else keep() says so

void Registry::end_all() {
  for (const auto& session : all()) {
    session->kill_sandbox(kKillBound);
    end(*session, "the broker ends");
  }
  keeper_->end_with_us();
}

std::vector<Registry::Reloaded> Registry::reload_all() {
  std::vector<Reloaded> results;
  for (const auto& session : all()) {
    if (!session->options().policy) continue;
    const auto outcome = reload(session->take_turn());
    Reloaded result{session->name(), outcome.has_value(), ""};
    if (outcome) result.words = "policy reloaded, " + std::to_string(outcome->rules) + " rules" +
                                (outcome->recorded ? "" : ", NOT RECORDED");
    else result.words = "THE NEW POLICY IS BROKEN, the old one stays in force:\n" + outcome.error().text();
    options_.say("session " + result.session + ": " + result.words);
    results.push_back(std::move(result));
  }
  return results;
}

void Registry::drain(std::chrono::milliseconds grace) {
  const auto until = std::chrono::steady_clock::now() + grace;
  for (const auto& session : all()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    session->stop(std::max(left, std::chrono::milliseconds(0)));
  }
}

void Registry::record(const std::string& session, const char* operation, const std::string& host_path,
                      const std::string& detail) {
  audit::Record record;
  record.session = session;
  record.operation = operation;
  record.host_path = host_path;
  record.detail = detail;
  if (!audit_->append(record)) options_.say("the audit log cannot be written: no work is done until it can");
}

// --- sessions.json ------------------------------------------------------------

Result<void> Registry::remember() {
  std::string out = "{\"version\":" + std::to_string(kVersion) + ",\"sessions\":{";
  const char* between = "\n";
  for (const auto& [name, known] : remembered_) {
    out += std::exchange(between, ",\n");
    protocol::append_text(out, name);
    out += ":{\"root\":";
    protocol::append_bytes(out, known.wanted.root);
    if (known.wanted.policy) out += ",\"policy\":", protocol::append_bytes(out, *known.wanted.policy);
    if (known.wanted.peer_uid) out += ",\"peer_uid\":" + std::to_string(*known.wanted.peer_uid);
    if (!known.wanted.socket.empty()) out += ",\"socket\":", protocol::append_bytes(out, known.wanted.socket);
    if (known.wanted.offline) out += ",\"offline\":true";
    if (!known.wanted.hosts.empty()) out += ",\"hosts\":", append_hosts(out, known.wanted.hosts);
    if (known.sandbox != 0)
      out += ",\"sandbox\":" + std::to_string(known.sandbox) +
             ",\"sandbox_started\":" + std::to_string(known.sandbox_started);
    if (known.launcher != 0)
      out += ",\"launcher\":" + std::to_string(known.launcher) +
             ",\"launcher_started\":" + std::to_string(known.launcher_started);
    out += '}';
  }
  out += "}}\n";
  return state_.replace(kFile, out);
}

Result<std::map<std::string, Registry::Remembered>> Registry::read_remembered() const {
  std::map<std::string, Remembered> all;
  FBROKER_TRY(const auto text, state_.read(kFile, kMaxFileBytes));
  if (!text) return all;
  const auto refused = [&](const protocol::WireError& error) {
    return Error{state_.path() + "/" + kFile, error.text() + "; move the file away to start without its sessions"};
  };
  const auto document = protocol::parse_strict(*text);
  if (!document || !document->is_object()) return refused(document ? protocol::WireError{"", "not an object"} : document.error());
  FieldReader reader(*document);
  if (reader.number("version") != kVersion) reader.refuse("version", "not 1");
  const json* sessions = reader.object("sessions");
  if (const auto done = reader.finish(); !done) return refused(done.error());
  for (const auto& [name, object] : sessions->items()) {
    if (!is_session_name(name) || !object.is_object() || all.size() >= kMaxSessions)
      return refused({"sessions." + name, "not a session"});
    FieldReader fields(object, "sessions." + name);
    Remembered known;
    known.wanted.name = name;
    known.wanted.root = fields.bytes("root");
    if (fields.has("policy")) known.wanted.policy = fields.bytes("policy");
    if (fields.has("peer_uid")) known.wanted.peer_uid = static_cast<uid_t>(fields.number("peer_uid"));
    if (fields.has("socket")) known.wanted.socket = fields.bytes("socket");
    if (fields.has("offline")) known.wanted.offline = fields.boolean("offline");
    if (const json* hosts = fields.has("hosts") ? fields.array("hosts") : nullptr) {
      auto read = read_hosts(*hosts, "sessions." + name + ".hosts");
      if (!read) return refused(read.error());
      known.wanted.hosts = std::move(*read);
    }
    if (fields.has("sandbox")) known.sandbox = static_cast<pid_t>(fields.number("sandbox"));
    if (fields.has("sandbox_started")) known.sandbox_started = fields.number("sandbox_started");
    if (fields.has("launcher")) known.launcher = static_cast<pid_t>(fields.number("launcher"));
    if (fields.has("launcher_started")) known.launcher_started = fields.number("launcher_started");
    if (const auto done = fields.finish(); !done) return refused(done.error());
    all[name] = std::move(known);
  }
  return all;
}

}  // namespace fbroker::broker
