#include "broker/grants/grant_store.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "broker/protocol/wire_json.h"
#include "broker/sessions/runtime_dir.h"

namespace fbroker::broker {

using nlohmann::json;
using protocol::FieldReader;
using std::chrono::milliseconds;
using std::chrono::system_clock;

namespace {

constexpr const char* kFile = "grants.json";
constexpr std::uint64_t kVersion = 1;
constexpr std::uint64_t kLastNumber = 1ull << 53;

std::uint64_t to_ms(system_clock::time_point at) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<milliseconds>(at.time_since_epoch()).count());
}
system_clock::time_point from_ms(std::uint64_t ms) {
  return system_clock::time_point(milliseconds(static_cast<std::int64_t>(ms)));
}

// --- to JSON ------------------------------------------------------------

void append_field(std::string& out, const char* name) {
  out += ",\"";
  out += name;
  out += "\":";
}

void append_grant(std::string& out, const LiveGrant& live) {
  const policy::Grant& grant = live.grant;
  out += "{\"order\":" + std::to_string(grant.order);
  append_field(out, "effect");
  protocol::append_text(out, policy::name_of(grant.effect));
  append_field(out, "path");
  protocol::append_bytes(out, grant.path.bytes());
  append_field(out, "operations");
  protocol::append_number(out, grant.operations.bits());
  append_field(out, "made");
  protocol::append_number(out, to_ms(live.made));
  if (grant.expires) append_field(out, "expires"), protocol::append_number(out, to_ms(*grant.expires));
  if (grant.override_deny) append_field(out, "override_deny"), out += "true";
  if (grant.once) append_field(out, "once"), out += "true";
  if (!grant.because.empty()) append_field(out, "because"), protocol::append_bytes(out, grant.because);
  if (!live.from.empty()) append_field(out, "from"), protocol::append_bytes(out, live.from);
  out += '}';
}

void append_domain(std::string& out, const LiveDomain& live) {
  const policy::HostRule& rule = live.rule;
  out += "{\"order\":" + std::to_string(rule.order);
  append_field(out, "effect");
  protocol::append_text(out, policy::name_of(rule.effect));
  append_field(out, "host");
  protocol::append_text(out, rule.pattern.text());
  if (rule.pattern.port == 0) append_field(out, "any_port"), out += "true";
  append_field(out, "tls");
  protocol::append_text(out, policy::name_of(rule.tls));
  append_field(out, "made");
  protocol::append_number(out, to_ms(live.made));
  if (live.expires) append_field(out, "expires"), protocol::append_number(out, to_ms(*live.expires));
  if (!rule.because.empty()) append_field(out, "because"), protocol::append_bytes(out, rule.because);
  out += '}';
}

template <class Live, class Kept>
void append_lists(std::string& out, const std::map<std::string, std::vector<Live>>& sessions, Kept is_kept,
                  void (*append)(std::string&, const Live&)) {
  const char* before_session = "\n";
  for (const auto& [name, list] : sessions) {
    if (list.empty()) continue;
    out += std::exchange(before_session, ",\n");
    protocol::append_text(out, name);
    out += ":[";
    const char* before = "\n ";
    for (const Live& live : list) {
      if (!is_kept(live)) continue;
      out += std::exchange(before, ",\n ");
      append(out, live);
    }
    out += ']';
  }
}

// --- from JSON ----------------------------------------------------------

std::optional<policy::Effect> effect_named(const std::string& name) {
  if (name == policy::name_of(policy::Effect::allow)) return policy::Effect::allow;
  if (name == policy::name_of(policy::Effect::deny)) return policy::Effect::deny;
  return std::nullopt;
}

policy::OperationSet operations_from(std::uint64_t bits, FieldReader& reader) {
  policy::OperationSet set;
  if (bits == 0 || bits >= 1ull << policy::kOperations) reader.refuse("operations", "not a set of operations");
  for (std::size_t i = 0; i < policy::kOperations; ++i)
    if ((bits >> i & 1) != 0) set.add(static_cast<policy::Operation>(i));
  return set;
}

Result<LiveGrant, protocol::WireError> read_grant(const json& object, const std::string& prefix) {
  FieldReader reader(object, prefix);
  LiveGrant live;
  policy::Grant& grant = live.grant;
  grant.order = reader.number("order");
  const auto effect = effect_named(reader.text("effect"));
  if (!effect) reader.refuse("effect", "neither \"allow\" nor \"deny\"");
  const auto path = WorkspacePath::parse(reader.bytes("path"));
  if (!path) reader.refuse("path", "not a workspace path");
  grant.operations = operations_from(reader.number("operations"), reader);
  live.made = from_ms(reader.number("made"));
  if (reader.has("expires")) grant.expires = from_ms(reader.number("expires"));
  if (reader.has("override_deny")) grant.override_deny = reader.boolean("override_deny");
  if (reader.has("once")) grant.once = reader.boolean("once");
  if (reader.has("because")) grant.because = reader.bytes("because");
  if (reader.has("from")) live.from = reader.bytes("from");
  FBROKER_TRY_VOID(reader.finish());
  if (!live.from.empty() && !live.from.starts_with('/'))
    return protocol::WireError{prefix + ".from", "not an absolute path"};
  grant.effect = *effect;
  grant.path = *path;
  grant.id = (grant.effect == policy::Effect::allow ? "g" : "r") + std::to_string(grant.order);
  return live;
}

Result<LiveDomain, protocol::WireError> read_domain(const json& object, const std::string& prefix) {
  FieldReader reader(object, prefix);
  LiveDomain live;
  policy::HostRule& rule = live.rule;
  rule.order = reader.number("order");
  const auto effect = effect_named(reader.text("effect"));
  if (!effect) reader.refuse("effect", "neither \"allow\" nor \"deny\"");
  const bool any_port = reader.has("any_port") && reader.boolean("any_port");
  auto pattern = policy::HostPattern::parse(reader.text("host"), any_port ? 0 : policy::kHttpsPort);
  if (!pattern) reader.refuse("host", pattern.error().what);
  const auto tls = policy::tls_check_named(reader.text("tls"));
  if (!tls) reader.refuse("tls", "none of \"sni\", \"no-sni\" and \"off\"");
  live.made = from_ms(reader.number("made"));
  if (reader.has("expires")) live.expires = from_ms(reader.number("expires"));
  if (reader.has("because")) rule.because = reader.bytes("because");
  FBROKER_TRY_VOID(reader.finish());
  rule.effect = *effect;
  rule.pattern = std::move(*pattern);
  rule.tls = *tls;
  rule.id = (rule.effect == policy::Effect::allow ? "g" : "r") + std::to_string(rule.order);
  return live;
}

std::uint64_t order_of(const LiveGrant& live) { return live.grant.order; }
std::uint64_t order_of(const LiveDomain& live) { return live.rule.order; }

// A session's list, each entry read by `read`.
template <class Live>
Result<std::vector<Live>, protocol::WireError> read_session(const json& list, const std::string& where,
                                                            std::uint64_t next,
                                                            Result<Live, protocol::WireError> (*read)(const json&, const std::string&)) {
  if (!list.is_array()) return protocol::WireError{where, "not a list of grants"};
  std::vector<Live> grants;
  for (const json& object : list) {
    const std::string at = where + "." + std::to_string(grants.size());
    if (!object.is_object()) return protocol::WireError{at, "not an object"};
    FBROKER_TRY(Live grant, read(object, at));
    const std::uint64_t last = grants.empty() ? 0 : order_of(grants.back());
    if (order_of(grant) <= last || order_of(grant) >= next)
      return protocol::WireError{at + ".order", "does not count up"};
    grants.push_back(std::move(grant));
  }
  return grants;
}

// Every session's list below `sessions`.
template <class Live>
Result<void, protocol::WireError> read_all(const json& sessions, const std::string& field, std::uint64_t next,
                                           Result<Live, protocol::WireError> (*read)(const json&, const std::string&),
                                           std::map<std::string, std::vector<Live>>& into) {
  for (const auto& [name, list] : sessions.items()) {
    const std::string where = field + "." + name;
    if (!is_session_name(name)) return protocol::WireError{where, "not a session's name"};
    FBROKER_TRY(into[name], read_session(list, where, next, read));
  }
  return ok;
}

}  // namespace

Result<std::unique_ptr<GrantStore>> GrantStore::open(const StateDir& state) {
  auto store = std::unique_ptr<GrantStore>(new GrantStore(state));
  FBROKER_TRY_VOID(store->load());
  return store;
}

Result<void> GrantStore::load() {
  const std::lock_guard lock(mutex_);
  FBROKER_TRY(const auto text, state_.read(kFile, kMaxFileBytes));
  if (!text) return ok;
  const auto refused = [&](const protocol::WireError& error) {
    return Error{state_.path() + "/" + kFile,
                 error.text() + "; move the file away to start without its grants"};
  };
  const auto document = protocol::parse_strict(*text, {.bytes = kMaxFileBytes, .depth = 8});
  if (!document) return refused(document.error());
  if (!document->is_object()) return refused({"", "not an object"});
  FieldReader reader(*document);
  if (reader.number("version") != kVersion) reader.refuse("version", "not 1");
  next_ = reader.number("next");
  if (next_ == 0 || next_ > kLastNumber) reader.refuse("next", "not a count");
  const json* sessions = reader.object("sessions");
  const json* domains = reader.has("domains") ? reader.object("domains") : nullptr;
  if (const auto done = reader.finish(); !done) return refused(done.error());
  if (auto read = read_all(*sessions, "sessions", next_, &read_grant, sessions_); !read) return refused(read.error());
  if (domains == nullptr) return ok;
  if (auto read = read_all(*domains, "domains", next_, &read_domain, domains_); !read) return refused(read.error());
  return ok;
}

Result<void> GrantStore::write() {
  std::string out = "{\"version\":" + std::to_string(kVersion) + ",\"next\":" + std::to_string(next_) +
                    ",\"sessions\":{";
  append_lists(out, sessions_, [](const LiveGrant& live) { return !live.used; }, &append_grant);
  out += "},\"domains\":{";
  append_lists(out, domains_, [](const LiveDomain&) { return true; }, &append_domain);
  out += "}}\n";
  if (out.size() > kMaxFileBytes) return Error{kFile, "the grants outgrew their file; revoke some"};
  return state_.replace(kFile, out);
}

std::string GrantStore::next_id(policy::Effect effect, std::uint64_t& order) {
  order = next_++;
  return (effect == policy::Effect::allow ? "g" : "r") + std::to_string(order);
}

LiveGrant GrantStore::numbered(LiveGrant live) {
  live.grant.id = next_id(live.grant.effect, live.grant.order);
  return live;
}

LiveDomain GrantStore::numbered(LiveDomain live) {
  live.rule.id = next_id(live.rule.effect, live.rule.order);
  return live;
}

template <class Live>
Result<Live> GrantStore::add_to(std::vector<Live>& list, Live live, const std::string& session) {
  if (list.size() >= kMaxGrants)
    return Error{session, "has " + std::to_string(kMaxGrants) + " grants already; revoke some"};
  list.push_back(numbered(std::move(live)));
  if (auto written = write(); !written) {
    list.pop_back();  // its number stays used
    return written.error();
  }
  return list.back();
}

std::vector<LiveGrant> GrantStore::of(const std::string& session) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? std::vector<LiveGrant>() : found->second;
}

Result<LiveGrant> GrantStore::add(const std::string& session, LiveGrant grant) {
  const std::lock_guard lock(mutex_);
  return add_to(sessions_[session], std::move(grant), session);
}

std::vector<LiveDomain> GrantStore::domains_of(const std::string& session) const {
  const std::lock_guard lock(mutex_);
  const auto found = domains_.find(session);
  return found == domains_.end() ? std::vector<LiveDomain>() : found->second;
}

Result<LiveDomain> GrantStore::add(const std::string& session, LiveDomain domain) {
  const std::lock_guard lock(mutex_);
  return add_to(domains_[session], std::move(domain), session);
}

LiveDomain GrantStore::add_unstored(const std::string& session, LiveDomain domain) {
  const std::lock_guard lock(mutex_);
  return domains_[session].emplace_back(numbered(std::move(domain)));
}

LiveGrant GrantStore::add_unstored(const std::string& session, LiveGrant grant) {
  const std::lock_guard lock(mutex_);
  return sessions_[session].emplace_back(numbered(std::move(grant)));
}

void GrantStore::end_unstored(const std::string& session, const std::vector<std::string>& ids) {
  const std::lock_guard lock(mutex_);
  const auto is_named = [&](const std::string& id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
  std::erase_if(sessions_[session], [&](const LiveGrant& live) { return is_named(live.grant.id); });
  std::erase_if(domains_[session], [&](const LiveDomain& live) { return is_named(live.rule.id); });
}

Result<void> GrantStore::use_up(const std::string& session, const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return ok;   // ended meanwhile, and not by being used
  for (LiveGrant& live : found->second)
    if (live.grant.id == id && !std::exchange(live.used, true)) return write();
  return ok;
}

void GrantStore::forget_session(const std::string& session) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(session);
  domains_.erase(session);
}

Result<void> GrantStore::store() {
  const std::lock_guard lock(mutex_);
  return write();
}

std::optional<system_clock::time_point> GrantStore::next_expiry(const std::string& session) const {
  const std::lock_guard lock(mutex_);
  std::optional<system_clock::time_point> next;
  const auto consider = [&](const std::optional<system_clock::time_point>& expires) {
    if (expires && (!next || *expires < *next)) next = expires;
  };
  if (const auto found = sessions_.find(session); found != sessions_.end())
    for (const LiveGrant& live : found->second) consider(live.grant.expires);
  if (const auto found = domains_.find(session); found != domains_.end())
    for (const LiveDomain& live : found->second) consider(live.expires);
  return next;
}

}  // namespace fbroker::broker
