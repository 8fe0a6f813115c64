// Domains that a person grants and takes back while a session runs.
#include <gtest/gtest.h>

#include "tests/broker/http_session.h"
#include "tests/broker/session_broker.h"
#include "tests/support/tcp_listener.h"

namespace fbroker::test {
namespace {

json grant(const SessionBroker& broker, const std::string& domain, json more = json::object()) {
  more["domain"] = domain;
  const auto answer = broker.call("POST", "/v1/grants", more);
  return answer.status == 200 ? answer.body : json{{"refused", answer.status}, {"detail", answer.body.value("detail", "")}};
}
json revoke(const SessionBroker& broker, const std::string& domain) {
  return broker.call("POST", "/v1/revoke", {{"domain", domain}}).body;
}
std::string check(const SessionBroker& broker, const std::string& domain) {
  const auto answer = broker.call("POST", "/v1/check", {{"domain", domain}});
  return answer.body.value("decision", "?") + " " + answer.body.value("rule", "?");
}

constexpr char kPolicy[] = R"({"version":1,"rules":[{"allow":"read","paths":["/"]}],
                              "network":{"allow":["*.example.com"],"aliases":{"llm.local:11434":"127.0.0.1:1"}}})";

TEST(DomainGrants, AllowWhatNoRuleDoesUntilTheyAreTakenBack) {
  SessionBroker broker;
  broker.session(kPolicy);
  EXPECT_EQ(check(broker, "pypi.org"), "deny default");
  EXPECT_EQ(check(broker, "api.example.com"), "allow policy:/network/allow/0");
  EXPECT_EQ(check(broker, "llm.local:11434"), "allow policy:/network/aliases/llm.local:11434");
  const json granted = grant(broker, "pypi.org", {{"seconds", 900}, {"because", "an install"}});
  EXPECT_EQ(granted["id"], "g1");
  EXPECT_EQ(check(broker, "pypi.org"), "allow g1");
  EXPECT_EQ(check(broker, "pypi.org:80"), "deny default");
  EXPECT_EQ(broker.call("GET", "/v1/grants").body["grants"][0]["path"], "pypi.org");
  const json revoked = revoke(broker, "pypi.org");
  EXPECT_EQ(revoked["ended"][0]["id"], "g1");
  EXPECT_TRUE(revoked["denied"].empty());
  EXPECT_EQ(check(broker, "pypi.org"), "deny default");
}

TEST(DomainGrants, ARevokeOverrulesARuleAndANewerGrantThat) {
  SessionBroker broker;
  broker.session(kPolicy);
  const json revoked = revoke(broker, "api.example.com");
  EXPECT_EQ(revoked["denied"][0]["path"], "api.example.com");
  EXPECT_EQ(revoked["overruled"][0], "policy:/network/allow/0");
  const std::string deny = revoked["denied"][0]["id"];
  EXPECT_EQ(check(broker, "api.example.com"), "deny " + deny);
  EXPECT_EQ(check(broker, "www.example.com"), "allow policy:/network/allow/0");
  grant(broker, "api.example.com");
  EXPECT_EQ(check(broker, "api.example.com"), "allow g2");
  broker.revoke("g2");
  EXPECT_EQ(check(broker, "api.example.com"), "deny " + deny);
  EXPECT_EQ(broker.revoke(deny).body["lifted"][0]["path"], "api.example.com");
  EXPECT_EQ(check(broker, "api.example.com"), "allow policy:/network/allow/0");
}

TEST(DomainGrants, ARevokeIsForEveryPortAndWhatIsBelowWhenItSaysSo) {
  SessionBroker broker;
  broker.session(kPolicy);
  grant(broker, "api.example.com:8443");
  revoke(broker, "*.example.com");
  EXPECT_EQ(check(broker, "api.example.com").substr(0, 4), "deny");
  EXPECT_EQ(check(broker, "api.example.com:8443").substr(0, 4), "deny");
  revoke(broker, "llm.local");
  EXPECT_EQ(check(broker, "llm.local:11434").substr(0, 4), "deny");
}

TEST(DomainGrants, RevokeAllEndsThemToo) {
  SessionBroker broker;
  broker.session(kPolicy);
  grant(broker, "pypi.org");
  EXPECT_EQ(broker.call("POST", "/v1/revoke", {{"all", true}}).body["ended"][0]["path"], "pypi.org");
  EXPECT_EQ(check(broker, "pypi.org"), "deny default");
}

TEST(DomainGrants, EndByTheClock) {
  SessionBroker broker;
  broker.session(kPolicy);
  grant(broker, "pypi.org", {{"seconds", 1}});
  EXPECT_TRUE(eventually([&] { return check(broker, "pypi.org") == "deny default"; }));
  EXPECT_TRUE(eventually([&] { return broker.heard().find("g1 (pypi.org) expired") != std::string::npos; }));
}

TEST(DomainGrants, SurviveARestartWithTheirNumbers) {
  SessionBroker broker;
  broker.session(kPolicy);
  grant(broker, "pypi.org:8443", {{"tls", "off"}});
  revoke(broker, "api.example.com");
  broker.stop();
  broker.start();
  broker.registry->restore("");
  EXPECT_EQ(check(broker, "pypi.org:8443"), "allow g1");
  EXPECT_EQ(check(broker, "api.example.com"), "deny r2");
  EXPECT_EQ(check(broker, "api.example.com:80"), "deny r2");
  EXPECT_EQ(grant(broker, "a.example")["id"], "g3");
}

TEST(DomainGrants, WhatIsNoDomainIsRefusedAndNothingIsStored) {
  SessionBroker broker;
  broker.session(kPolicy);
  for (const char* bad : {"*", "*.com", "https://pypi.org", "127.0.0.1", "pypi.org/simple", "pypi.org.", ""})
    EXPECT_EQ(grant(broker, bad)["refused"], 400) << bad;
  EXPECT_EQ(grant(broker, "pypi.org", {{"tls", "none"}})["refused"], 400);
  EXPECT_EQ(grant(broker, "pypi.org", {{"path", "/x"}})["refused"], 400);
  EXPECT_TRUE(broker.call("GET", "/v1/grants").body["grants"].empty());
}

TEST(DomainGrants, AnOfflineSessionTakesNone) {
  SessionBroker broker;
  broker.write("p.json", kPolicy);
  const auto made = broker.call("POST", "/v1/sessions", {{"name", "s"}, {"root", (broker.dir / "project").string()},
      {"policy", (broker.dir / "p.json").string()}, {"offline", true}});
  ASSERT_EQ(made.status, 200) << made.body;
  EXPECT_TRUE(made.body["network"].empty());
  EXPECT_EQ(check(broker, "api.example.com"), "deny offline");
  EXPECT_EQ(grant(broker, "pypi.org")["refused"], 403);
  broker.stop();
  broker.start();
  broker.registry->restore("");
  EXPECT_EQ(check(broker, "api.example.com"), "deny offline");
}

TEST(SessionHosts, AreReachedBesideThePolicysAndRememberedOverARestart) {
  SessionBroker broker;
  const auto made = broker.call("POST", "/v1/sessions", {{"name", "s"}, {"root", (broker.dir / "project").string()},
      {"hosts", {{{"id", "agent:x"}, {"host", "api.x.example"}}, {{"id", "alias:y"}, {"host", "y.local:80"}, {"instead", "127.0.0.1:8080"}}}}});
  ASSERT_EQ(made.status, 200) << made.body;
  EXPECT_EQ(made.body["network"], (json{"y.local:80", "api.x.example"}));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(check(broker, "api.x.example"), "allow agent:x");
    EXPECT_EQ(check(broker, "y.local:80"), "allow alias:y");
    broker.stop();
    broker.start();
    broker.registry->restore("");
  }
  for (const json& bad : {json{{{"id", "a"}, {"host", "*"}}}, json{{{"host", "a.example"}}}, json{{{"id", "a"}, {"host", "a.example"}, {"tls", "x"}}},
                          json{{{"id", "a"}, {"host", "a.example"}, {"more", 1}}}, json{{{"id", "a"}, {"host", "a:1"}, {"instead", "b:1"}}}, json{1}})
    EXPECT_EQ(broker.call("POST", "/v1/sessions", {{"name", "t"}, {"root", (broker.dir / "project").string()}, {"hosts", bad}}).status, 400) << bad;
}

// The whole way: a connection that is open when its domain is revoked.
TEST(DomainGrants, ARevokeCutsOpenConnectionsBeforeItAnswers) {
  SessionBroker broker;
  TcpListener server;
  const auto session = broker.session(R"({"version":1,"network":{"aliases":{"llm.local:11434":")" + server.address() + R"("}}})");
  RawClient client(session->socket());
  client.send("CONNECT llm.local:11434 HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_EQ(status_of(client.reply()), 200u);
  client.send("before");
  ASSERT_TRUE(eventually([&] { return server.heard() == "before"; }));
  const json revoked = revoke(broker, "llm.local");
  EXPECT_EQ(revoked["tunnels_cut"], 1);
  EXPECT_TRUE(revoked["drained"]);
  EXPECT_EQ(session->egress().tunnels(), 0u);
  client.send("after");
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(eventually([&] { return server.ended() == 1; }));
  EXPECT_EQ(server.heard(), "before");
  EXPECT_EQ(broker.call("POST", "/v1/sessions/s/end").body["connections"], 1);
}

}  // namespace
}  // namespace fbroker::test
