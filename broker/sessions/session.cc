#include "broker/sessions/session.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <span>

#include "broker/control/person_path.h"
#include "broker/files/git_guard.h"
#include "broker/files/links_on_way.h"
#include "broker/files/own_files.h"
#include "broker/http/unix_listener.h"
#include "broker/protocol/device_offer.h"
#include "broker/sessions/leftovers.h"
#include "broker/sessions/repositories.h"
#include "broker/sessions/runtime_dir.h"
#include "policy/host_names.h"

namespace fbroker::broker {

using std::chrono::system_clock;

namespace {

constexpr std::size_t kMaxPolicyBytes = 16 << 20;
constexpr std::chrono::milliseconds kOfferBound{3000};   // for a device to come, and to be in use

// INVARIANT: below /.fbroker only what a person granted is shown, with just the
//   operations of that grant, whatever wide rules ("/**") say. It is the oldest
//   session deny: every grant is newer. Named "default", because that is what
//   it means: nobody allowed it.
policy::Grant nothing_but_grants() {
  policy::Grant deny;
  deny.id = "default";
  deny.effect = policy::Effect::deny;
  deny.path = WorkspacePath::parse("/.fbroker").value();
  deny.operations = policy::OperationSet::all();
  deny.order = 1;
  deny.because = "only what was granted is shown here";
  return deny;
}

// Grants and denies stand above nothing_but_grants().
std::uint64_t order_in_snapshot(const policy::Grant& grant) { return grant.order + 1; }

bool counts_now(const LiveGrant& live, system_clock::time_point now) {
  return !live.used && (!live.grant.expires || *live.grant.expires > now);
}

std::vector<policy::Grant> grants_for_snapshot(const std::vector<LiveGrant>& grants) {
  std::vector<policy::Grant> list{nothing_but_grants()};
  const auto now = system_clock::now();
  for (const LiveGrant& live : grants) {
    if (!counts_now(live, now)) continue;
    list.push_back(live.grant);
    list.back().order = order_in_snapshot(live.grant);
  }
  return list;
}

bool is_there(const std::string& host) {
  return static_cast<bool>(UniqueFd(::open(host.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW)));
}

// One export for each granted host file; the first grant of a path decides.
std::vector<policy::Export> temporary_exports(const std::vector<LiveGrant>& grants) {
  std::vector<policy::Export> exports;
  for (const LiveGrant& live : grants) {
    if (live.from.empty() || live.grant.effect != policy::Effect::allow || !is_there(live.from)) continue;
    bool known = false;
    for (const policy::Export& other : exports) known = known || other.at == live.grant.path;
    if (!known) exports.push_back({.at = live.grant.path, .from = live.from});
  }
  return exports;
}

std::string lines_of(const std::vector<policy::Diagnostic>& diagnostics) {
  std::string text;
  for (const policy::Diagnostic& diagnostic : diagnostics)
    text += (text.empty() ? "" : "\n") + diagnostic.text();
  return text;
}

Result<policy::Policy> policy_from(const std::optional<std::string>& file) {
  if (!file) return policy::default_policy();
  FBROKER_TRY(const std::string text, read_text_file(*file, kMaxPolicyBytes));
  auto parsed = policy::parse_policy(text, *file);
  if (!parsed) return Error{"", lines_of(parsed.error())};
  return std::move(*parsed);
}

// What is shown, as the person calls it and as it is called where links end.
std::vector<policy::HostName> host_names(const ExportTable& exports) {
  std::vector<policy::HostName> names;
  for (const auto& on : exports.exports()) {
    names.push_back({on->at(), on->host_path(on->at())});
    const std::string wanted = std::filesystem::path(on->wanted_path()).lexically_normal().string();
    if (wanted != names.back().path) names.push_back({on->at(), wanted});
  }
  return names;
}

// A session of which nothing could be seen, for a reason that nobody would find.
Result<void> check_shown(const policy::Policy& policy, const ExportTable& exports,
                         std::span<const policy::Rule> rules) {
  for (const policy::Export& one : policy.exports) {
    const auto hidden = policy::hidden_whole(rules, one.at);
    if (!hidden) continue;
    const std::string id = hidden->substr(hidden->find(':') + 1);
    return Error{exports.host_path(one.at),
                 "is one of the secrets that the base rule \"" + id + "\" hides, or lies in one; to serve it "
                 "all the same name a policy with \"base\": {\"" + id + "\": \"off\"} (--policy)"};
  }
  return ok;
}

// Whether a session could have put something there: by any name of the place.
bool may_be_changed(const HostLocation& place, const ExportTable& exports, const policy::Snapshot& snapshot) {
  const auto names = exports.names_of(place);
  return std::any_of(names.begin(), names.end(), [&](const WorkspacePath& name) {
    const auto decision = snapshot.decide(name, {.created_by_session = true});
    return decision.allows(policy::Operation::create) || decision.allows(policy::Operation::delete_);
  });
}

// ATTACK: an agent puts a link to what is denied in the place that an export's
//   `from` names, and the next start shows it there. Links of the person's own,
//   where no agent writes, are followed.
Result<void> check_ways(const policy::Policy& policy, const ExportTable& exports, const ExportTable& before,
                        const policy::Snapshot& snapshot) {
  for (const policy::Export& wanted : policy.exports) {
    const Export* on = exports.find(wanted.at);
    if (on == nullptr || before.share(on) != nullptr) continue;   // opened long ago, and stays
    const auto link = link_on_way(on->wanted_path(), [&](const HostLocation& place) {
      return may_be_changed(place, exports, snapshot);
    });
    if (link)
      return Error{"export at " + wanted.at.bytes(),
                   *link + ": is a link where the agent may put one; name what it leads to"};
  }
  return ok;
}

std::shared_ptr<const View> nothing() {
  auto empty = policy::Snapshot::compile({});
  auto exports = ExportTable::build({});
  return std::make_shared<const View>(View{std::move(empty).value(), std::move(exports).value()});
}

}  // namespace

Result<std::string> read_text_file(const std::string& path, std::size_t max_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) != 0) return Error{path, std::strerror(errno)};
  if (!S_ISREG(info.st_mode)) return Error{path, "is not a regular file"};
  std::string content;
  for (;;) {
    const std::size_t before = content.size();
    content.resize(before + 65536);
    const ssize_t n = ::read(fd.get(), content.data() + before, 65536);
    if (n < 0) return Error{path, std::strerror(errno)};
    content.resize(before + static_cast<std::size_t>(n));
    if (content.size() > max_bytes)
      return Error{path, "is larger than " + std::to_string(max_bytes) + " bytes"};
    if (n == 0) return content;
  }
}

Result<std::unique_ptr<Session>> Session::open(SessionOptions options, BrokerParts& parts,
                                               std::optional<Sandbox> sandbox) {
  FBROKER_TRY(policy::Policy policy, policy_from(options.policy));
  std::unique_ptr<Session> session(new Session(std::move(options), parts, std::move(policy)));
  if (sandbox) session->set_sandbox(std::move(*sandbox));
  FBROKER_TRY_VOID(session->start());
  return session;
}

Session::Session(SessionOptions options, BrokerParts& parts, policy::Policy policy)
    : options_(std::move(options)), parts_(parts), policy_(std::move(policy)),
      counts_(parts.audit), admissions_(nothing()) {}

Session::~Session() { stop(std::chrono::milliseconds(0)); }

// The socket comes last: whoever can connect finds everything in place.
Result<void> Session::start() {
  if (options_.policy) parts_.own_files.add_file(*options_.policy);
  const std::vector<LiveGrant> grants = parts_.grants.of(name());
  FBROKER_TRY(auto first, compile_anew(policy_, grants));
  admissions_.publish(std::move(first));
  // What was revoked before a restart: its identities are not stored.
  if (find_revoked(grants)) admissions_.publish(compile_or_deny_all(grants));
  if (auto watch = HostWatch::start(events_); watch) watch_ = std::move(*watch);
  else parts_.say("session " + name() + ": the host is not watched (" + watch.error().text() +
                  "); changes made there show after a second");
  context_.reset(new SessionContext{name(), admissions_, events_, counts_, parts_.own_files, watch_.get()});
  LocalFileServiceOptions options;
  options.on_grant_used = [this](std::string_view id) {
    const auto stored = parts_.grants.use_up(name(), std::string(id));
    if (!stored) parts_.say("session " + name() + ": that grant " + std::string(id) + " was used: " + stored.error().text());
    parts_.on_grant_used(name(), std::string(id));
    return stored.has_value();
  };
  files_ = std::make_unique<LocalFileService>(*context_, std::move(options));
  egress_ = std::make_unique<EgressGate>(*context_);
  resume_mount();

  FBROKER_TRY(UnixListener listener,
              bind_unix_socket(options_.socket_directory, options_.socket_name, 0666, lock_path_of(socket())));
  socket_lock_ = std::move(listener.lock);
  HttpOptions http;
  http.session = name();
  if (options_.peer_uid != ::geteuid()) http.other_uids.push_back({options_.peer_uid, options_.peer_uid});
  HttpServices services{*files_, admissions_, events_,
                        [this](const protocol::Caller& caller, const WorkspacePath& path) {
                          return files_->resolve(caller, path.bytes(), true);
                        },
                        egress_.get(),
                        [this](std::uint32_t peer_pid) {
                          const auto known = sandbox();
                          return known != nullptr && known->is_file_service(static_cast<pid_t>(peer_pid));
                        },
                        [this](std::uint32_t peer_pid) { return may_adopt(static_cast<pid_t>(peer_pid)); },
                        [this](UniqueFd connection, std::uint32_t peer_pid) {
                          adopt(std::move(connection), static_cast<pid_t>(peer_pid));
                        }};
  FBROKER_TRY(front_, HttpFront::start(std::move(listener.socket), std::move(http), std::move(services)));
  return ok;
}

Result<std::shared_ptr<const View>> Session::compile(const policy::Policy& policy,
                                                     const std::vector<LiveGrant>& grants) {
  ExportTableInput places{options_.root, options_.home, policy.exports, temporary_exports(grants)};
  const auto before = admissions_.current();
  FBROKER_TRY(auto exports, ExportTable::build(places, before->exports.get()));
  policy::SnapshotInput input;
  input.rules = policy.rules;
  policy::add_host_names(input.rules, host_names(*exports));
  input.rules.insert(input.rules.end(), repositories_.begin(), repositories_.end());
  FBROKER_TRY_VOID(check_shown(policy, *exports, input.rules));
  input.grants = grants_for_snapshot(grants);
  input.generation = generation_.fetch_add(1) + 2;  // 1 is nothing()'s
  FBROKER_TRY(auto snapshot, policy::Snapshot::compile(std::move(input)));
  FBROKER_TRY_VOID(check_ways(policy, *exports, *before->exports, *snapshot));
  FBROKER_TRY(auto git_guard, git_guard_of(policy.rules));
  return std::make_shared<const View>(View{std::move(snapshot), std::move(exports), policy.durability,
                                           std::make_shared<policy::NetworkRules>(network(policy)),
                                           std::move(git_guard), revoked_by(grants)});
}

std::shared_ptr<const RevokedFiles> Session::revoked_by(const std::vector<LiveGrant>& grants) const {
  std::shared_ptr<RevokedFiles> files;
  for (const LiveGrant& live : grants) {
    const auto known = revoked_.find(live.grant.id);
    if (live.grant.effect != policy::Effect::deny || known == revoked_.end() || known->second.empty()) continue;
    if (!files) files = std::make_shared<RevokedFiles>();
    files->add(order_in_snapshot(live.grant), known->second);
  }
  return files;
}

void Session::inherit_revoked(const std::string& deny_id, const std::vector<std::string>& from) {
  for (const std::string& id : from)
    if (const auto known = revoked_.extract(id)) revoked_[deny_id].add(known.mapped());
}

// False: there is nothing.
bool Session::find_revoked(const std::vector<LiveGrant>& grants) {
  SearchBudget budget;
  bool any = false;
  for (const LiveGrant& live : grants) {
    if (live.grant.effect != policy::Effect::deny) continue;
    const FilesBelow found = files_below(*view()->exports, live.grant.path, budget,
                                         [](const protocol::FileIdentity&) { return false; });
    keep_revoked(live.grant.id, found);
    any = any || !found.empty();
  }
  return any;
}

Result<std::shared_ptr<const View>> Session::compile_anew(const policy::Policy& policy,
                                                          const std::vector<LiveGrant>& grants) {
  // The first of that name has no exceptions but the person's own.
  const auto guard = std::find_if(policy.rules.begin(), policy.rules.end(),
                                  [](const policy::Rule& rule) { return rule.id == "base:git"; });
  std::vector<policy::Rule> found;
  if (guard != policy.rules.end()) {
    ExportTableInput places{options_.root, options_.home, policy.exports, {}};
    FBROKER_TRY(const auto exports, ExportTable::build(places, admissions_.current()->exports.get()));
    found = guards_of_repositories(*exports, options_.home);
    for (policy::Rule& rule : found) rule.except = guard->except;
  }
  found.swap(repositories_);
  auto next = compile(policy, grants);
  if (!next) found.swap(repositories_);   // the policy in force keeps its own
  return next;
}

std::shared_ptr<const View> Session::compile_or_deny_all(const std::vector<LiveGrant>& grants) {
  auto next = compile(policy_, grants);
  if (next) return std::move(*next);
  parts_.say("session " + name() + ": " + next.error().text() + "; everything is denied until a reload works");
  policy::SnapshotInput empty;
  empty.generation = generation_.fetch_add(1) + 2;
  return std::make_shared<const View>(
      View{policy::Snapshot::compile(std::move(empty)).value(), admissions_.current()->exports,
           policy_.durability});
}

policy::NetworkRules Session::network(const policy::Policy& policy) const {
  std::vector<policy::HostRule> rules = policy.network;
  rules.insert(rules.end(), options_.hosts.begin(), options_.hosts.end());
  const auto now = system_clock::now();
  for (const LiveDomain& live : parts_.grants.domains_of(name()))
    if (!live.expires || *live.expires > now) rules.push_back(live.rule);
  return {std::move(rules), options_.offline};
}

Result<policy::Policy> Session::read_policy() const { return policy_from(options_.policy); }

void Session::set_sandbox(Sandbox sandbox) {
  const std::lock_guard lock(processes_mutex_);
  sandbox_ = std::make_shared<const Sandbox>(std::move(sandbox));
}

std::shared_ptr<const Sandbox> Session::sandbox() const {
  const std::lock_guard lock(processes_mutex_);
  return sandbox_;
}

// The signal comes before the abort, which alone would leave cached pages
// readable; the death after it, as a process in a call that nobody answers
// cannot die.
bool Session::kill_sandbox(std::chrono::milliseconds bound) {
  const auto known = sandbox();
  if (known) known->begin_kill();
  if (const auto served = mount()) served->abort();
  return known && known->kill(bound);
}

// The lock's file names it too: so that what we leave when we are killed can
// be cleared away once the launcher is gone.
void Session::set_launcher(HostProcess launcher) {
  if (auto written = write_owner(socket_lock_.get(), launcher, socket()); !written)
    parts_.say("session " + name() + ": " + written.error().text());
  const std::lock_guard lock(processes_mutex_);
  launcher_ = std::make_shared<const HostProcess>(std::move(launcher));
}

std::shared_ptr<const HostProcess> Session::launcher() const {
  const std::lock_guard lock(processes_mutex_);
  return launcher_;
}

// ATTACK: the agent has the broker serve a mount of its own, in which nothing
//   of what we know of the sandbox holds. Only the process that is everybody's
//   first, before there is an agent, may give a device away, and one only.
Result<void> Session::may_adopt(pid_t peer) const {
  const std::lock_guard lock(processes_mutex_);
  if (adopting_ || (mount_ && !mount_->ended())) return Error{"device", "there is one already"};
  if (sandbox_ && sandbox_->alive()) {
    if (sandbox_->pid() != peer) return Error{"device", "it is not the sandbox's first process that offers it"};
    return ok;
  }
  if (!Sandbox::is_first_of_its_own(peer)) return Error{"device", "only the first process of a container can offer it"};
  return ok;
}

void Session::adopt(UniqueFd connection, pid_t peer) {
  std::thread before;
  {
    const std::lock_guard lock(processes_mutex_);
    if (std::exchange(adopting_, true)) return;   // two asked at once
    before = std::exchange(adoption_, std::thread());
  }
  if (before.joinable()) before.join();
  std::thread adoption([this, socket = std::move(connection), peer] {
    const auto done = adopt_now(socket.get(), peer);
    const std::string answer = done ? protocol::kDeviceAdopted : done.error().text() + "\n";
    if (!done) parts_.say("session " + name() + ": the device is not taken: " + done.error().text());
    (void)::send(socket.get(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    const std::lock_guard lock(processes_mutex_);
    adopting_ = false;
  });
  const std::lock_guard lock(processes_mutex_);
  adoption_ = std::move(adoption);
}

Result<void> Session::adopt_now(int connection, pid_t peer) {
  FBROKER_TRY(OfferedDevice offered, receive_device(connection, kOfferBound));
  const auto known = sandbox();
  if (!known || !known->alive()) FBROKER_TRY_VOID(parts_.on_sandbox(*this, peer));
  auto state = std::make_unique<MountState>(parts_.keeper, parts_.mounts, name(), false);
  if (const auto kept = state->keep_device(offered); !kept)
    parts_.say("session " + name() + ": the workspace will not outlive this broker: " + std::strerror(kept.error().value));
  FBROKER_TRY(std::shared_ptr<AdoptedMount> mount,
              AdoptedMount::start(std::move(offered), peer, *files_, events_, std::move(state),
                                  view()->exports->agent_is_only_writer()));
  if (!mount->wait_ready(kOfferBound)) return Error{"device", "is not mounted"};
  audit::Record record;
  record.session = name();
  record.operation = "adopt-device";
  record.peer_pid = static_cast<std::uint32_t>(peer);
  record.detail = "connection " + std::to_string(mount->connection()) + (mount->writes_back() ? ", write-back" : "");
  if (!counts_.append(record)) return Error{"device", "the audit log cannot be written"};
  const std::lock_guard lock(processes_mutex_);
  mount_ = std::move(mount);
  return ok;
}

// A broker was killed under it. What cannot be gone on with would leave pages in
// the kernel that no revoke reaches: then the sandbox ends.
void Session::resume_mount() {
  const auto known = sandbox();
  if (!known) return;
  auto kept = MountState::take_device(parts_.keeper, name());
  if (kept && !*kept) return;   // it is served over HTTP
  auto resumed = kept ? AdoptedMount::start(std::move(**kept), known->pid(), *files_, events_,
                                                  std::make_unique<MountState>(parts_.keeper, parts_.mounts, name(), true),
                                                  view()->exports->agent_is_only_writer())
                            : Result<std::unique_ptr<AdoptedMount>>(Error{"keeper", std::strerror(kept.error().value)});
  if (resumed) {
    const std::lock_guard lock(processes_mutex_);
    mount_ = std::move(*resumed);
    return;
  }
  known->kill(kOfferBound);
  parts_.say("session " + name() + ": the workspace cannot be gone on with: " + resumed.error().text() +
             "; its sandbox was ended, start the agent again");
}

std::shared_ptr<AdoptedMount> Session::mount() const {
  const std::lock_guard lock(processes_mutex_);
  return mount_;
}

void Session::remove_socket() {
  broker::remove_socket(socket());
  socket_lock_ = UniqueFd();
}

void Session::stop(std::chrono::milliseconds grace) {
  if (front_) front_->stop(grace);   // no further adoption
  std::thread adoption;
  {
    const std::lock_guard lock(processes_mutex_);
    adoption = std::exchange(adoption_, std::thread());
  }
  if (adoption.joinable()) adoption.join();
  std::shared_ptr<AdoptedMount> mount;
  {
    const std::lock_guard lock(processes_mutex_);
    mount = std::exchange(mount_, nullptr);
  }
  mount.reset();
  if (files_) files_->close_all();
}

}  // namespace fbroker::broker
