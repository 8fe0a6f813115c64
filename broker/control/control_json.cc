#include "broker/control/control_json.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

#include "broker/control/person_path.h"
#include "broker/protocol/wire_json.h"
#include "broker/sessions/hidden_files.h"
#include "policy/explain.h"

namespace fbroker::control {

using broker::LiveGrant;
using broker::Session;
using policy::Operation;

namespace {

constexpr std::size_t kMaxRefusalsTold = 50;

std::string operations_json(policy::OperationSet operations) {
  std::vector<std::string_view> names;
  for (std::size_t i = 0; i < policy::kOperations; ++i)
    if (operations.has(static_cast<Operation>(i))) names.push_back(policy::name_of(static_cast<Operation>(i)));
  return json_array(names, json_text);
}

std::string milliseconds_text(double milliseconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3f", milliseconds);
  return text.data();
}

std::string ended_json(const LiveGrant& live) {
  return JsonObject().text("id", live.grant.id).text("path", shown_to_agent(live.grant.path)).end();
}

bool gives_writing(const policy::Rule& rule) {
  return rule.effect == policy::Effect::allow &&
         (rule.operations.has(Operation::write) || rule.operations.has(Operation::create));
}

// For the banner: whether anything there may be written. A rule that gives
// writing somewhere below is enough.
bool is_writable(const WorkspacePath& at, const broker::View& view, const std::vector<policy::Rule>& rules) {
  const auto decision = view.snapshot->decide(at);
  if (decision.allows(Operation::write) || decision.allows(Operation::create)) return true;
  for (const policy::Rule& rule : rules) {
    if (!gives_writing(rule)) continue;
    if (rule.match) return true;
    for (const std::string& pattern : rule.paths)
      if (pattern.starts_with("**") || pattern.starts_with(at.is_root() ? "/" : at.bytes() + "/")) return true;
  }
  return false;
}

// What may be reached, as a person writes it. Where the rule that wins first
// denies, what it covers is left out.
std::string network_json(const policy::NetworkRules& network) {
  std::vector<std::string> reachable;
  const auto& rules = network.rules();
  for (std::size_t i = 0; i < rules.size() && !network.offline(); ++i) {
    const auto denies = [&](const policy::HostRule& rule) {
      return rule.effect == policy::Effect::deny && rule.pattern.covers(rules[i].pattern);
    };
    if (rules[i].effect != policy::Effect::allow || std::any_of(rules.begin(), rules.begin() + static_cast<std::ptrdiff_t>(i), denies)) continue;
    std::string text = rules[i].pattern.text();
    if (std::find(reachable.begin(), reachable.end(), text) == reachable.end()) reachable.push_back(std::move(text));
  }
  return json_array(reachable, json_text);
}

std::string exports_json(const broker::View& view, const std::vector<policy::Rule>& rules) {
  return json_array(view.exports->exports(), [&](const std::shared_ptr<const broker::Export>& one) {
    return JsonObject()
        .text("at", one->at().bytes())
        .text("from", view.exports->host_path(one->at()))
        .flag("writable", is_writable(one->at(), view, rules))
        .end();
  });
}

std::string ended_domain_json(const broker::LiveDomain& live) {
  return JsonObject().text("id", live.rule.id).text("path", live.rule.pattern.text()).end();
}

// Paths' entries and domains' in one list.
std::string ended_list(const std::vector<LiveGrant>& paths, const std::vector<broker::LiveDomain>& domains) {
  std::string list = json_array(paths, ended_json);
  if (domains.empty()) return list;
  const std::string more = json_array(domains, ended_domain_json);
  return paths.empty() ? more : list.substr(0, list.size() - 1) + "," + more.substr(1);
}

// What a person could do about a connection that was refused, "" = nothing:
// the gate's own checks ("egress:…") are nobody's to lift.
std::string lift_of_connection(const broker::CountedRefusal& refusal, const policy::NetworkRules& network) {
  if (network.offline() || refusal.rule.starts_with("egress:")) return "";
  const auto target = policy::Endpoint::parse(refusal.path);
  if (!target || !target->host.is_name()) return "";
  return "fbroker grant --domain " + policy::HostPattern{target->host, false, target->port}.text() + " --for 15m";
}

std::string refusal_json(const broker::CountedRefusal& refusal, const broker::View& view) {
  JsonObject object;
  object.number("count", refusal.count).text("operation", refusal.operation).text("path", refusal.path);
  object.text("rule", refusal.rule);
  if (refusal.operation == "connect") {
    object.text("lift", lift_of_connection(refusal, *view.network));
    return object.end();
  }
  const auto path = WorkspacePath::parse(refusal.path);
  const auto operation = refusal.operation == "write" ? Operation::write : Operation::read;
  if (!path) return object.end();
  const auto decision = view.snapshot->decide(*path);
  return object.text("lift", policy::lifting_command(*view.snapshot, *path, operation, decision)).end();
}

}  // namespace

void JsonObject::key(const char* name) {
  if (out_.size() > 1) out_ += ',';
  out_ += '"';
  out_ += name;
  out_ += "\":";
}

JsonObject& JsonObject::text(const char* name, std::string_view bytes) {
  key(name);
  protocol::append_bytes(out_, bytes);
  return *this;
}
JsonObject& JsonObject::number(const char* name, std::uint64_t value) {
  key(name);
  protocol::append_number(out_, value);
  return *this;
}
JsonObject& JsonObject::flag(const char* name, bool value) {
  key(name);
  out_ += value ? "true" : "false";
  return *this;
}
JsonObject& JsonObject::raw(const char* name, std::string_view json) {
  key(name);
  out_ += json;
  return *this;
}

std::string json_text(std::string_view bytes) {
  std::string out;
  protocol::append_bytes(out, bytes);
  return out;
}

std::string rfc3339(std::chrono::system_clock::time_point at) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(at);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

namespace {
void add_expiry(JsonObject& object, std::chrono::system_clock::time_point expires) {
  object.text("expires", rfc3339(expires));
  const auto left = std::chrono::ceil<std::chrono::seconds>(expires - std::chrono::system_clock::now());
  object.number("seconds_left", static_cast<std::uint64_t>(std::max<std::int64_t>(left.count(), 0)));
}
}  // namespace

std::string grant_json(const std::string& session, const LiveGrant& live) {
  const policy::Grant& grant = live.grant;
  JsonObject object;
  object.text("id", grant.id).text("session", session).text("effect", policy::name_of(grant.effect));
  object.text("path", shown_to_agent(grant.path)).raw("operations", operations_json(grant.operations));
  object.text("made", rfc3339(live.made));
  if (grant.expires) add_expiry(object, *grant.expires);
  if (grant.once) object.flag("once", true).flag("used", live.used);
  if (grant.override_deny) object.flag("override_deny", true);
  if (!grant.because.empty()) object.text("because", grant.because);
  if (!live.from.empty()) object.text("from", live.from);
  return object.end();
}

std::string domain_json(const std::string& session, const broker::LiveDomain& live) {
  JsonObject object;
  object.text("id", live.rule.id).text("session", session).text("effect", policy::name_of(live.rule.effect));
  object.text("path", live.rule.pattern.text()).raw("operations", "[\"connect\"]");
  object.text("tls", policy::name_of(live.rule.tls)).text("made", rfc3339(live.made));
  if (live.expires) add_expiry(object, *live.expires);
  if (!live.rule.because.empty()) object.text("because", live.rule.because);
  return object.end();
}

std::string revoke_json(const broker::RevokeOutcome& outcome) {
  const broker::Finality& finality = outcome.finality;
  JsonObject object;
  object.raw("ended", ended_list(outcome.ended, outcome.domains_ended));
  object.raw("denied", ended_list(outcome.denied, outcome.domains_denied));
  object.raw("lifted", ended_list(outcome.lifted, outcome.domains_lifted));
  object.raw("overruled", json_array(outcome.overruled, json_text));
  object.number("handles_closed", finality.handles_closed);
  object.flag("flushed", finality.flushed).flag("drained", finality.drained).flag("acknowledged", finality.acknowledged);
  object.number("tunnels_cut", finality.tunnels_cut);
  object.number("connections_cut", finality.connections_cut).flag("sandbox_killed", finality.sandbox_killed);
  object.raw("milliseconds", milliseconds_text(finality.milliseconds));
  object.flag("recorded", outcome.recorded);
  if (!outcome.recorded) object.text("not_recorded", outcome.not_recorded);
  return object.end();
}

std::string session_json(Session& session) {
  const broker::ChangeTurn turn = session.take_turn();
  const auto view = session.view();
  const broker::HiddenFiles hidden = broker::find_hidden(*view);
  return JsonObject()
      .text("name", session.name())
      .text("root", session.options().root)
      .text("socket_directory", session.options().socket_directory)
      .text("socket", session.socket())
      .raw("exports", exports_json(*view, session.policy().rules))
      .raw("hidden", json_array(hidden.first, [](const WorkspacePath& path) { return json_text(path.bytes()); }))
      .number("hidden_count", hidden.count)
      .flag("hidden_complete", hidden.complete)
      .raw("network", network_json(*view->network))
      .flag("offline", view->network->offline())
      .end();
}

std::string session_status_json(Session& session, broker::GrantStore& grants) {
  const auto view = session.view();
  std::size_t allows = 0, denies = 0;
  for (const LiveGrant& live : grants.of(session.name()))
    ++(live.grant.effect == policy::Effect::allow ? allows : denies);
  JsonObject object;
  object.text("name", session.name()).text("root", session.options().root);
  if (session.options().policy) object.text("policy", *session.options().policy);
  object.text("socket", session.socket()).number("generation", view->snapshot->generation());
  object.number("grants", allows).number("denies", denies);
  object.number("connections", session.front().connections()).number("tunnels", session.egress().tunnels());
  object.raw("network", network_json(*view->network)).flag("offline", view->network->offline());
  object.number("listeners", session.events().subscribers());
  object.number("open_handles", session.files().open_handles());
  if (const auto sandbox = session.sandbox())
    object.number("sandbox", static_cast<std::uint64_t>(sandbox->pid())).flag("sandbox_alive", sandbox->alive());
  if (const auto mount = session.mount()) {
    JsonObject requests;
    for (const auto& [name, count] : mount->front().requests()) requests.number(name.c_str(), count);
    object.raw("mount", JsonObject()
                            .number("connection", mount->connection())
                            .flag("serving", !mount->ended())
                            .flag("outlives_broker", mount->front().state_kept())
                            .number("nodes", mount->front().nodes())
                            .raw("requests", requests.end())
                            .end());
  }
  const broker::Counts counts = session.counts().counts();
  object.number("read", counts.read).number("changed", counts.changed).number("refused", counts.refusals);
  return object.end();
}

std::string report_json(Session& session) {
  broker::Counts counts = session.counts().counts();
  const auto view = session.view();
  if (counts.refused.size() > kMaxRefusalsTold) counts.refused.resize(kMaxRefusalsTold);
  return JsonObject()
      .text("name", session.name())
      .number("read", counts.read)
      .number("changed", counts.changed)
      .number("bytes_read", counts.bytes_read)
      .number("bytes_written", counts.bytes_written)
      .number("connections", counts.connections)
      .number("received", counts.received)
      .number("sent", counts.sent)
      .number("refusals", counts.refusals)
      .raw("refused", json_array(counts.refused, [&](const auto& refusal) { return refusal_json(refusal, *view); }))
      .raw("created_guarded", json_array(session.files().created_guarded(),
                                         [](const WorkspacePath& path) { return json_text(path.bytes()); }))
      .end();
}

std::string audit_json(const audit::AuditStatus& status, const std::string& directory) {
  JsonObject object;
  object.text("directory", directory).flag("writing", status.writing);
  if (!status.problem.empty()) object.text("problem", status.problem);
  object.number("appended", status.appended).number("durable", status.durable).text("head", status.head);
  object.number("signed_to", status.signed_to);
  if (!status.head_problem.empty()) object.text("head_problem", status.head_problem);
  object.number("refused", status.refused).number("over_quota", status.over_quota);
  return object.end();
}

}  // namespace fbroker::control
