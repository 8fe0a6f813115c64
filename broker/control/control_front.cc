#include "broker/control/control_front.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "broker/control/control_json.h"
#include "broker/grants/domain_changes.h"
#include "broker/sessions/hosts_json.h"
#include "broker/control/person_path.h"
#include "broker/http/problem.h"
#include "broker/protocol/wire_json.h"
#include "policy/explain.h"

namespace fbroker::control {

using broker::Registry;
using broker::Session;
using nlohmann::json;
using protocol::FieldReader;
using std::chrono::steady_clock;

namespace {

constexpr std::size_t kMaxBecauseBytes = 500;
constexpr std::uint64_t kMaxSeconds = 10ull * 366 * 24 * 3600;

// --- answers ------------------------------------------------------------------

Response problem(unsigned status, std::string title, std::string detail) {
  broker::Problem said;
  said.status = status;
  said.title = std::move(title);
  said.detail = std::move(detail);
  return {static_cast<int>(status), std::string(broker::kProblemType), broker::problem_text(said)};
}
Response bad(std::string detail) { return problem(400, "Bad request", std::move(detail)); }
Response not_found(std::string detail) { return problem(404, "Not found", std::move(detail)); }
Response refused(std::string detail) { return problem(403, "Refused", std::move(detail)); }
Response good(std::string body) { return {200, "application/json", std::move(body)}; }

template <class T>
using Or = Result<T, Response>;

// --- what comes in --------------------------------------------------------------

struct Call {
  Registry& registry;
  const ControlOptions& options;
  std::string name;         // the session in the target: /v1/sessions/NAME/…
  std::string query;        // what follows "?"
  json body;
  int connected;            // the caller's socket
};

Or<std::shared_ptr<Session>> session_called(Registry& registry, const std::string& name) {
  const auto all = registry.all();
  std::string names;
  for (const auto& session : all) names += (names.empty() ? "" : ", ") + session->name();
  if (!name.empty()) {
    if (auto found = registry.find(name)) return found;
    return not_found("no session \"" + name + "\"; there are: " + (names.empty() ? "none" : names));
  }
  if (all.size() == 1) return all.front();
  if (all.empty()) return not_found("the broker has no session");
  return bad("several sessions are live; say which with -s NAME: " + names);
}

PersonPath person_path(FieldReader& reader, std::string_view field) {
  PersonPath path;
  path.text = reader.bytes(field);
  if (reader.has("cwd")) path.cwd = reader.bytes("cwd");
  if (reader.has("home")) path.home = reader.bytes("home");
  return path;
}

std::string session_field(FieldReader& reader) { return reader.has("session") ? reader.text("session") : ""; }
bool flag_field(FieldReader& reader, std::string_view name) { return reader.has(name) && reader.boolean(name); }

policy::OperationSet operations_field(FieldReader& reader) {
  policy::OperationSet operations;
  const json* list = reader.array("operations");
  if (list == nullptr) return operations;
  for (const json& word : *list) {
    const std::string name = word.is_string() ? word.get<std::string>() : "";
    if (const auto level = policy::level_of(policy::Effect::allow, name)) operations = operations | *level;
    else if (const auto operation = policy::operation_named(name)) operations.add(*operation);
    else reader.refuse("operations", "\"" + name + "\" is neither a level (list, read, write) nor an "
                                     "operation (list, read, write, create, delete, execute)");
  }
  if (operations.empty()) reader.refuse("operations", "is empty");
  return operations;
}

// --- routes ---------------------------------------------------------------------

Response get_status(Call& call) {
  const auto sessions = call.registry.all();
  const auto status = call.registry.audit().status();
  return good(JsonObject()
                  .text("broker", call.registry.options().broker)
                  .text("version", FBROKER_VERSION)
                  .number("pid", static_cast<std::uint64_t>(::getpid()))
                  .flag("embedded", call.options.embedded)
                  .text("state", call.registry.options().state_directory)
                  .raw("audit", audit_json(status, call.registry.options().audit_directory))
                  .raw("sessions", json_array(sessions, [&](const auto& session) {
                         return session_status_json(*session, call.registry.grants());
                       }))
                  .end());
}

Response get_grants(Call& call) {
  std::string name;
  if (call.query.starts_with("session=")) name = call.query.substr(8);
  else if (!call.query.empty()) return bad("the only parameter is session");
  auto sessions = call.registry.all();
  if (!name.empty()) {
    auto one = session_called(call.registry, name);
    if (!one) return one.error();
    sessions = {*one};
  }
  std::string list = "[";
  for (const auto& session : sessions)
  {
    for (const auto& live : call.registry.grants().of(session->name()))
      list += (list.size() > 1 ? "," : "") + grant_json(session->name(), live);
    for (const auto& live : call.registry.grants().domains_of(session->name()))
      list += (list.size() > 1 ? "," : "") + domain_json(session->name(), live);
  }
  return good("{\"grants\":" + list + "]}");
}

std::optional<std::chrono::system_clock::time_point> expiry_field(FieldReader& reader) {
  if (!reader.has("seconds")) return std::nullopt;
  const std::uint64_t seconds = reader.number("seconds");
  if (seconds == 0 || seconds > kMaxSeconds) reader.refuse("seconds", "1 to ten years");
  return std::chrono::system_clock::now() + std::chrono::seconds(std::min(seconds, kMaxSeconds));
}

std::string because_field(FieldReader& reader) {
  std::string because = reader.has("because") ? reader.bytes("because") : "";
  if (because.size() > kMaxBecauseBytes) reader.refuse("because", "longer than 500 bytes");
  return because;
}

Response post_domain(Call& call) {
  FieldReader reader(call.body);
  const std::string name = session_field(reader);
  broker::LiveDomain wanted;
  auto pattern = policy::HostPattern::parse(reader.text("domain"));
  if (!pattern) reader.refuse("domain", pattern.error().text());
  const auto tls = policy::tls_check_named(reader.has("tls") ? reader.text("tls") : "sni");
  if (!tls) reader.refuse("tls", "is none of \"sni\", \"no-sni\" and \"off\"");
  wanted.expires = expiry_field(reader);
  wanted.rule.because = because_field(reader);
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  wanted.rule.pattern = std::move(*pattern);
  wanted.rule.tls = *tls;
  const auto session = session_called(call.registry, name);
  if (!session) return session.error();
  const auto live = broker::grant_domain((*session)->take_turn(), std::move(wanted));
  if (!live) return refused(live.error().what);
  call.registry.wake();
  return good(domain_json((*session)->name(), *live));
}

Response post_grants(Call& call) {
  if (call.body.contains("domain")) return post_domain(call);
  FieldReader reader(call.body);
  const std::string name = session_field(reader);
  const PersonPath path = person_path(reader, "path");
  broker::LiveGrant wanted;
  wanted.grant.operations = operations_field(reader);
  wanted.grant.expires = expiry_field(reader);
  wanted.grant.once = flag_field(reader, "once");
  wanted.grant.override_deny = flag_field(reader, "override_deny");
  wanted.grant.because = because_field(reader);
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  const auto session = session_called(call.registry, name);
  if (!session) return session.error();

  const broker::ChangeTurn turn = (*session)->take_turn();
  const auto view = (*session)->view();
  const auto placed = place_for_grant(path, *view->exports, call.registry.own_files());
  if (!placed) return refused(placed.error().text());
  static const WorkspacePath granted_root = WorkspacePath::parse(kGrantedRoot).value();
  wanted.grant.path = placed->outside ? free_granted_path(placed->host, *view->exports) : placed->path;
  if (wanted.grant.path.is_at_or_below(granted_root)) {
    if (!placed->exists) return refused(path.text + ": there is no such file");
    wanted.from = placed->host;
  }
  const auto live = broker::grant(turn, std::move(wanted));
  if (!live) return refused(live.error().what);
  call.registry.wake();
  return good(grant_json((*session)->name(), *live));
}

bool is_grant_id(const std::string& text) {
  return text.size() > 1 && (text[0] == 'g' || text[0] == 'r') &&
         text.find_first_not_of("0123456789", 1) == text.npos;
}

Or<broker::RevokeOutcome> revoke_target(Session& session, const PersonPath& target) {
  const broker::ChangeTurn turn = session.take_turn();
  if (is_grant_id(target.text)) {
    if (auto outcome = broker::revoke_id(turn, target.text)) return std::move(*outcome);
    return not_found("no grant " + target.text + " is live (a file of that name is ./" + target.text + ")");
  }
  const auto places = places_for_revoke(target, *session.view()->exports);
  if (!places) return bad(places.error().text());
  if (places->empty()) return not_found(target.text + ": no export shows it, so nothing can reach it");
  return broker::revoke_places(turn, *places);
}

Response post_revoke(Call& call) {
  FieldReader reader(call.body);
  const std::string name = session_field(reader);
  const bool all = flag_field(reader, "all");
  std::optional<policy::HostPattern> domain;
  if (reader.has("domain")) {
    auto pattern = policy::HostPattern::parse(reader.text("domain"), 0);
    if (!pattern) reader.refuse("domain", pattern.error().text());
    else domain = std::move(*pattern);
  }
  PersonPath target;
  if (!all && !domain) target = person_path(reader, "target");
  else for (const char* field : {"cwd", "home"}) if (reader.has(field)) (void)reader.bytes(field);
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  const auto session = session_called(call.registry, name);
  if (!session) return session.error();
  if (all) return good(revoke_json(broker::revoke_all((*session)->take_turn())));
  if (domain) return good(revoke_json(broker::revoke_domain((*session)->take_turn(), *domain)));
  const auto outcome = revoke_target(**session, target);
  if (!outcome) return outcome.error();
  return good(revoke_json(*outcome));
}

Response check_outside(const std::string& host) {
  return good(JsonObject().text("decision", "deny").text("rule", "default")
                  .text("because", "lies in no export").text("path", host).end());
}

Response check_domain(Call& call) {
  FieldReader reader(call.body);
  const std::string name = session_field(reader);
  const auto target = policy::Endpoint::parse(reader.text("domain"), policy::kHttpsPort);
  if (!target) reader.refuse("domain", target.error().text());
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  const auto session = session_called(call.registry, name);
  if (!session) return session.error();
  const auto decision = (*session)->view()->network->decide(target->host, target->port);
  const std::string effect = decision.allowed ? "allow" : "deny";
  return good(JsonObject()
                  .text("decision", effect)
                  .text("operation", "connect")
                  .text("path", target->text())
                  .text("rule", decision.rule)
                  .text("because", decision.because)
                  .text("words", "connect " + target->text() + ": " + effect + ", by " + decision.rule +
                                     (decision.because.empty() ? "" : " (" + decision.because + ")"))
                  .end());
}

Response post_check(Call& call) {
  if (call.body.contains("domain")) return check_domain(call);
  FieldReader reader(call.body);
  const std::string name = session_field(reader);
  const PersonPath path = person_path(reader, "path");
  const auto operation = policy::operation_named(reader.text("operation"));
  if (!operation) reader.refuse("operation", "is none of list, read, write, create, delete, execute");
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  const auto session = session_called(call.registry, name);
  if (!session) return session.error();
  const auto view = (*session)->view();
  const auto placed = place(path, *view->exports);
  if (!placed) return bad(placed.error().text());
  if (placed->outside) return check_outside(placed->host);
  const auto decision = view->snapshot->decide(placed->path);
  const auto& entry = decision.of(*operation);
  const policy::Reason reason = view->snapshot->reason(entry.reason);
  return good(JsonObject()
                  .text("decision", policy::name_of(entry.effect))
                  .text("operation", policy::name_of(*operation))
                  .text("path", shown_to_agent(placed->path))
                  .text("rule", reason.id)
                  .text("because", reason.because)
                  .text("words", policy::explain_text(*view->snapshot, placed->path, *operation, decision))
                  .text("lift", policy::lifting_command(*view->snapshot, placed->path, *operation, decision))
                  .end());
}

Response post_reload(Call& call) {
  FieldReader reader(call.body);
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  const auto results = call.registry.reload_all();
  for (const Registry::Reloaded& result : results)
    if (!result.done) return problem(422, "Broken policy", "session " + result.session + ": " + result.words);
  return good("{\"reloaded\":" + json_array(results, [](const Registry::Reloaded& result) {
                return JsonObject().text("session", result.session).text("words", result.words).end();
              }) + "}");
}

Response get_sessions(Call& call) {
  return good("{\"sessions\":" + json_array(call.registry.all(), [&](const auto& session) {
                return session_status_json(*session, call.registry.grants());
              }) + "}");
}

Response post_sessions(Call& call) {
  FieldReader reader(call.body);
  broker::WantedSession wanted;
  if (reader.has("name")) wanted.name = reader.text("name");
  wanted.root = reader.bytes("root");
  if (reader.has("policy")) wanted.policy = reader.bytes("policy");
  if (reader.has("peer_uid")) wanted.peer_uid = static_cast<uid_t>(reader.number("peer_uid"));
  const bool with_caller = flag_field(reader, "ends_with_caller");
  wanted.offline = flag_field(reader, "offline");
  if (const json* hosts = reader.has("hosts") ? reader.array("hosts") : nullptr) {
    auto read = broker::read_hosts(*hosts, "hosts");
    if (!read) return bad(read.error().text());
    wanted.hosts = std::move(*read);
  }
  if (wanted.policy && !wanted.policy->starts_with('/')) reader.refuse("policy", "is not an absolute path");
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  if (!wanted.name.empty() && call.registry.find(wanted.name))
    return problem(409, "Conflict", "session \"" + wanted.name + "\" is live already; choose another --name");
  std::optional<broker::HostProcess> launcher;
  if (with_caller) {
    auto caller = broker::HostProcess::at_other_end(call.connected);
    if (!caller) return problem(422, "Session cannot be made", caller.error().text());
    launcher = std::move(*caller);
  }
  const auto session = call.registry.create(wanted, Registry::OldGrants::forget, std::move(launcher));
  if (!session) return problem(422, "Session cannot be made", session.error().text());
  return good(session_json(**session));
}

Response get_session(Call& call) {
  const auto session = session_called(call.registry, call.name);
  return session ? good(session_json(**session)) : session.error();
}

Response post_sandbox(Call& call) {
  FieldReader reader(call.body);
  const std::uint64_t pid = reader.number("pid");
  if (pid > 1u << 22) reader.refuse("pid", "is no process");
  if (const auto done = reader.finish(); !done) return bad(done.error().text());
  const auto session = session_called(call.registry, call.name);
  if (!session) return session.error();
  const auto registered = call.registry.register_sandbox(**session, static_cast<pid_t>(pid));
  return registered ? good("{}") : refused(registered.error().text());
}

Response post_end(Call& call) {
  const auto session = call.registry.end(call.name);
  return session ? good(report_json(*session)) : not_found("no session \"" + call.name + "\"");
}

using Handler = Response (*)(Call&);
struct Route {
  std::string_view method, path;   // "*" stands for one component: a session's name
  Handler handler;
};
constexpr std::array kRoutes{
    Route{"GET", "/v1/status", &get_status},
    Route{"GET", "/v1/grants", &get_grants},
    Route{"POST", "/v1/grants", &post_grants},
    Route{"POST", "/v1/revoke", &post_revoke},
    Route{"POST", "/v1/check", &post_check},
    Route{"POST", "/v1/reload", &post_reload},
    Route{"GET", "/v1/sessions", &get_sessions},
    Route{"POST", "/v1/sessions", &post_sessions},
    Route{"GET", "/v1/sessions/*", &get_session},
    Route{"POST", "/v1/sessions/*/sandbox", &post_sandbox},
    Route{"POST", "/v1/sessions/*/end", &post_end},
};

// The component that stands for "*"; none: another path.
std::optional<std::string> matched(std::string_view path, std::string_view pattern) {
  const std::size_t star = pattern.find('*');
  if (star == pattern.npos) return path == pattern ? std::optional<std::string>("") : std::nullopt;
  const std::string_view before = pattern.substr(0, star), after = pattern.substr(star + 1);
  if (path.size() <= before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after))
    return std::nullopt;
  const std::string_view name = path.substr(before.size(), path.size() - before.size() - after.size());
  if (name.find('/') != name.npos) return std::nullopt;
  return std::string(name);
}

Response route(Call& call, const Request& request, std::string_view path) {
  bool known_path = false;
  for (const Route& one : kRoutes) {
    auto name = matched(path, one.path);
    if (!name) continue;
    known_path = true;
    if (one.method != request.method) continue;
    call.name = std::move(*name);
    return one.handler(call);
  }
  if (known_path) return problem(405, "Method not allowed", request.method + " is not for " + std::string(path));
  return not_found("no such route: " + std::string(path.substr(0, 200)));
}

}  // namespace

Result<std::unique_ptr<ControlFront>> ControlFront::start(broker::UnixListener listener,
                                                          ControlOptions options,
                                                          Registry& registry) {
  std::unique_ptr<ControlFront> front(new ControlFront(std::move(listener), options, registry));
  if (!front->stop_) return Error{"eventfd", std::strerror(errno)};
  for (std::size_t i = 0; i < options.threads; ++i)
    front->threads_.emplace_back([self = front.get()] { self->work(); });
  return front;
}

ControlFront::ControlFront(broker::UnixListener listener, ControlOptions options, Registry& registry)
    : listener_(std::move(listener)), options_(options), registry_(registry),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

ControlFront::~ControlFront() {
  ::eventfd_write(stop_.get(), 1);
  for (std::thread& thread : threads_) thread.join();
}

void ControlFront::work() {
  for (;;) {
    std::array<pollfd, 2> waiting{pollfd{stop_.get(), POLLIN, 0}, pollfd{listener_.socket.get(), POLLIN, 0}};
    if (::poll(waiting.data(), waiting.size(), -1) < 0) continue;
    if (waiting[0].revents != 0) return;
    UniqueFd connected(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connected) serve(std::move(connected));
  }
}

// INVARIANT: nobody but this user and root is answered, whatever the socket's
//   mode or directory has become.
void ControlFront::serve(UniqueFd connected) {
  const auto peer = broker::peer_of(connected.get());
  if (!peer || (peer->uid != ::geteuid() && peer->uid != 0)) return;
  const auto request = read_request(connected.get(), steady_clock::now() + options_.request_bound);
  if (!request && request.error().status == 0) return;
  const Response response = request ? handle(*request, connected.get())
                                    : problem(static_cast<unsigned>(request.error().status), "Bad request",
                                              request.error().what);
  write_response(connected.get(), response, steady_clock::now() + options_.reply_bound);
}

Response ControlFront::handle(const Request& request, int connected) {
  // ATTACK: a web page that reaches the socket through a proxy of the person's.
  if (!request.origin.empty()) return refused("requests from web pages are not answered");
  try {
    const std::size_t mark = request.target.find('?');
    Call call{registry_, options_, "", mark == std::string::npos ? "" : request.target.substr(mark + 1), json::object(),
              connected};
    if (!request.body.empty()) {
      auto body = protocol::parse_strict(request.body);
      if (!body) return bad(body.error().text());
      if (!body->is_object()) return bad("the body must be a JSON object");
      call.body = std::move(*body);
    }
    return route(call, request, std::string_view(request.target).substr(0, mark));
  } catch (const std::exception& error) {
    registry_.options().say(std::string("a control request failed: ") + error.what());
    return problem(500, "Internal error", error.what());
  }
}

}  // namespace fbroker::control
