#include "policy/network.h"

#include <algorithm>
#include <charconv>

#include "policy/words.h"

namespace fbroker::policy {
namespace {

constexpr std::size_t kMaxHost = 253;
constexpr std::size_t kMaxLabel = 63;

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_ldh(char c) { return (c >= 'a' && c <= 'z') || is_digit(c) || c == '-'; }
constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

Error refused(std::string_view text, std::string_view why) {
  return Error{in_quotes(text.substr(0, 300)), std::string(why)};
}

bool all_of_label(std::string_view label, bool (*is)(char)) { return std::ranges::all_of(label, is); }

// Decimal, or 0x and hexadecimal: what inet_aton(3) and its kin would take.
bool is_numeric(std::string_view label) {
  if (all_of_label(label, [](char c) { return is_digit(c); })) return true;
  if (!label.starts_with("0x")) return false;
  return all_of_label(label.substr(2), [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); });
}

const char* fault_of_label(std::string_view label) {
  if (label.empty()) return "is no host name: a label is empty (a dot at the end or two in a row)";
  if (label.size() > kMaxLabel) return "is no host name: a label is longer than 63 bytes";
  if (!all_of_label(label, [](char c) { return is_ldh(c); }))
    return "is no host name: expected letters, digits, \"-\" and \".\" (names in other scripts as xn--…)";
  if (label.front() == '-' || label.back() == '-') return "is no host name: a label begins or ends with \"-\"";
  return nullptr;
}

const char* fault_of_name(std::string_view name) {
  if (name.empty()) return "is no host name: it is empty";
  if (name.size() > kMaxHost) return "is no host name: it is longer than 253 bytes";
  std::string_view label;
  for (std::size_t at = 0; at <= name.size(); at += label.size() + 1) {
    label = name.substr(at, std::min(name.find('.', at), name.size()) - at);
    if (const char* fault = fault_of_label(label)) return fault;
  }
  if (is_numeric(label)) return "is an address in a spelling that is not used here; expected its plain one";
  return nullptr;
}

Result<std::uint16_t> parse_port(std::string_view whole, std::string_view text) {
  unsigned port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || text.starts_with('0') || port > 65535)
    return refused(whole, "has no port from 1 to 65535 behind the \":\"");
  return static_cast<std::uint16_t>(port);
}

struct HostAndPort {
  std::string_view host;                // without brackets
  bool bracketed = false;
  std::optional<std::string_view> port;
};

Result<HostAndPort> split(std::string_view text) {
  HostAndPort parts;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == text.npos) return refused(text, "has no closing \"]\"");
    parts.host = text.substr(1, close - 1);
    parts.bracketed = true;
    text.remove_prefix(close + 1);
    if (!text.empty() && !text.starts_with(':')) return refused(text, "stands behind the \"]\"; expected \":PORT\"");
  } else {
    parts.host = text.substr(0, text.find(':'));
    text.remove_prefix(parts.host.size());
  }
  if (!text.empty()) parts.port = text.substr(1);
  return parts;
}

std::string with_port(const Host& host, std::uint16_t port) {
  const bool v6 = host.address() && host.address()->is_v6();
  return (v6 ? "[" + host.text() + "]" : host.text()) + ":" + std::to_string(port);
}

}  // namespace

Result<Host> Host::parse(std::string_view text) {
  Host host;
  host.address_ = Address::parse(text);
  if (host.address_) {
    host.text_ = host.address_->text();
    if (host.text_ != text) return refused(text, "is written " + in_quotes(host.text_) + " here");
    return host;
  }
  host.text_.assign(text);
  std::ranges::transform(host.text_, host.text_.begin(), lower);
  if (const char* fault = fault_of_name(host.text_)) return refused(text, fault);
  return host;
}

bool Host::is_below(std::string_view name) const noexcept {
  return is_name() && text_.size() > name.size() + 1 && text_.ends_with(name) &&
         text_[text_.size() - name.size() - 1] == '.';
}

Result<Endpoint> Endpoint::parse(std::string_view text, std::uint16_t port) {
  FBROKER_TRY(const HostAndPort parts, split(text));
  Endpoint endpoint;
  FBROKER_TRY(endpoint.host, Host::parse(parts.host));
  if (parts.bracketed != (endpoint.host.address() && endpoint.host.address()->is_v6()))
    return refused(text, parts.bracketed ? "has brackets around what is no IPv6 address" : "is an IPv6 address; expected \"[…]\" around it");
  if (!parts.port && port == 0) return refused(text, "names no port; expected HOST:PORT");
  endpoint.port = port;
  if (parts.port) {
    FBROKER_TRY(endpoint.port, parse_port(text, *parts.port));
  }
  return endpoint;
}

std::string Endpoint::text() const { return with_port(host, port); }

std::string_view name_of(TlsCheck check) noexcept {
  switch (check) {
    case TlsCheck::sni: return "sni";
    case TlsCheck::no_sni: return "no-sni";
    case TlsCheck::off: return "off";
  }
  return "";
}

std::optional<TlsCheck> tls_check_named(std::string_view name) noexcept {
  for (const TlsCheck check : {TlsCheck::sni, TlsCheck::no_sni, TlsCheck::off})
    if (name_of(check) == name) return check;
  return std::nullopt;
}

// ---- patterns ----------------------------------------------------------------

Result<HostPattern> HostPattern::parse(std::string_view text, std::uint16_t port) {
  if (text.find('/') != text.npos) return refused(text, "is no host; expected its name alone, as in \"api.example.com\" or \"example.com:8443\"");
  HostPattern pattern;
  pattern.subdomains = text.starts_with("*.");
  const std::string_view name = pattern.subdomains ? text.substr(2) : text;
  if (name.find('*') != name.npos) return refused(text, "has a \"*\" that is not at the beginning, as in \"*.example.com\"");
  FBROKER_TRY(const HostAndPort parts, split(name));
  FBROKER_TRY(const Endpoint endpoint, Endpoint::parse(name, port == 0 ? kHttpsPort : port));
  pattern.host = endpoint.host;
  pattern.port = parts.port ? endpoint.port : port;
  if (pattern.subdomains && !pattern.host.is_name()) return refused(text, "is an address; \"*.\" is for names");
  if (pattern.subdomains && pattern.host.text().find('.') == std::string::npos)
    return refused(text, "would allow a whole top-level domain; name the domain, as in \"*.example.com\"");
  if (pattern.host.address() && !pattern.host.address()->is_public())
    return refused(text, "is not a public address; a service of this machine or network is reached by an alias "
                         "(\"aliases\": {\"NAME:PORT\": \"ADDRESS:PORT\"})");
  return pattern;
}

bool HostPattern::matches(const Host& asked, std::uint16_t asked_port) const noexcept {
  if (port != 0 && port != asked_port) return false;
  return subdomains ? asked.is_below(host.text()) : asked == host;
}

bool HostPattern::covers(const HostPattern& other) const noexcept {
  if (port != 0 && port != other.port) return false;
  if (!subdomains) return !other.subdomains && other.host == host;
  return other.host.is_below(host.text()) || (other.subdomains && other.host == host);
}

bool HostPattern::meets(const HostPattern& other) const noexcept {
  if (port != 0 && other.port != 0 && port != other.port) return false;
  if (!subdomains && !other.subdomains) return host == other.host;
  if (!subdomains) return host.is_below(other.host.text());
  if (!other.subdomains) return other.host.is_below(host.text());
  return host == other.host || host.is_below(other.host.text()) || other.host.is_below(host.text());
}

std::string HostPattern::text() const {
  const std::string star = subdomains ? "*." : "";
  if (port == 0) return star + host.text();
  std::string whole = star + with_port(host, port);
  if (port == kHttpsPort) whole.resize(whole.size() - std::string_view(":443").size());
  return whole;
}

Result<HostRule> alias_rule(std::string_view name, std::string_view target) {
  FBROKER_TRY(Endpoint from, Endpoint::parse(name));
  FBROKER_TRY(Endpoint to, Endpoint::parse(target));
  if (!from.host.is_name()) return refused(name, "is an address; an alias is a name, as in \"llm.local:11434\"");
  if (to.host.is_name()) return refused(target, "is a name; expected an address, as in \"127.0.0.1:11434\"");
  HostRule rule;
  rule.id = "alias:" + from.text();
  rule.pattern = {.host = std::move(from.host), .subdomains = false, .port = from.port};
  rule.tls = TlsCheck::off;
  rule.instead = std::move(to);
  return rule;
}

// ---- decisions ---------------------------------------------------------------

NetworkRules::NetworkRules(std::vector<HostRule> rules, bool offline) : rules_(std::move(rules)), offline_(offline) {
  // Later entries of a person's first. Then aliases, then whole names before
  // "*.": how much of a ClientHello is looked at is the most exact rule's to say.
  const auto exactness = [](const HostRule& rule) {
    if (rule.instead) return 2;
    return rule.pattern.subdomains ? 0 : 1;
  };
  std::ranges::stable_sort(rules_, [&](const HostRule& a, const HostRule& b) {
    if (a.order != b.order) return a.order > b.order;
    if (exactness(a) != exactness(b)) return exactness(a) > exactness(b);
    return a.pattern.host.text().size() > b.pattern.host.text().size();
  });
}

NetworkDecision NetworkRules::decide(const Host& host, std::uint16_t port) const {
  if (offline_) return {.rule = "offline", .because = "the session was started with --offline"};
  for (const HostRule& rule : rules_) {
    if (!rule.pattern.matches(host, port)) continue;
    return {rule.effect == Effect::allow, rule.id, rule.because, rule.tls, rule.instead};
  }
  return {.rule = "default", .because = "no rule allows this host and port"};
}

}  // namespace fbroker::policy
