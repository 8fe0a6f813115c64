#include "broker/sessions/hosts_json.h"

#include <nlohmann/json.hpp>

namespace fbroker::broker {

using nlohmann::json;
using policy::HostRule;
using protocol::FieldReader;

namespace {

constexpr std::size_t kMaxId = 100;

Result<HostRule> host_rule(const std::string& host, const std::string& tls, const std::string& instead) {
  if (!instead.empty()) return policy::alias_rule(host, instead);
  HostRule rule;
  FBROKER_TRY(rule.pattern, policy::HostPattern::parse(host));
  const auto check = policy::tls_check_named(tls.empty() ? "sni" : tls);
  if (!check) return Error{"tls", "is none of \"sni\", \"no-sni\" and \"off\""};
  rule.tls = *check;
  return rule;
}

}  // namespace

void append_hosts(std::string& out, const std::vector<HostRule>& hosts) {
  const auto text = [&](const char* name, std::string_view value) {
    out += name;
    protocol::append_bytes(out, value);
  };
  out += '[';
  for (const HostRule& rule : hosts) {
    if (&rule != &hosts.front()) out += ',';
    text("{\"id\":", rule.id);
    // An alias is read back with its port; a plain host's default is left out.
    text(",\"host\":", rule.instead ? policy::Endpoint{rule.pattern.host, rule.pattern.port}.text() : rule.pattern.text());
    if (rule.instead) text(",\"instead\":", rule.instead->text());
    else text(",\"tls\":", policy::name_of(rule.tls));
    out += '}';
  }
  out += ']';
}

Result<std::vector<HostRule>, protocol::WireError> read_hosts(const json& list, const std::string& prefix) {
  std::vector<HostRule> hosts;
  if (list.size() > kMaxHosts) return protocol::WireError{prefix, "more than 1000 hosts"};
  for (const json& object : list) {
    const std::string at = prefix + "." + std::to_string(hosts.size());
    if (!object.is_object()) return protocol::WireError{at, "not an object"};
    FieldReader fields(object, at);
    const std::string id = fields.text("id"), host = fields.text("host");
    const std::string tls = fields.has("tls") ? fields.text("tls") : "";
    const std::string instead = fields.has("instead") ? fields.text("instead") : "";
    if (id.empty() || id.size() > kMaxId) fields.refuse("id", "expected 1 to 100 bytes");
    FBROKER_TRY_VOID(fields.finish());
    auto rule = host_rule(host, tls, instead);
    if (!rule) return protocol::WireError{at + ".host", rule.error().text()};
    rule->id = id;
    hosts.push_back(std::move(*rule));
  }
  return hosts;
}

}  // namespace fbroker::broker
