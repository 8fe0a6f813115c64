// The egress gate over a real data socket: what is let through arrives, what is
// refused leaves every listener untouched.
#include "broker/egress/gate.h"

#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <functional>
#include <future>
#include <nlohmann/json.hpp>

#include "tests/broker/http_session.h"
#include "tests/support/tcp_listener.h"

namespace fbroker::test {
namespace {

using nlohmann::json;

policy::HostRule allow_host(const std::string& pattern, policy::TlsCheck tls = policy::TlsCheck::sni) {
  return {.id = "test:" + pattern, .pattern = policy::HostPattern::parse(pattern).value(), .tls = tls};
}

std::string connect_head(const std::string& target) {
  return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n";
}

// What a TLS client says first, for a server of that name; null: of none.
std::string hello(const char* name) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), &SSL_free);
  BIO* out = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), out);
  if (name != nullptr) SSL_set_tlsext_host_name(ssl.get(), name);
  SSL_connect(ssl.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  return std::string(data, static_cast<std::size_t>(size));
}

class Egress : public testing::Test {
 protected:
  Egress() : session_({}, {allow("write", {"/**"})}, options()) {
    session_.files.set_network({policy::alias_rule("llm.local:11434", server_.address()).value(),
                                allow_host("api.example.com"), allow_host("*.agents.example", policy::TlsCheck::off),
                                allow_host("mixed.example", policy::TlsCheck::off),
                                allow_host("local.example", policy::TlsCheck::off), allow_host("gone.example")});
  }
  broker::EgressOptions options() {
    broker::EgressOptions options;
    options.max_tunnels = 4;
    options.hello_bound = std::chrono::seconds(5);
    // Names lead to addresses that no packet of a test may go to: what is
    // tested here must end before.
    options.resolve = [this](const std::string& name) -> Result<std::vector<policy::Address>> {
      resolved_ += name + " ";
      if (name == "slow.example") asked_slowly_();
      std::vector<policy::Address> list;
      const auto add = [&](const char* text) { list.push_back(*policy::Address::parse(text)); };
      if (name == "mixed.example") add("93.184.216.34"), add("10.0.0.1");
      if (name == "local.example") add("127.0.0.1");
      if (name == "slow.example" || name == "api.example.com") add("93.184.216.34");
      if (name == "metadata.agents.example") add("169.254.169.254");
      if (name == "six.agents.example") add("::ffff:127.0.0.1");
      return list;
    };
    return options;
  }
  // The reply to a CONNECT; the connection stays in `client`.
  std::string connect(RawClient& client, const std::string& target) {
    client.send(connect_head(target));
    return client.reply();
  }
  std::vector<audit::Record> records(const std::string& operation) {
    auto all = session_.files.audit.records();
    std::erase_if(all, [&](const audit::Record& record) { return record.operation != operation; });
    return all;
  }
  bool all_ended() {
    return eventually([&] { return session_.egress.tunnels() == 0; });
  }

  TcpListener server_{"pong"};
  std::string resolved_;
  std::function<void()> asked_slowly_;
  HttpSession session_;
};

// ---- what is allowed -------------------------------------------------------------

TEST_F(Egress, AnAliasIsReachedAndRecordedFromItsFirstToItsLastByte) {
  {
    RawClient client(session_.socket());
    ASSERT_EQ(status_of(connect(client, "llm.local:11434")), 200u);
    client.send("ping");
    EXPECT_TRUE(eventually([&] { return server_.heard() == "ping"; }));
    while (client.have() != "pong" && client.more()) {}
    EXPECT_EQ(client.have(), "pong");
  }
  ASSERT_TRUE(all_ended());
  const auto opened = records("connect"), closed = records("disconnect");
  ASSERT_EQ(opened.size(), 1u);
  EXPECT_EQ(opened[0].host, "llm.local");
  EXPECT_EQ(opened[0].port, 11434u);
  EXPECT_EQ(opened[0].address, "127.0.0.1");
  EXPECT_EQ(opened[0].decision, "allow");
  EXPECT_EQ(opened[0].reason, "alias:llm.local:11434");
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].bytes_written, 4u);
  EXPECT_EQ(closed[0].bytes_read, 4u);
  EXPECT_TRUE(closed[0].milliseconds);
  EXPECT_EQ(resolved_, "");
}

TEST_F(Egress, ClientsOfTheOldKindConnectToo) {
  RawClient client(session_.socket());
  client.send("CONNECT llm.local:11434 HTTP/1.0\r\n\r\n");
  EXPECT_EQ(status_of(client.reply()), 200u);
  RawClient file(session_.socket());
  file.send("GET /v1/session HTTP/1.0\r\nHost: x\r\n\r\n");
  EXPECT_EQ(status_of(file.reply()), 400u);
}

TEST_F(Egress, ALargeStreamPassesWhole) {
  RawClient client(session_.socket());
  ASSERT_EQ(status_of(connect(client, "llm.local:11434")), 200u);
  std::thread reader([&] { client.rest(); });
  const std::string piece(100'000, 'x');
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(client.send(piece));
  EXPECT_TRUE(eventually([&] { return server_.heard().size() == 5'000'000; }));
  client.finish_sending();
  reader.join();
  ASSERT_TRUE(all_ended());
  EXPECT_EQ(records("disconnect")[0].bytes_written, 5'000'000u);
}

// ---- what is refused: nobody is asked, nobody is connected to ------------------------

struct Trick {
  const char* name;
  std::string target;
  unsigned status;
};
class EgressRefuses : public Egress, public testing::WithParamInterface<Trick> {};
TEST_P(EgressRefuses, AndTouchesNothing) {
  RawClient client(session_.socket());
  EXPECT_EQ(status_of(connect(client, GetParam().target)), GetParam().status);
  EXPECT_EQ(resolved_, "");
  EXPECT_EQ(server_.accepted(), 0);
  const auto refused = records("connect");
  ASSERT_LE(refused.size(), 1u);
  if (GetParam().status == 400 && refused.empty()) return;   // no head that can be read
  EXPECT_EQ(refused[0].decision, "deny");
  EXPECT_EQ(refused[0].error, EACCES);
}
INSTANTIATE_TEST_SUITE_P(, EgressRefuses, testing::Values(
    Trick{"AnotherName", "evil.example.com:443", 403}, Trick{"ItsParent", "example.com:443", 403},
    Trick{"AnotherPort", "api.example.com:80", 403}, Trick{"TheAliasAtAnotherPort", "llm.local:443", 403},
    Trick{"TheAliasesAddress", "127.0.0.1:11434", 403}, Trick{"StarsOwnDomain", "agents.example:443", 403},
    Trick{"NameBehindAnAllowedOne", "api.example.com.evil.com:443", 403}, Trick{"NameBeforeAnAllowedOne", "xagents.example:443", 403},
    Trick{"NoPort", "api.example.com", 400}, Trick{"PortZero", "api.example.com:0", 400},
    Trick{"TrailingDot", "api.example.com.:443", 400}, Trick{"UserInfo", "api.example.com@evil.com:443", 400},
    Trick{"UserInfoTheOtherWay", "evil.com@api.example.com:443", 400}, Trick{"Brackets", "[api.example.com]:443", 400},
    Trick{"Nul", std::string("api.example.com\0.evil.com:443", 29), 400}, Trick{"Decimal", "2130706433:443", 400},
    Trick{"Octal", "0177.0.0.1:443", 400}, Trick{"Hex", "0x7f000001:443", 400}, Trick{"Short", "127.1:443", 400},
    Trick{"Loopback", "127.0.0.1:443", 403}, Trick{"V6Loopback", "[::1]:443", 403}, Trick{"V6Mapped", "[::ffff:127.0.0.1]:443", 403},
    Trick{"Percent", "api.example%2ecom:443", 400}, Trick{"Path", "api.example.com:443/x", 400},
    Trick{"AbsoluteUri", "http://api.example.com:443", 400}),
    [](const auto& c) { return c.param.name; });

TEST_F(Egress, ANameThatLeadsToAnyAddressThatIsNotPublicIsRefused) {
  for (const std::string name : {"mixed.example", "local.example", "metadata.agents.example", "six.agents.example"}) {
    resolved_.clear();
    RawClient client(session_.socket());
    const std::string reply = connect(client, name + ":443");
    EXPECT_EQ(status_of(reply), 403u) << name;
    EXPECT_EQ(json::parse(body_of(reply))["rule"], "egress:address");
    EXPECT_EQ(reply.find("10.0.0.1"), std::string::npos);
    EXPECT_EQ(resolved_, name + " ") << "looked up more than once";
  }
  EXPECT_EQ(server_.accepted(), 0);
  for (const auto& record : records("connect")) EXPECT_EQ(record.decision, "deny") << record.host;
  EXPECT_EQ(records("connect").size(), 4u);
}

TEST_F(Egress, ANameThatNobodyKnowsIsSaidToBeUnknown) {
  RawClient client(session_.socket());
  EXPECT_EQ(status_of(connect(client, "gone.example:443")), 502u);
  EXPECT_EQ(records("connect").size(), 1u);
}

// A name that is allowed, and another server behind it: before anything is
// connected to, the ClientHello decides.
TEST_F(Egress, AnotherServerNameThanTheOneAskedForIsRefusedInTlsWords) {
  for (const std::string& first : {hello("evil.com"), hello(nullptr), std::string("GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n")}) {
    RawClient client(session_.socket());
    ASSERT_EQ(status_of(connect(client, "api.example.com:443")), 200u);
    client.send(first);
    EXPECT_EQ(client.rest(), std::string("\x15\x03\x03\x00\x02\x02\x70", 7));   // fatal: unrecognized_name
  }
  ASSERT_TRUE(all_ended());
  for (const auto& record : records("connect")) {
    EXPECT_EQ(record.decision, "deny");
    EXPECT_EQ(record.reason, "egress:sni");
    EXPECT_EQ(record.address, "");
  }
  EXPECT_EQ(records("connect").size(), 3u);
  EXPECT_TRUE(records("disconnect").empty());
}

TEST_F(Egress, OfflineNothingIsReached) {
  session_.files.set_network({policy::alias_rule("llm.local:11434", server_.address()).value(), allow_host("api.example.com")}, true);
  for (const char* target : {"llm.local:11434", "api.example.com:443"}) {
    RawClient client(session_.socket());
    const std::string reply = connect(client, target);
    EXPECT_EQ(status_of(reply), 403u);
    EXPECT_EQ(json::parse(body_of(reply))["rule"], "offline");
  }
  EXPECT_EQ(resolved_, "");
  EXPECT_EQ(server_.accepted(), 0);
}

TEST_F(Egress, WithoutARecordNothingIsReached) {
  session_.files.audit.fail(true);
  RawClient client(session_.socket());
  EXPECT_EQ(status_of(connect(client, "llm.local:11434")), 503u);
  EXPECT_EQ(server_.accepted(), 0);
  session_.files.audit.fail(false);
  RawClient again(session_.socket());
  EXPECT_EQ(status_of(connect(again, "llm.local:11434")), 200u);
}

TEST_F(Egress, WithoutTheRecordOfAConnectionThereIsNone) {
  asked_slowly_ = [&] { session_.files.audit.fail(true); };
  session_.files.set_network({allow_host("slow.example", policy::TlsCheck::off)});
  RawClient client(session_.socket());
  EXPECT_EQ(status_of(connect(client, "slow.example:443")), 503u);
}

TEST_F(Egress, ThereIsALimitAndFilesGoOn) {
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<RawClient>(session_.socket()));
    ASSERT_EQ(status_of(connect(*clients.back(), "llm.local:11434")), 200u);
  }
  RawClient one_more(session_.socket());
  EXPECT_EQ(status_of(connect(one_more, "llm.local:11434")), 503u);
  RawClient file(session_.socket());
  EXPECT_EQ(status_of(file.get("/v1/session")), 200u);
  clients.pop_back();
  EXPECT_TRUE(eventually([&] {
    RawClient retry(session_.socket());
    return status_of(connect(retry, "llm.local:11434")) == 200;
  }));
}

// ---- taken back ------------------------------------------------------------------------

TEST_F(Egress, ARevokeCutsWhatItTakesAwayBeforeItReturns) {
  RawClient client(session_.socket());
  ASSERT_EQ(status_of(connect(client, "llm.local:11434")), 200u);
  client.send("before");
  ASSERT_TRUE(eventually([&] { return server_.heard() == "before"; }));
  session_.files.set_network({allow_host("api.example.com")});
  const auto cut = session_.egress.cut_refused(std::chrono::seconds(5));
  EXPECT_EQ(cut.count, 1u);
  EXPECT_TRUE(cut.ended);
  EXPECT_EQ(session_.egress.tunnels(), 0u);
  client.send("after");
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(eventually([&] { return server_.ended() == 1; }));
  EXPECT_TRUE(server_.was_reset());
  EXPECT_EQ(server_.heard(), "before");
  const auto closed = records("disconnect");
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].detail, "cut: default");
}

// A client that does not read keeps the tunnel from its end, and the revoke from its.
TEST_F(Egress, ARevokeDoesNotWaitForAClientThatDoesNotRead) {
  TcpListener flood(std::string(20 << 20, 'x'));
  session_.files.set_network({policy::alias_rule("llm.local:80", flood.address()).value()});
  RawClient client(session_.socket());
  ASSERT_EQ(status_of(connect(client, "llm.local:80")), 200u);
  client.send("go on");
  ASSERT_TRUE(eventually([&] { return flood.heard() == "go on"; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));   // until it is stuck
  session_.files.set_network({});
  const auto cut = session_.egress.cut_refused(std::chrono::seconds(5));
  EXPECT_EQ(cut.count, 1u);
  EXPECT_TRUE(cut.ended);
  EXPECT_EQ(session_.egress.tunnels(), 0u);
}

TEST_F(Egress, ARevokeEndsWhatHasNotSaidHelloYet) {
  policy::HostRule alias = policy::alias_rule("llm.local:443", server_.address()).value();
  alias.tls = policy::TlsCheck::sni;
  session_.files.set_network({alias});
  RawClient early(session_.socket()), late(session_.socket());
  ASSERT_EQ(status_of(connect(early, "llm.local:443")), 200u);
  early.send(hello("llm.local"));
  ASSERT_TRUE(eventually([&] { return server_.accepted() == 1; }));
  ASSERT_EQ(status_of(connect(late, "llm.local:443")), 200u);
  session_.files.set_network({});
  EXPECT_EQ(session_.egress.cut_refused(std::chrono::seconds(5)).count, 2u);
  late.send(hello("llm.local"));
  EXPECT_EQ(late.rest(), std::string("\x15\x03\x03\x00\x02\x02\x70", 7));
  ASSERT_TRUE(all_ended());
  EXPECT_EQ(server_.accepted(), 1);
}

// Nor for a name server: what was not connected by then never will be.
TEST_F(Egress, ARevokeDoesNotWaitForANameServer) {
  std::promise<void> answers;
  asked_slowly_ = [&] { answers.get_future().wait(); };
  session_.files.set_network({allow_host("slow.example", policy::TlsCheck::off)});
  RawClient client(session_.socket());
  client.send(connect_head("slow.example:443"));
  ASSERT_TRUE(eventually([&] { return session_.egress.tunnels() == 1; }));
  session_.files.set_network({});
  const auto cut = session_.egress.cut_refused(std::chrono::seconds(5));
  EXPECT_EQ(cut.count, 1u);
  EXPECT_TRUE(cut.ended);
  answers.set_value();
  EXPECT_EQ(status_of(client.reply()), 403u);
  const auto connects = records("connect");
  ASSERT_EQ(connects.size(), 1u);
  EXPECT_EQ(connects[0].decision, "deny");
}

TEST_F(Egress, AChangeThatStillAllowsItCutsNothing) {
  RawClient client(session_.socket());
  ASSERT_EQ(status_of(connect(client, "llm.local:11434")), 200u);
  session_.files.set_network({policy::alias_rule("llm.local:11434", server_.address()).value()});
  EXPECT_EQ(session_.egress.cut_refused(std::chrono::seconds(5)).count, 0u);
  client.send("ping");
  EXPECT_TRUE(eventually([&] { return server_.heard() == "ping"; }));
  // The same name for another address is not the same thing.
  session_.files.set_network({policy::alias_rule("llm.local:11434", "127.0.0.1:1").value()});
  EXPECT_EQ(session_.egress.cut_refused(std::chrono::seconds(5)).count, 1u);
}

TEST_F(Egress, AStricterCheckCutsWhatPassedWithoutIt) {
  policy::HostRule alias = policy::alias_rule("llm.local:11434", server_.address()).value();
  RawClient client(session_.socket());
  ASSERT_EQ(status_of(connect(client, "llm.local:11434")), 200u);
  alias.tls = policy::TlsCheck::sni;
  session_.files.set_network({alias});
  EXPECT_EQ(session_.egress.cut_refused(std::chrono::seconds(5)).count, 1u);
  EXPECT_TRUE(client.closed());
}

// ---- plain HTTP ------------------------------------------------------------------------

TEST_F(Egress, ARequestInAbsoluteFormIsSentOnAsTheServersOwn) {
  TcpListener http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  session_.files.set_network({policy::alias_rule("llm.local:80", http.address()).value()});
  RawClient client(session_.socket());
  client.send("POST http://LLM.local/v1/x?y=1#f HTTP/1.1\r\nHost: evil.com\r\nProxy-Connection: keep-alive\r\n"
              "Proxy-Authorization: Basic c2VjcmV0\r\nConnection: x-mine\r\nX-Mine: 1\r\nX-Kept: 2\r\nContent-Length: 3\r\n\r\nEND"
              "GET http://llm.local/second HTTP/1.1\r\nHost: llm.local\r\n\r\n");
  const std::string reply = client.rest();
  EXPECT_NE(reply.find("HTTP/1.1 200 OK"), std::string::npos);
  EXPECT_EQ(http.heard(), "POST /v1/x?y=1 HTTP/1.1\r\nHost: LLM.local\r\nX-Kept: 2\r\nContent-Length: 3\r\nConnection: close\r\n\r\nEND");
}

TEST_F(Egress, AChunkedBodyIsSentOnToItsEnd) {
  TcpListener http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  session_.files.set_network({policy::alias_rule("llm.local:80", http.address()).value()});
  RawClient client(session_.socket());
  client.send("POST http://llm.local/ HTTP/1.1\r\nHost: llm.local\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
  ASSERT_TRUE(eventually([&] { return http.accepted() == 1; }));
  client.send("lo\r\n3\r\nEND\r\n0\r\n\r\nGET http://llm.local/second HTTP/1.1\r\n");
  client.rest();
  const std::string heard = http.heard();
  EXPECT_TRUE(heard.ends_with("\r\n\r\n5\r\nhello\r\n3\r\nEND\r\n0\r\n\r\n")) << heard;
}

TEST_F(Egress, OtherAbsoluteRequestsAreRefused) {
  for (const char* target : {"http://evil.com/", "http://127.0.0.1/", "https://llm.local/", "ftp://llm.local/", "http://a@llm.local:11434/",
                             "http:///x", "http://api.example.com/"}) {
    RawClient client(session_.socket());
    client.send("GET " + std::string(target) + " HTTP/1.1\r\nHost: llm.local\r\n\r\n");
    const unsigned status = status_of(client.reply());
    EXPECT_TRUE(status == 403 || status == 400) << target << " " << status;
  }
  EXPECT_EQ(server_.accepted(), 0);
  EXPECT_EQ(resolved_, "");
  const auto refused = records("connect");
  EXPECT_EQ(refused.size(), 7u);
  for (const auto& record : refused) EXPECT_EQ(record.decision, "deny");
}

TEST_F(Egress, WhereARuleWantsTlsAbsoluteFormIsRefusedAndNothingIsLookedUp) {
  RawClient client(session_.socket());
  client.send("GET http://api.example.com:443/ HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(status_of(client.reply()), 403u);
  EXPECT_EQ(resolved_, "");
  ASSERT_EQ(records("connect").size(), 1u);
  EXPECT_EQ(records("connect")[0].reason, "egress:sni");
}

TEST_F(Egress, ARequestThatCannotBeReadIsOnTheRecordToo) {
  for (const char* head : {"GET http://evil.com/ HTTP/1.0\r\n\r\n", "CONNECT evil.com:443 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                           "CONNECT evil.com:443 HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"}) {
    RawClient client(session_.socket());
    client.send(head);
    EXPECT_EQ(status_of(client.reply()), 400u) << head;
  }
  EXPECT_EQ(records("connect").size(), 3u);
}

TEST_F(Egress, ConnectTakesNoBody) {
  RawClient client(session_.socket());
  client.send("CONNECT llm.local:11434 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nping");
  EXPECT_EQ(status_of(client.reply()), 400u);
  EXPECT_EQ(server_.accepted(), 0);
  EXPECT_EQ(records("connect").size(), 1u);
}

}  // namespace
}  // namespace fbroker::test
