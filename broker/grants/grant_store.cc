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

Result<std::vector<LiveGrant>, protocol::WireError> read_session(const json& list,
                                                                 const std::string& name,
                                                                 std::uint64_t next) {
  const std::string where = "sessions." + name;
  if (!is_session_name(name)) return protocol::WireError{where, "not a session's name"};
  if (!list.is_array()) return protocol::WireError{where, "not a list of grants"};
  std::vector<LiveGrant> grants;
  for (const json& object : list) {
    const std::string at = where + "." + std::to_string(grants.size());
    if (!object.is_object()) return protocol::WireError{at, "not an object"};
    FBROKER_TRY(LiveGrant grant, read_grant(object, at));
    const std::uint64_t last = grants.empty() ? 0 : grants.back().grant.order;
    if (grant.grant.order <= last || grant.grant.order >= next)
      return protocol::WireError{at + ".order", "does not count up"};
    grants.push_back(std::move(grant));
  }
  return grants;
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
  if (const auto done = reader.finish(); !done) return refused(done.error());
  for (const auto& [name, list] : sessions->items()) {
    auto grants = read_session(list, name, next_);
    if (!grants) return refused(grants.error());
    sessions_[name] = std::move(*grants);
  }
  return ok;
}

Result<void> GrantStore::write() {
  std::string out = "{\"version\":" + std::to_string(kVersion) + ",\"next\":" + std::to_string(next_) +
                    ",\"sessions\":{";
  bool first_session = true;
  for (const auto& [name, grants] : sessions_) {
    if (grants.empty()) continue;
    out += first_session ? "\n" : ",\n";
    first_session = false;
    protocol::append_text(out, name);
    out += ":[";
    const char* between = "\n ";
    for (const LiveGrant& live : grants) {
      if (live.used) continue;
      out += std::exchange(between, ",\n ");
      append_grant(out, live);
    }
    out += ']';
  }
  out += "}}\n";
  if (out.size() > kMaxFileBytes) return Error{kFile, "the grants outgrew their file; revoke some"};
  return state_.replace(kFile, out);
}

LiveGrant GrantStore::numbered(LiveGrant live) {
  live.grant.order = next_++;
  live.grant.id = (live.grant.effect == policy::Effect::allow ? "g" : "r") + std::to_string(live.grant.order);
  return live;
}

std::vector<LiveGrant> GrantStore::of(const std::string& session) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? std::vector<LiveGrant>() : found->second;
}

Result<LiveGrant> GrantStore::add(const std::string& session, LiveGrant grant) {
  const std::lock_guard lock(mutex_);
  auto& grants = sessions_[session];
  if (grants.size() >= kMaxGrants)
    return Error{session, "has " + std::to_string(kMaxGrants) + " grants already; revoke some"};
  grants.push_back(numbered(std::move(grant)));
  if (auto written = write(); !written) {
    grants.pop_back();  // its number stays used
    return written.error();
  }
  return grants.back();
}

LiveGrant GrantStore::add_unstored(const std::string& session, LiveGrant grant) {
  const std::lock_guard lock(mutex_);
  return sessions_[session].emplace_back(numbered(std::move(grant)));
}

void GrantStore::end_unstored(const std::string& session, const std::vector<std::string>& ids) {
  const std::lock_guard lock(mutex_);
  std::erase_if(sessions_[session], [&](const LiveGrant& live) {
    return std::find(ids.begin(), ids.end(), live.grant.id) != ids.end();
  });
}

bool GrantStore::mark_used(const std::string& session, const std::string& id) {
  const std::lock_guard lock(mutex_);
  for (LiveGrant& live : sessions_[session])
    if (live.grant.id == id) return !std::exchange(live.used, true);
  return false;
}

void GrantStore::forget_session(const std::string& session) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(session);
}

Result<void> GrantStore::store() {
  const std::lock_guard lock(mutex_);
  return write();
}

std::optional<system_clock::time_point> GrantStore::next_expiry(const std::string& session) const {
  const std::lock_guard lock(mutex_);
  std::optional<system_clock::time_point> next;
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return next;
  for (const LiveGrant& live : found->second)
    if (live.grant.expires && (!next || *live.grant.expires < *next)) next = live.grant.expires;
  return next;
}

}  // namespace fbroker::broker
