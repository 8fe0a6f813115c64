#include "broker/control/control_client.h"

#include <dirent.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "broker/control/exchange.h"
#include "broker/protocol/wire_json.h"
#include "broker/sessions/runtime_dir.h"

namespace fbroker::control {

using nlohmann::json;
using protocol::append_bytes;
using std::chrono::steady_clock;

namespace {

constexpr auto kCallBound = std::chrono::seconds(30);   // a revoke's own bounds are 2 s each
constexpr auto kProbeBound = std::chrono::seconds(5);
constexpr std::size_t kMaxBrokers = 256;

// --- what goes out --------------------------------------------------------

// An object of bytes, texts and numbers; empty texts are left out.
class Body {
 public:
  Body& add(const char* name, std::string_view value) {
    if (!value.empty()) key(name), append_bytes(out_, value);
    return *this;
  }
  Body& add(const char* name, bool value) {
    if (value) key(name), out_ += "true";
    return *this;
  }
  Body& add(const char* name, std::uint64_t value) {
    key(name), protocol::append_number(out_, value);
    return *this;
  }
  Body& add(const char* name, const std::vector<std::string>& values) {
    key(name), out_ += '[';
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i > 0) out_ += ',';
      append_bytes(out_, values[i]);
    }
    out_ += ']';
    return *this;
  }
  Body& raw(const char* name, const std::string& json) {
    key(name), out_ += json;
    return *this;
  }
  std::string text() { return out_ + '}'; }

 private:
  void key(const char* name) {
    if (out_.size() > 1) out_ += ',';
    out_ += '"';
    out_ += name;
    out_ += "\":";
  }
  std::string out_ = "{";
};

// --- what comes back: our own broker's words, read forgivingly ------------

json parsed(const std::string& text) { return json::parse(text, nullptr, false); }

std::string bytes_of(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object() || !value.contains("b64")) return "";
  const json wrapped = {{"v", value}};
  protocol::FieldReader reader(wrapped);
  return reader.bytes("v");
}
std::string bytes_at(const json& object, const char* name) {
  return object.is_object() && object.contains(name) ? bytes_of(object[name]) : "";
}
std::uint64_t number_at(const json& object, const char* name) {
  return object.is_object() && object.contains(name) && object[name].is_number_unsigned()
             ? object[name].get<std::uint64_t>()
             : 0;
}
bool flag_at(const json& object, const char* name, bool otherwise = false) {
  return object.is_object() && object.contains(name) && object[name].is_boolean()
             ? object[name].get<bool>()
             : otherwise;
}
const json& list_at(const json& object, const char* name) {
  static const json none = json::array();
  return object.is_object() && object.contains(name) && object[name].is_array() ? object[name] : none;
}
// Each entry of a list, made by `make`.
template <class Make>
auto all_at(const json& object, const char* name, Make make) {
  std::vector<decltype(make(object))> all;
  for (const json& entry : list_at(object, name)) all.push_back(make(entry));
  return all;
}
std::vector<std::string> texts_at(const json& object, const char* name) { return all_at(object, name, &bytes_of); }
std::vector<Ended> ended_at(const json& object, const char* name) {
  return all_at(object, name, [](const json& entry) { return Ended{bytes_at(entry, "id"), bytes_at(entry, "path")}; });
}

std::string hosts_json(const NewSession& wanted) {
  std::string list = "[";
  const auto add = [&](Body entry) { list += (list.size() > 1 ? "," : "") + entry.text(); };
  for (const ReachableHost& host : wanted.hosts)
    add(Body().add("id", host.id).add("host", host.host).add("tls", host.tls));
  for (const auto& [name, target] : wanted.aliases)
    add(Body().add("id", "alias:" + name).add("host", name).add("instead", target));
  return list + "]";
}

Session session_from(std::string text) {
  const json answer = parsed(text);
  Session session;
  session.name = bytes_at(answer, "name");
  session.socket_directory = bytes_at(answer, "socket_directory");
  session.socket = bytes_at(answer, "socket");
  session.exports = all_at(answer, "exports", [](const json& entry) {
    return ExportShown{bytes_at(entry, "at"), bytes_at(entry, "from"), flag_at(entry, "writable")};
  });
  session.hidden = texts_at(answer, "hidden");
  session.hidden_count = number_at(answer, "hidden_count");
  session.network = texts_at(answer, "network");
  session.offline = flag_at(answer, "offline");
  session.json = std::move(text);
  return session;
}

Report report_from(std::string text) {
  const json answer = parsed(text);
  Report report;
  report.read = number_at(answer, "read");
  report.changed = number_at(answer, "changed");
  report.bytes_read = number_at(answer, "bytes_read");
  report.bytes_written = number_at(answer, "bytes_written");
  report.connections = number_at(answer, "connections");
  report.received = number_at(answer, "received");
  report.sent = number_at(answer, "sent");
  report.refused = all_at(answer, "refused", [](const json& entry) {
    return Refused{number_at(entry, "count"), bytes_at(entry, "operation"), bytes_at(entry, "path"),
                   bytes_at(entry, "rule"), bytes_at(entry, "lift")};
  });
  report.created_guarded = texts_at(answer, "created_guarded");
  report.json = std::move(text);
  return report;
}

Granted granted_from(std::string text) {
  const json answer = parsed(text);
  return {bytes_at(answer, "id"), bytes_at(answer, "path"), texts_at(answer, "operations"),
          bytes_at(answer, "expires"), std::move(text)};
}

// --- failures ---------------------------------------------------------------

constexpr const char* kHowToStart =
    "start one with `fbroker serve` in the directory to work in, or a sandbox with "
    "`fbroker run -- bash`";

Failure not_reachable(const std::string& socket, const char* why) {
  return {3, "no broker answers on " + socket + " (" + why + "); " + kHowToStart, ""};
}

Failure refused(const Response& response) {
  const json problem = parsed(response.body);
  std::string what = bytes_at(problem, "detail");
  if (what.empty()) what = bytes_at(problem, "title");
  if (what.empty()) what = "the broker answered " + std::to_string(response.status);
  // 400 and 422: the request makes no sense as it stands; the rest is a "no".
  const bool usage = response.status == 400 || response.status == 422;
  return {usage ? 2 : 1, what, response.body};
}

Answer<Response> exchange(const std::string& socket, const Request& request,
                          std::chrono::seconds bound) {
  const auto until = steady_clock::now() + bound;
  auto connected = connect_to(socket);
  if (!connected) return not_reachable(socket, std::strerror(connected.error().value));
  if (!write_request(connected->get(), request, until))
    return not_reachable(socket, "it does not read");
  auto response = read_response(connected->get(), until);
  if (!response) return Failure{3, "the broker on " + socket + ": " + response.error().what, ""};
  return std::move(*response);
}

std::optional<LiveBroker> probe(const std::string& socket) {
  auto response = exchange(socket, {"GET", "/v1/status", "", "", "", ""}, kProbeBound);
  if (!response || response->status != 200) return std::nullopt;
  const json status = parsed(response->body);
  return LiveBroker{socket, bytes_at(status, "broker"), flag_at(status, "embedded"),
                    all_at(status, "sessions", [](const json& session) { return bytes_at(session, "name"); })};
}

std::string names_of(const std::vector<LiveBroker>& brokers) {
  std::string names;
  for (const LiveBroker& broker : brokers)
    for (const std::string& session : broker.sessions) names += (names.empty() ? "" : ", ") + session;
  return names.empty() ? "none" : names;
}

}  // namespace

std::vector<LiveBroker> live_brokers() {
  std::vector<LiveBroker> live;
  if (const char* given = ::getenv("FBROKER_CONTROL"); given != nullptr && *given != '\0') {
    if (auto broker = probe(given)) live.push_back(std::move(*broker));
    return live;
  }
  const std::string directory = broker::runtime_path() + "/control";
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(directory.c_str()), &::closedir);
  if (open == nullptr) return live;
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(open.get()))
    if (std::string_view(entry->d_name).ends_with(".sock") && names.size() < kMaxBrokers)
      names.emplace_back(entry->d_name);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names)
    if (auto broker = probe(directory + "/" + name)) live.push_back(std::move(*broker));
  return live;
}

Answer<ControlClient> ControlClient::find(const std::string& session) {
  const std::vector<LiveBroker> live = live_brokers();
  if (live.empty()) return Failure{3, std::string("no broker is running; ") + kHowToStart, ""};
  if (session.empty()) {
    if (live.size() == 1) return ControlClient(live.front().control);
    return Failure{2, "several brokers are running; say which session with -s NAME: " + names_of(live), ""};
  }
  for (const LiveBroker& broker : live)
    if (std::find(broker.sessions.begin(), broker.sessions.end(), session) != broker.sessions.end())
      return ControlClient(broker.control);
  return Failure{1, "no session \"" + session + "\"; there are: " + names_of(live), ""};
}

Answer<ControlClient> ControlClient::find_serving() {
  for (const LiveBroker& broker : live_brokers())
    if (!broker.embedded) return ControlClient(broker.control, broker.name);
  return Failure{3, std::string("no broker is serving; ") + kHowToStart, ""};
}

Answer<std::string> ControlClient::call(std::string_view method, std::string_view target,
                                        std::string_view body) const {
  FBROKER_TRY(Response response,
              exchange(socket_, {std::string(method), std::string(target), "", std::string(body), "", ""},
                       kCallBound));
  if (response.status / 100 != 2) return refused(response);
  return std::move(response.body);
}

Answer<Session> ControlClient::create_session(const NewSession& wanted) const {
  Body body;
  body.add("name", wanted.name).add("root", wanted.root);
  if (wanted.policy) body.add("policy", *wanted.policy);
  if (wanted.peer_uid) body.add("peer_uid", std::uint64_t{*wanted.peer_uid});
  body.add("ends_with_caller", wanted.ends_with_caller).add("offline", wanted.offline);
  if (const std::string hosts = hosts_json(wanted); hosts != "[]") body.raw("hosts", hosts);
  FBROKER_TRY(std::string text, call("POST", "/v1/sessions", body.text()));
  return session_from(std::move(text));
}

Answer<Session> ControlClient::session(const std::string& name) const {
  FBROKER_TRY(std::string text, call("GET", "/v1/sessions/" + name, ""));
  return session_from(std::move(text));
}

Answer<void> ControlClient::register_sandbox(const std::string& session, pid_t pid) const {
  FBROKER_TRY_VOID(call("POST", "/v1/sessions/" + session + "/sandbox",
                        Body().add("pid", static_cast<std::uint64_t>(pid)).text()));
  return ok;
}

Answer<Report> ControlClient::end_session(const std::string& name) const {
  FBROKER_TRY(std::string text, call("POST", "/v1/sessions/" + name + "/end", "{}"));
  return report_from(std::move(text));
}

Answer<Granted> ControlClient::grant(const GrantRequest& wanted) const {
  Body body;
  body.add("session", wanted.session).add("path", wanted.path).add("cwd", wanted.cwd);
  body.add("home", wanted.home).add("operations", wanted.operations);
  if (wanted.lasts) body.add("seconds", static_cast<std::uint64_t>(wanted.lasts->count()));
  body.add("once", wanted.once).add("override_deny", wanted.override_deny);
  body.add("because", wanted.because);
  FBROKER_TRY(std::string text, call("POST", "/v1/grants", body.text()));
  return granted_from(std::move(text));
}

Answer<Granted> ControlClient::grant_domain(const DomainGrantRequest& wanted) const {
  Body body;
  body.add("session", wanted.session).add("domain", wanted.domain).add("tls", wanted.tls);
  if (wanted.lasts) body.add("seconds", static_cast<std::uint64_t>(wanted.lasts->count()));
  body.add("because", wanted.because);
  FBROKER_TRY(std::string text, call("POST", "/v1/grants", body.text()));
  return granted_from(std::move(text));
}

Answer<Revoked> ControlClient::revoke(const RevokeRequest& wanted) const {
  Body body;
  body.add("session", wanted.session);
  if (wanted.domain.empty()) body.add("target", wanted.target).add("cwd", wanted.cwd).add("home", wanted.home);
  body.add("domain", wanted.domain).add("all", wanted.all);
  FBROKER_TRY(std::string text, call("POST", "/v1/revoke", body.text()));
  const json answer = parsed(text);
  Revoked revoked;
  revoked.ended = ended_at(answer, "ended");
  revoked.denied = ended_at(answer, "denied");
  revoked.overruled = texts_at(answer, "overruled");
  revoked.handles_closed = number_at(answer, "handles_closed");
  revoked.recorded = flag_at(answer, "recorded");
  revoked.sandbox_killed = flag_at(answer, "sandbox_killed");
  revoked.milliseconds = answer.is_object() ? answer.value("milliseconds", 0.0) : 0.0;
  revoked.json = std::move(text);
  return revoked;
}

Answer<Checked> ControlClient::check(const CheckRequest& wanted) const {
  Body body;
  body.add("session", wanted.session).add("domain", wanted.domain);
  if (wanted.domain.empty())
    body.add("path", wanted.path).add("cwd", wanted.cwd).add("home", wanted.home).add("operation", wanted.operation);
  FBROKER_TRY(std::string text, call("POST", "/v1/check", body.text()));
  const json answer = parsed(text);
  return Checked{bytes_at(answer, "decision"), bytes_at(answer, "rule"), bytes_at(answer, "because"),
                 bytes_at(answer, "path"), bytes_at(answer, "lift"), std::move(text)};
}

Answer<std::string> ControlClient::status() const { return call("GET", "/v1/status", ""); }

Answer<std::string> ControlClient::grants(const std::string& session) const {
  return call("GET", "/v1/grants" + (session.empty() ? "" : "?session=" + session), "");
}

Answer<std::string> ControlClient::reload() const { return call("POST", "/v1/reload", "{}"); }

}  // namespace fbroker::control
