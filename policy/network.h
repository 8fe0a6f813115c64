// Which hosts an agent may reach, and why. Pure: names are compared here,
// never resolved.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/address.h"
#include "policy/base/result.h"
#include "policy/model.h"

namespace fbroker::policy {

inline constexpr std::uint16_t kHttpsPort = 443;
inline constexpr std::uint16_t kHttpPort = 80;

// A host as a client names it, in the only spelling used from here on.
// Invariant: a name is letters, digits and hyphens in labels of 1 to 63 bytes,
//   none beginning or ending with a hyphen, lower case, at most 253 bytes, no
//   trailing dot, and its last label is not a number; an address is written as
//   inet_ntop(3) does, without brackets.
class Host {
 public:
  // ATTACK: every other spelling of an address ("127.1", "0x7f000001",
  //   "2130706433", "017700000001", "::ffff:127.0.0.1" in capitals) is read
  //   differently by somebody: a host whose last label is a number is refused
  //   unless it is an address in its one spelling (WHATWG URL, "ends in a number").
  static Result<Host> parse(std::string_view text);

  const std::string& text() const noexcept { return text_; }
  const std::optional<Address>& address() const noexcept { return address_; }
  bool is_name() const noexcept { return !address_.has_value(); }
  // Whether it is a name below `name`, not that name itself.
  bool is_below(std::string_view name) const noexcept;

  friend bool operator==(const Host&, const Host&) = default;

 private:
  std::string text_;
  std::optional<Address> address_;
};

// "host:port", "[v6]:port". No user, no path; the port is decimal, 1 to 65535.
struct Endpoint {
  Host host;
  std::uint16_t port = 0;

  // Without a port in `text` it is `port`; 0: there must be one.
  static Result<Endpoint> parse(std::string_view text, std::uint16_t port = 0);
  std::string text() const;
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

// What of a connection's first bytes is looked at.
enum class TlsCheck : std::uint8_t {   // the strictest first
  sni,       // a TLS ClientHello whose server name is the host asked for
  no_sni,    // a TLS ClientHello that names that host or none
  off,       // anything
};
std::string_view name_of(TlsCheck check) noexcept;
std::optional<TlsCheck> tls_check_named(std::string_view name) noexcept;

// "api.example.com", "*.example.com" (what is below it, not itself), each with
// or without ":port"; a public address.
struct HostPattern {
  Host host;                    // of "*.example.com" what follows the "*."
  bool subdomains = false;
  std::uint16_t port = kHttpsPort;   // 0: every port (session denies alone)

  // `port`: where the text names none.
  static Result<HostPattern> parse(std::string_view text, std::uint16_t port = kHttpsPort);
  bool matches(const Host& host, std::uint16_t port) const noexcept;
  bool covers(const HostPattern& other) const noexcept;   // whatever `other` matches, too
  bool meets(const HostPattern& other) const noexcept;    // something matches both
  std::string text() const;     // without ":443"
  friend bool operator==(const HostPattern&, const HostPattern&) = default;
};

// An entry of what may be reached: out of the policy, an agent's profile, or
// (order > 0) a person's grant or revoke.
struct HostRule {
  std::string id = {};               // "policy:/network/allow/0", "agent:claude", "g4", …
  Effect effect = Effect::allow;
  HostPattern pattern = {};
  TlsCheck tls = TlsCheck::sni;
  // An alias: what is connected to instead, unresolved and unchecked.
  std::optional<Endpoint> instead = {};
  std::string because = {};
  std::uint64_t order = 0;
};

// "llm.local:11434" -> "127.0.0.1:11434": a service of the person's own, which
// needs no public address. `target` is an address, not a name: it is connected to as it is.
Result<HostRule> alias_rule(std::string_view name, std::string_view target);

struct NetworkDecision {
  bool allowed = false;
  std::string rule = {};         // its id; "default", "offline"
  std::string because = {};
  TlsCheck tls = TlsCheck::sni;
  std::optional<Endpoint> instead = {};
};

// Threads: immutable; every member from any thread.
class NetworkRules {
 public:
  NetworkRules() = default;
  // `offline`: nothing is allowed, whatever the rules say.
  NetworkRules(std::vector<HostRule> rules, bool offline);

  // The matching entry of the highest order wins; of the same order the most
  // exact one. No match is a deny.
  NetworkDecision decide(const Host& host, std::uint16_t port) const;

  bool offline() const noexcept { return offline_; }
  const std::vector<HostRule>& rules() const noexcept { return rules_; }

 private:
  std::vector<HostRule> rules_;   // the one that wins first
  bool offline_ = false;
};

}  // namespace fbroker::policy
