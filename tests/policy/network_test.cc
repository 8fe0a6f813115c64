// Hosts, addresses and which of them a policy lets an agent reach.
#include <gtest/gtest.h>

#include <string>

#include "policy/network.h"
#include "policy/policy.h"
#include "policy/presets.h"

namespace fbroker::policy {
namespace {

using namespace std::string_view_literals;

Host host(std::string_view text) { return Host::parse(text).value(); }
HostPattern pattern(std::string_view text) { return HostPattern::parse(text).value(); }
HostRule allow(std::string_view text, std::string id = "a") { return {.id = std::move(id), .pattern = pattern(text)}; }
HostRule entry(Effect effect, std::string_view text, std::uint64_t order) {
  return {.id = "e" + std::to_string(order), .effect = effect, .pattern = HostPattern::parse(text, 0).value(), .order = order};
}

// ---- names -----------------------------------------------------------------

TEST(Host, NamesAreLowerCaseAndAddressesInTheirOnePlainSpelling) {
  EXPECT_EQ(host("API.Example.COM").text(), "api.example.com");
  EXPECT_EQ(host("xn--bcher-kva.example").text(), "xn--bcher-kva.example");
  EXPECT_EQ(host("localhost").text(), "localhost");
  EXPECT_EQ(host("1e100.net").text(), "1e100.net");
  EXPECT_EQ(host("0x7f.example").text(), "0x7f.example");
  EXPECT_TRUE(host("93.184.216.34").address());
  EXPECT_TRUE(host("2606:2800:220:1::1").address());
  EXPECT_TRUE(Host::parse(std::string(63, 'a') + ".example"));
}

struct BadHost {
  const char* name;
  std::string_view text;
};
class HostRefuses : public testing::TestWithParam<BadHost> {};
TEST_P(HostRefuses, Spelling) { EXPECT_FALSE(Host::parse(GetParam().text)) << GetParam().text; }
INSTANTIATE_TEST_SUITE_P(, HostRefuses, testing::Values(
    BadHost{"Empty", ""}, BadHost{"TrailingDot", "example.com."}, BadHost{"LeadingDot", ".example.com"},
    BadHost{"TwoDots", "example..com"}, BadHost{"UserInfo", "allowed.com@evil.com"},
    BadHost{"Nul", "example.com\0.evil.com"sv}, BadHost{"Space", "example.com "}, BadHost{"Tab", "example\t.com"},
    BadHost{"Newline", "example.com\r\nx"}, BadHost{"Slash", "example.com/"}, BadHost{"Backslash", "example.com\\"},
    BadHost{"Brackets", "[example.com]"}, BadHost{"Percent", "example%2ecom"}, BadHost{"Underscore", "a_b.example.com"},
    BadHost{"Star", "*.example.com"}, BadHost{"Utf8", "b\xc3\xbc" "cher.example"}, BadHost{"FullWidthDot", "example\xef\xbc\x8e" "com"},
    BadHost{"HyphenFirst", "-a.example"}, BadHost{"HyphenLast", "a-.example"},
    BadHost{"Decimal", "2130706433"}, BadHost{"Short", "127.1"}, BadHost{"Octal", "0177.0.0.1"},
    BadHost{"Hex", "0x7f000001"}, BadHost{"HexParts", "0x7f.0x0.0x0.0x1"}, BadHost{"HexUpper", "0X7F.1"},
    BadHost{"LeadingZeros", "127.000.000.001"}, BadHost{"NumericEnd", "example.127"}, BadHost{"HexEnd", "example.0x"},
    BadHost{"FiveParts", "1.2.3.4.5"}, BadHost{"V6Capitals", "2001:DB8::1"}, BadHost{"V6Long", "0:0:0:0:0:0:0:1"},
    BadHost{"V6Mapped", "::FFFF:127.0.0.1"}, BadHost{"V6Zone", "fe80::1%lo"}, BadHost{"Colon", "a:b"}),
    [](const auto& c) { return c.param.name; });

TEST(Host, LabelsAndNamesHaveTheirLengths) {
  EXPECT_FALSE(Host::parse(std::string(64, 'a') + ".example"));
  std::string longest;
  while (longest.size() + 10 <= 253) longest += "abcdefghi.";
  longest += std::string(253 - longest.size(), 'z');
  EXPECT_TRUE(Host::parse(longest));
  EXPECT_FALSE(Host::parse(longest + "z"));
}

TEST(Endpoint, HasAPortOrTheOneGiven) {
  EXPECT_EQ(Endpoint::parse("example.com:8443")->text(), "example.com:8443");
  EXPECT_EQ(Endpoint::parse("example.com", 80)->port, 80);
  EXPECT_EQ(Endpoint::parse("[2606:2800:220:1::1]:443")->text(), "[2606:2800:220:1::1]:443");
  for (const auto bad : {"example.com", "example.com:", "example.com:0", "example.com:65536", "example.com:443x",
                         "example.com:0443", "example.com:+443", "example.com: 443", "example.com:443:443",
                         "user@example.com:443", "[example.com]:443", "[::1:443", "::1:443", "[2606:2800:220:1::1]443", ""})
    EXPECT_FALSE(Endpoint::parse(bad)) << bad;
}

// ---- addresses ---------------------------------------------------------------

TEST(Address, WhatTheWholeInternetKnowsIsPublic) {
  for (const auto text : {"1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255",
                          "172.32.0.0", "192.0.1.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
                          "2606:4700::1111", "2a00:1450:4001::1", "2003::1"})
    EXPECT_TRUE(Address::parse(text)->is_public()) << text;
}

TEST(Address, EverythingElseIsNot) {
  for (const auto text : {"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1",
                          "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1",
                          "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7",
                          "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
                          "::", "::1", "::127.0.0.1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "64:ff9b::8.8.8.8", "100::1",
                          "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "fc00::1", "fd12:3456::1", "fe80::1",
                          "fec0::1", "ff02::1", "5f00::1", "4000::1"})
    EXPECT_FALSE(Address::parse(text)->is_public()) << text;
}

TEST(Address, IsReadInNoOlderSpelling) {
  for (const auto text : {"127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "127.0.0.1 ", "[::1]", "fe80::1%lo", ""})
    EXPECT_FALSE(Address::parse(text)) << text;
}

// ---- patterns and decisions ----------------------------------------------------

TEST(HostPattern, AStarIsWhatIsBelowAndNotTheDomainItself) {
  const HostPattern star = pattern("*.example.com");
  EXPECT_TRUE(star.matches(host("api.example.com"), 443));
  EXPECT_TRUE(star.matches(host("a.b.example.com"), 443));
  EXPECT_FALSE(star.matches(host("example.com"), 443));
  EXPECT_FALSE(star.matches(host("evilexample.com"), 443));
  EXPECT_FALSE(star.matches(host("example.com.evil.com"), 443));
  EXPECT_FALSE(star.matches(host("api.example.com"), 80));
  EXPECT_TRUE(pattern("*.example.com:8443").matches(host("api.example.com"), 8443));
}

TEST(HostPattern, WhatIsNoneIsRefusedInWords) {
  for (const auto bad : {"*", "*.com", "a.*.com", "api*.example.com", "**.example.com", "https://example.com", "example.com/path",
                         "127.0.0.1:443", "[::1]:443", "10.0.0.1", "*.93.184.216.34", ""})
    EXPECT_FALSE(HostPattern::parse(bad)) << bad;
  EXPECT_NE(HostPattern::parse("https://example.com").error().what.find("its name alone"), std::string::npos);
  EXPECT_NE(HostPattern::parse("10.0.0.1").error().what.find("alias"), std::string::npos);
}

TEST(HostPattern, CoversAndMeets) {
  EXPECT_TRUE(pattern("*.example.com").covers(pattern("api.example.com")));
  EXPECT_TRUE(pattern("*.example.com").covers(pattern("*.api.example.com")));
  EXPECT_FALSE(pattern("*.example.com").covers(pattern("example.com")));
  EXPECT_FALSE(pattern("api.example.com").covers(pattern("*.example.com")));
  EXPECT_FALSE(pattern("example.com").covers(pattern("example.com:80")));
  EXPECT_TRUE(HostPattern::parse("example.com", 0)->covers(pattern("example.com:80")));
  EXPECT_TRUE(pattern("*.example.com").meets(pattern("*.api.example.com")));
  EXPECT_TRUE(pattern("*.api.example.com").meets(pattern("*.example.com")));
  EXPECT_FALSE(pattern("*.example.com").meets(pattern("*.example.org")));
  EXPECT_FALSE(pattern("example.com").meets(pattern("example.com:80")));
}

TEST(NetworkRules, NothingIsAllowedThatNoRuleNames) {
  EXPECT_FALSE(NetworkRules().decide(host("example.com"), 443).allowed);
  const NetworkRules rules({allow("api.example.com"), allow("*.example.org")}, false);
  EXPECT_TRUE(rules.decide(host("api.example.com"), 443).allowed);
  EXPECT_FALSE(rules.decide(host("api.example.com"), 8443).allowed);
  EXPECT_FALSE(rules.decide(host("www.example.com"), 443).allowed);
  EXPECT_FALSE(rules.decide(host("example.org"), 443).allowed);
  EXPECT_FALSE(rules.decide(host("93.184.216.34"), 443).allowed);
  EXPECT_EQ(rules.decide(host("www.example.com"), 443).rule, "default");
}

TEST(NetworkRules, OfflineOverridesAll) {
  const NetworkRules rules({allow("api.example.com"), *alias_rule("llm.local:11434", "127.0.0.1:11434"),
                            entry(Effect::allow, "x.example", 9)}, true);
  for (const auto name : {"api.example.com", "llm.local", "x.example"}) {
    EXPECT_FALSE(rules.decide(host(name), name == std::string("llm.local") ? 11434 : 443).allowed);
    EXPECT_EQ(rules.decide(host(name), 443).rule, "offline");
  }
}

TEST(NetworkRules, TheLaterOfAPersonsEntriesWins) {
  const std::vector<HostRule> base{allow("*.example.com", "policy")};
  const auto decide = [&](std::vector<HostRule> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return NetworkRules(more, false).decide(host("api.example.com"), 443);
  };
  EXPECT_EQ(decide({}).rule, "policy");
  EXPECT_FALSE(decide({entry(Effect::deny, "api.example.com", 1)}).allowed);
  EXPECT_TRUE(decide({entry(Effect::deny, "api.example.com", 1), entry(Effect::allow, "api.example.com", 2)}).allowed);
  EXPECT_FALSE(decide({entry(Effect::allow, "api.example.com", 1), entry(Effect::deny, "*.example.com", 2)}).allowed);
}

TEST(NetworkRules, TheMostExactRuleSaysWhatIsLookedAt) {
  HostRule off = allow("git.example.com", "exact");
  off.tls = TlsCheck::off;
  const NetworkRules rules({allow("*.example.com", "star"), off}, false);
  EXPECT_EQ(rules.decide(host("git.example.com"), 443).tls, TlsCheck::off);
  EXPECT_EQ(rules.decide(host("www.example.com"), 443).tls, TlsCheck::sni);
}

TEST(NetworkRules, AnAliasLeadsToItsAddressAndIsNotChecked) {
  const NetworkRules rules({*alias_rule("llm.local:11434", "127.0.0.1:11434")}, false);
  const NetworkDecision decision = rules.decide(host("llm.local"), 11434);
  ASSERT_TRUE(decision.allowed && decision.instead);
  EXPECT_EQ(decision.instead->text(), "127.0.0.1:11434");
  EXPECT_EQ(decision.tls, TlsCheck::off);
  EXPECT_FALSE(rules.decide(host("llm.local"), 443).allowed);
  EXPECT_FALSE(rules.decide(host("127.0.0.1"), 11434).allowed);
  for (const auto& [name, target] : {std::pair{"llm.local", "127.0.0.1:1"}, {"127.0.0.1:1", "127.0.0.1:1"},
                                     {"llm.local:1", "127.0.0.1"}, {"llm.local:1", "localhost:1"}, {"*.local:1", "127.0.0.1:1"}})
    EXPECT_FALSE(alias_rule(name, target)) << name << " " << target;
}

// ---- in a policy's text ----------------------------------------------------------

auto parsed(const std::string& network) { return parse_policy(R"({"version":1,"network":)" + network + "}", "p.json"); }

TEST(PolicyNetwork, IsReadWithPortsChecksAndAliases) {
  const auto policy = parsed(R"({"allow": ["api.example.com", "*.example.org:8443",
      {"host": "git.example.com:22", "tls": "off", "because": "ssh"}, {"host": "93.184.216.34", "tls": "no-sni"}],
      "aliases": {"llm.local:11434": "127.0.0.1:11434"}})");
  ASSERT_TRUE(policy) << policy.error()[0].text();
  ASSERT_EQ(policy->network.size(), 5u);
  EXPECT_EQ(policy->network[0].id, "policy:/network/allow/0");
  EXPECT_EQ(policy->network[1].pattern.text(), "*.example.org:8443");
  EXPECT_EQ(policy->network[2].because, "ssh");
  EXPECT_EQ(policy->network[3].tls, TlsCheck::no_sni);
  EXPECT_EQ(policy->network[4].id, "policy:/network/aliases/llm.local:11434");
}

TEST(PolicyNetwork, LeftOutOrEmptyMeansNothing) {
  EXPECT_TRUE(parse_policy(R"({"version":1})", "p.json")->network.empty());
  EXPECT_TRUE(parsed("{}")->network.empty());
  EXPECT_TRUE(parsed(R"({"allow": []})")->network.empty());
  EXPECT_TRUE(default_policy().network.empty());
}

struct BadNetwork {
  const char* name;
  std::string text, pointer;
};
class PolicyNetworkRefuses : public testing::TestWithParam<BadNetwork> {};
TEST_P(PolicyNetworkRefuses, AndNamesThePlace) {
  const auto policy = parsed(GetParam().text);
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error()[0].pointer, GetParam().pointer) << policy.error()[0].text();
  EXPECT_GT(policy.error()[0].line, 0);
}
INSTANTIATE_TEST_SUITE_P(, PolicyNetworkRefuses, testing::Values(
    BadNetwork{"AList", R"(["example.com"])", "/network"},
    BadNetwork{"UnknownKey", R"({"alow": []})", "/network/alow"},
    BadNetwork{"Star", R"({"allow": ["*"]})", "/network/allow/0"},
    BadNetwork{"Url", R"({"allow": ["https://example.com"]})", "/network/allow/0"},
    BadNetwork{"PrivateAddress", R"({"allow": [{"host": "10.0.0.1", "tls": "off"}]})", "/network/allow/0/host"},
    BadNetwork{"AddressWithSni", R"({"allow": ["93.184.216.34"]})", "/network/allow/0"},
    BadNetwork{"Number", R"({"allow": [443]})", "/network/allow/0"},
    BadNetwork{"NoHost", R"({"allow": [{"tls": "off"}]})", "/network/allow/0"},
    BadNetwork{"UnknownCheck", R"({"allow": [{"host": "a.example", "tls": "of"}]})", "/network/allow/0/tls"},
    BadNetwork{"UnknownMember", R"({"allow": [{"host": "a.example", "port": 1}]})", "/network/allow/0/port"},
    BadNetwork{"UnknownPreset", R"({"allow": ["preset:nod"]})", "/network/allow/0"},
    BadNetwork{"AliasWithoutPort", R"({"aliases": {"llm.local": "127.0.0.1:1"}})", "/network/aliases/llm.local"},
    BadNetwork{"AliasToAName", R"({"aliases": {"llm.local:1": "localhost:1"}})", "/network/aliases/llm.local:1"},
    BadNetwork{"AliasToANumber", R"({"aliases": {"llm.local:1": 1}})", "/network/aliases/llm.local:1"}),
    [](const auto& c) { return c.param.name; });

// ---- presets -----------------------------------------------------------------------

TEST(Presets, AreHostsInTheNetworkAndPlacesInAnAllow) {
  const auto policy = parse_policy(R"({"version":1, "network": {"allow": ["preset:python"]},
      "rules": [{"allow": "write", "paths": ["/src", "preset:python"]}]})", "p.json");
  ASSERT_TRUE(policy) << policy.error()[0].text();
  EXPECT_TRUE(NetworkRules(policy->network, false).decide(host("pypi.org"), 443).allowed);
  EXPECT_EQ(policy->network[0].id, "preset:python");
  const auto snapshot = Snapshot::compile({policy->rules, {}, 1});
  ASSERT_TRUE(snapshot);
  const auto allows = [&](const char* path) { return (*snapshot)->decide(*WorkspacePath::parse(path)).allows(Operation::write); };
  EXPECT_TRUE(allows("/.venv/bin/python"));
  EXPECT_TRUE(allows("/src/a.py"));
  EXPECT_FALSE(allows("/setup.py"));
}

TEST(Presets, EachOneIsMadeOfPatternsAndDomainsThatCompile) {
  ASSERT_EQ(preset_words(), (std::vector<std::string_view>{"preset:git", "preset:node", "preset:python", "preset:rust"}));
  for (const std::string_view word : preset_words()) {
    const auto policy = parse_policy(R"({"version":1, "network": {"allow": [")" + std::string(word) + R"("]},
        "rules": [{"allow": "write", "paths": [")" + std::string(word) + R"("]}]})", "p.json");
    ASSERT_TRUE(policy) << policy.error()[0].text();
    EXPECT_FALSE(policy->network.empty());
    EXPECT_TRUE(Snapshot::compile({policy->rules, {}, 1}));
  }
}

TEST(Presets, StandNowhereElse) {
  for (const char* rule : {R"({"deny":"all","paths":["preset:node"]})", R"({"ask":"write","paths":["preset:node"]})",
                           R"({"allow":"read","paths":["/"],"except":["preset:node"]})", R"({"allow":"read","paths":["preset:nodejs"]})"})
    EXPECT_FALSE(parse_policy(R"({"version":1,"rules":[)" + std::string(rule) + "]}", "p.json")) << rule;
}

}  // namespace
}  // namespace fbroker::policy
