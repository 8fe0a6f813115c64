// What the control socket says of grants, sessions and reports, as JSON text.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "broker/grants/changes.h"
#include "broker/sessions/session.h"

namespace fbroker::control {

// Builds one JSON object; values in the order in which they are added.
class JsonObject {
 public:
  JsonObject& text(const char* name, std::string_view bytes);   // {"b64"} where not UTF-8
  JsonObject& number(const char* name, std::uint64_t value);
  JsonObject& flag(const char* name, bool value);
  JsonObject& raw(const char* name, std::string_view json);
  std::string end() { return out_ + '}'; }

 private:
  void key(const char* name);
  std::string out_ = "{";
};

// "[a,b]" of what `each` makes of the items.
template <class Items, class Each>
std::string json_array(const Items& items, Each each) {
  std::string out = "[";
  for (const auto& item : items) {
    if (out.size() > 1) out += ',';
    out += each(item);
  }
  return out + ']';
}
std::string json_text(std::string_view bytes);

std::string rfc3339(std::chrono::system_clock::time_point at);   // UTC, whole seconds

std::string domain_json(const std::string& session, const broker::LiveDomain& live);
std::string grant_json(const std::string& session, const broker::LiveGrant& live);
std::string revoke_json(const broker::RevokeOutcome& outcome);
// With the files that the policy hides (a bounded walk).
std::string session_json(broker::Session& session);
std::string session_status_json(broker::Session& session, broker::GrantStore& grants);
std::string report_json(broker::Session& session);
std::string audit_json(const audit::AuditStatus& status, const std::string& directory);

}  // namespace fbroker::control
