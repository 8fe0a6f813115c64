// Grant, revoke, expiry and reload through the control front, seen through the
// session's own files.
#include <fcntl.h>

#include <algorithm>
#include <fstream>
#include <stop_token>
#include <thread>

#include "tests/broker/session_broker.h"
#include "tests/support/process.h"

namespace fbroker::test {
namespace {

constexpr const char* kReadOnly = R"({"version":1,"exports":[{"at":"/","from":"."}],
  "rules":[{"allow":"read","paths":["/**"]},{"deny":"all","paths":["/secret"],"because":"ours"}]})";

constexpr const char* kAll = R"({"version":1,"exports":[{"at":"/","from":"."}],
  "rules":[{"allow":"write","paths":["/**"]}]})";

template <class T>
int error_of(const Result<T, Errno>& result) {
  return result ? 0 : result.error().value;
}

class ControlChanges : public testing::Test {
 protected:
  ControlChanges() {
    broker.write("project/a", "aaa");
    broker.write("project/d/x", "x");
    broker.write("project/secret/k", "key");
    broker.write("outside", "out");
  }
  SessionBroker broker;
};

TEST_F(ControlChanges, AGrantWorksAtOnceAndARevokeEndsIt) {
  auto s = broker.session(kReadOnly);
  EXPECT_EQ(opens(*s, "/a", O_RDWR), EACCES);
  const auto granted = broker.grant("a", {{"operations", {"write"}}});
  ASSERT_EQ(granted.status, 200) << granted.body;
  EXPECT_EQ(granted.body["path"], "/workspace/a");
  EXPECT_EQ(opens(*s, "/a", O_RDWR), 0);
  const auto revoked = broker.revoke(granted.body["id"]);
  ASSERT_EQ(revoked.status, 200) << revoked.body;
  EXPECT_EQ(revoked.body["recorded"], true);
  EXPECT_EQ(opens(*s, "/a", O_RDWR), EACCES);
  EXPECT_EQ(opens(*s, "/a", O_RDONLY), 0) << "the rule still allows reading";
}

TEST_F(ControlChanges, AGrantThatARuleForbidsNamesTheRuleAndChangesNothing) {
  auto s = broker.session(kReadOnly);
  const auto refused = broker.grant("secret");
  EXPECT_EQ(refused.status, 403);
  EXPECT_NE(refused.body["detail"].get<std::string>().find("--override-deny"), std::string::npos);
  EXPECT_NE(refused.body["detail"].get<std::string>().find("policy:/rules/1"), std::string::npos) << refused.body;
  EXPECT_EQ(broker.call("GET", "/v1/grants").body["grants"].size(), 0u);
  EXPECT_EQ(opens(*s, "/secret/k", O_RDONLY), ENOENT);
  ASSERT_EQ(broker.grant("secret", {{"override_deny", true}}).status, 200);
  EXPECT_EQ(opens(*s, "/secret/k", O_RDONLY), 0);
}

TEST_F(ControlChanges, AfterRevokeOfAPathNothingBelowIsAccessibleWhateverAllowedIt) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(broker.grant("d/x", {{"operations", {"write"}}}).status, 200);
  const auto revoked = broker.revoke("d");
  ASSERT_EQ(revoked.status, 200);
  EXPECT_EQ(revoked.body["ended"].size(), 1u);
  EXPECT_EQ(revoked.body["denied"].size(), 1u);
  EXPECT_EQ(revoked.body["overruled"], json({"policy:/rules/0"})) << revoked.body;
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), ENOENT);
  EXPECT_NE(opens(*s, "/d/new", O_WRONLY | O_CREAT), 0);
  EXPECT_EQ(opens(*s, "/a", O_RDONLY), 0);
  ASSERT_EQ(broker.grant("d").status, 200) << "a newer grant lifts it";
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), 0);
}

// Every event that a client of the session is sent while `act` runs.
template <class Act>
std::vector<protocol::Event> events_during(broker::Session& session, Act act) {
  auto subscription = session.events().subscribe({});
  std::vector<protocol::Event> all;
  const auto take = [&] {
    for (auto& event : subscription->take()) {
      subscription->acknowledge(event.sequence);
      all.push_back(std::move(event));
    }
  };
  {
    std::jthread listener([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        take();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    act();
  }
  take();
  return all;
}

bool tells_identity(const std::vector<protocol::Event>& events, const std::string& path) {
  return std::ranges::any_of(events, [&](const protocol::Event& event) {
    return event.path == ws(path) && !event.identity.any();
  });
}

// ATTACK: an identity in an event says that there is a file, and since when.
TEST_F(ControlChanges, ARevokeTellsNothingOfAFileThatWasNeverShown) {
  auto s = broker.session(kReadOnly);
  EXPECT_TRUE(tells_identity(events_during(*s, [&] { broker.revoke("a"); }), "/a"));
  EXPECT_FALSE(tells_identity(events_during(*s, [&] { broker.revoke("secret/k"); }), "/secret/k"));
}

// ATTACK: a second name, made while the first was allowed, under which the file
// stays open with all that the person writes later.
TEST_F(ControlChanges, ARevokeEndsTheNamesThatTheSessionGaveTheFileElsewhere) {
  auto s = broker.session(kAll);
  const auto link = [&](const std::string& from, const std::string& to) {
    return error_of(s->files().link({}, {ws(from), {}, 0}, ws(to)));
  };
  ASSERT_EQ(link("/d/x", "/x2"), 0);
  ASSERT_EQ(link("/a", "/d/a2"), 0);
  ASSERT_TRUE(s->files().mkdir({}, ws("/e"), 0755));
  ASSERT_TRUE(s->files().rename({}, ws("/x2"), ws("/e/x3"), 0));
  ASSERT_TRUE(s->files().rename({}, ws("/e"), ws("/f"), 0));
  const auto open = s->files().open({}, {ws("/f/x3"), {}, 0}, O_RDWR, 0);
  ASSERT_TRUE(open);
  const auto revoked = broker.revoke("d");
  ASSERT_EQ(revoked.status, 200);
  EXPECT_EQ(revoked.body["denied"].size(), 3u) << revoked.body;
  EXPECT_EQ(revoked.body["handles_closed"], 1);
  for (const char* name : {"/d/x", "/f/x3", "/a"}) EXPECT_EQ(opens(*s, name, O_RDONLY), ENOENT) << name;
  std::array<std::byte, 1> byte;
  EXPECT_FALSE(s->files().read({}, open->handle, 0, byte));
  EXPECT_EQ(opens(*s, "/f/new", O_WRONLY | O_CREAT), 0) << "nothing else";
}

// The same with a grant that ends by itself: no second name outlives it.
TEST_F(ControlChanges, WhatOnlyAGrantAllowsGetsNoOtherName) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(broker.grant("secret/k", {{"operations", {"write"}}, {"override_deny", true}}).status, 200);
  ASSERT_EQ(broker.grant("d", {{"operations", {"write"}}}).status, 200);
  ASSERT_EQ(opens(*s, "/secret/k", O_RDWR), 0);
  for (const char* to : {"/d/k", "/d/new"}) {
    EXPECT_EQ(error_of(s->files().link({}, {ws("/secret/k"), {}, 0}, ws(to))), EXDEV) << to;
    EXPECT_EQ(error_of(s->files().rename({}, ws("/secret/k"), ws(to), 0)), EXDEV) << to;
  }
  EXPECT_EQ(error_of(s->files().rename({}, ws("/d/x"), ws("/d/y"), 0)), 0) << "within one grant";
  EXPECT_EQ(error_of(s->files().link({}, {ws("/d/y"), {}, 0}, ws("/d/z"))), 0);
}

TEST_F(ControlChanges, AWiderGrantDoesNotReachWhatWasRevokedBelowIt) {
  auto s = broker.session(R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[]})");
  ASSERT_EQ(broker.grant("d").status, 200);
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), 0);
  EXPECT_EQ(broker.revoke("d/x").body["overruled"], json({"g1"}));
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), ENOENT);
}

TEST_F(ControlChanges, AMatchRuleThatAllowsOnlyBelowIsDeniedToo) {
  auto s = broker.session(R"({"version":1,"exports":[{"at":"/","from":"."}],
    "rules":[{"allow":"read","match":"/d/.*"},{"allow":"read","paths":["/*/x"]}]})");
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), 0);
  ASSERT_EQ(broker.revoke("d").status, 200);
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), ENOENT);
}

TEST_F(ControlChanges, AnOverlappingExportDoesNotKeepWhatWasRevoked) {
  auto s = broker.session(R"({"version":1,"exports":[{"at":"/","from":"."},{"at":"/again","from":"d"}],
    "rules":[{"allow":"read","paths":["/**"]}]})");
  EXPECT_EQ(opens(*s, "/again/x", O_RDONLY), 0);
  ASSERT_EQ(broker.revoke("d/x").status, 200);
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), ENOENT);
  EXPECT_EQ(opens(*s, "/again/x", O_RDONLY), ENOENT);
}

TEST_F(ControlChanges, AnOpenHandleIsClosedByARevoke) {
  auto s = broker.session();
  auto opened = s->files().open({}, {ws("/a"), {}, 0}, O_RDWR, 0);
  ASSERT_TRUE(opened);
  std::array<std::byte, 3> bytes;
  EXPECT_TRUE(s->files().read({}, opened->handle, 0, bytes));
  EXPECT_EQ(broker.revoke("a").body["handles_closed"], 1);
  EXPECT_FALSE(s->files().read({}, opened->handle, 0, bytes));
  EXPECT_FALSE(s->files().write({}, opened->handle, {}, bytes));
}

TEST_F(ControlChanges, AFileOutsideEveryExportAppearsWithTheGrantsRightsAlone) {
  auto s = broker.session();   // allows writing everywhere
  const auto granted = broker.grant("../outside");
  ASSERT_EQ(granted.status, 200) << granted.body;
  EXPECT_EQ(granted.body["path"], "/workspace/.fbroker/granted/outside");
  EXPECT_EQ(opens(*s, "/.fbroker/granted/outside", O_RDONLY), 0);
  EXPECT_EQ(opens(*s, "/.fbroker/granted/outside", O_RDWR), EACCES);
  EXPECT_NE(opens(*s, "/.fbroker/granted/other", O_RDWR | O_CREAT), 0);
  ASSERT_EQ(broker.revoke("../outside").status, 200);
  EXPECT_EQ(opens(*s, "/.fbroker/granted/outside", O_RDONLY), ENOENT);
}

TEST_F(ControlChanges, TwoOutsideFilesOfOneNameGetTwoNames) {
  auto s = broker.session();
  broker.write("other/outside", "2");
  EXPECT_EQ(broker.grant("../outside").body["path"], "/workspace/.fbroker/granted/outside");
  EXPECT_EQ(broker.grant("../other/outside").body["path"], "/workspace/.fbroker/granted/outside-2");
}

TEST_F(ControlChanges, WhatIsTheBrokersOwnOrNoFileIsNotGranted) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(::mkfifo((broker.dir / "fifo").c_str(), 0600), 0);
  for (const char* path : {"../state/grants.json", "../state", "../state/audit", "../p.json", "../run/fbroker",
                           "../fifo", "/", "~", "../nothing", "", "~root/x", "/dev/null"})
    EXPECT_NE(broker.grant(path).status, 200) << path;
  EXPECT_EQ(broker.call("GET", "/v1/grants").body["grants"].size(), 0u);
}

TEST_F(ControlChanges, AnExpiredGrantEndsByItself) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(broker.grant("a", {{"operations", {"write"}}, {"seconds", 1}}).status, 200);
  auto opened = s->files().open({}, {ws("/a"), {}, 0}, O_RDWR, 0);
  ASSERT_TRUE(opened);
  std::array<std::byte, 1> byte{};
  EXPECT_TRUE(wait_until([&] { return !s->files().write({}, opened->handle, {}, byte); }, 10s));
  EXPECT_TRUE(wait_until([&] { return broker.registry->grants().of("s").empty(); }, 10s));
  EXPECT_EQ(opens(*s, "/a", O_RDWR), EACCES);
}

TEST_F(ControlChanges, AGrantForOneOpenServesOneHandleToItsEnd) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(broker.grant("../outside", {{"once", true}}).status, 200);
  const auto path = ws("/.fbroker/granted/outside");
  auto opened = s->files().open({}, {path, {}, 0}, O_RDONLY, 0);
  ASSERT_TRUE(opened);
  EXPECT_NE(opens(*s, path.bytes(), O_RDONLY), 0);
  EXPECT_TRUE(wait_until([&] { return broker.registry->grants().of("s").front().used; }, 10s));
  EXPECT_TRUE(wait_until([&] { return opens(*s, path.bytes(), O_RDONLY) == ENOENT; }, 10s));
  std::array<std::byte, 3> bytes;
  EXPECT_TRUE(s->files().read({}, opened->handle, 0, bytes)) << "the one handle goes on";
  ASSERT_EQ(broker.revoke("../outside").status, 200);
  EXPECT_FALSE(s->files().read({}, opened->handle, 0, bytes)) << "until it is revoked";
}

TEST_F(ControlChanges, AGrantForOneOpenIsStoredAsUsedBeforeTheOpenIsAnswered) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(broker.grant("a", {{"operations", {"write"}}, {"once", true}}).status, 200);
  std::string stored;
  {
    const auto turn = s->take_turn();   // maintenance does not come to it, as if we were killed now
    EXPECT_EQ(opens(*s, "/a", O_RDWR), 0);
    std::ifstream file(broker.dir / "state/grants.json");
    std::getline(file, stored, '\0');
  }
  EXPECT_NE(stored.find("\"version\""), stored.npos);
  EXPECT_EQ(stored.find("\"once\""), stored.npos) << stored;
  s.reset();
  broker.stop();
  broker.start();
  EXPECT_EQ(opens(*broker.session(kReadOnly), "/a", O_RDWR), EACCES);
}

TEST_F(ControlChanges, RevokeAllEndsEveryGrantAndOpensNothing) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(broker.revoke("d").status, 200);
  ASSERT_EQ(broker.grant("a", {{"operations", {"write"}}}).status, 200);
  ASSERT_EQ(broker.call("POST", "/v1/revoke", {{"all", true}}).status, 200);
  EXPECT_EQ(opens(*s, "/a", O_RDWR), EACCES);
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), ENOENT) << "what a revoke denied stays denied";
  const auto lifted = broker.revoke("r1");
  ASSERT_EQ(lifted.body["lifted"].size(), 1u) << lifted.body;
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), 0) << "taken back by its id";
}

TEST_F(ControlChanges, ABrokenPolicyChangesNothingAndANewOneIsTakenUpByItself) {
  auto s = broker.session(kReadOnly);
  broker.write("p.json", R"({"version":1,"rulez":[]})");
  EXPECT_EQ(broker.call("POST", "/v1/reload").status, 422);
  EXPECT_EQ(opens(*s, "/a", O_RDONLY), 0);
  EXPECT_NE(broker.heard().find("BROKEN"), std::string::npos);
  auto opened = s->files().open({}, {ws("/a"), {}, 0}, O_RDONLY, 0);
  broker.write("p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"read","paths":["/d"]}]})");
  EXPECT_TRUE(wait_until([&] { return opens(*s, "/a", O_RDONLY) == ENOENT; }, 10s)) << "inotify";
  std::array<std::byte, 1> byte;
  EXPECT_TRUE(wait_until([&] { return !s->files().read({}, opened->handle, 0, byte); }, 10s));
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), 0);
}

TEST_F(ControlChanges, GrantsAndTheSessionSurviveTheBroker) {
  broker.session(kReadOnly);
  ASSERT_EQ(broker.grant("../outside").status, 200);
  ASSERT_EQ(broker.revoke("d").status, 200);
  broker.stop();
  broker.start();
  broker.registry->restore("");
  auto s = broker.registry->find("s");
  ASSERT_TRUE(s) << broker.heard();
  EXPECT_EQ(opens(*s, "/.fbroker/granted/outside", O_RDONLY), 0);
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), ENOENT);
  EXPECT_EQ(opens(*s, "/a", O_RDONLY), 0);
}

TEST_F(ControlChanges, ASessionsEndIsReportedAndItsGrantsAreGone) {
  auto s = broker.session(kReadOnly);
  ASSERT_EQ(broker.grant("a", {{"operations", {"write"}}}).status, 200);
  EXPECT_EQ(opens(*s, "/a", O_RDWR), 0);
  EXPECT_EQ(opens(*s, "/d/x", O_RDONLY), 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(opens(*s, "/secret/k", O_RDONLY), ENOENT);
  const auto report = broker.call("POST", "/v1/sessions/s/end", json::object());
  ASSERT_EQ(report.status, 200);
  EXPECT_EQ(report.body["read"], 1);
  EXPECT_EQ(report.body["changed"], 1);
  ASSERT_EQ(report.body["refused"].size(), 1u) << report.body;
  EXPECT_EQ(report.body["refused"][0]["count"], 3);
  EXPECT_EQ(report.body["refused"][0]["rule"], "policy:/rules/1");
  EXPECT_NE(report.body["refused"][0]["lift"].get<std::string>().find("--override-deny"), std::string::npos);
  EXPECT_TRUE(broker.registry->grants().of("s").empty());
  EXPECT_EQ(broker.call("GET", "/v1/sessions/s").status, 404);
}

TEST_F(ControlChanges, WhatMakesNoSenseIsRefusedAndNamed) {
  broker.session(kReadOnly);
  const std::string cwd = (broker.dir / "project").string();
  struct Case { std::string method, target; json body; int status; std::string names; };
  const Case cases[] = {
      {"POST", "/v1/grants", {{"path", "a"}, {"cwd", cwd}, {"operations", {"reed"}}}, 400, "reed"},
      {"POST", "/v1/grants", {{"path", "a"}, {"cwd", cwd}, {"operations", {"read"}}, {"secs", 1}}, 400, "secs"},
      {"POST", "/v1/grants", {{"path", "a"}, {"cwd", cwd}, {"operations", json::array()}}, 400, "operations"},
      {"POST", "/v1/grants", {{"path", "a"}, {"operations", {"read"}}}, 403, "relative"},
      {"POST", "/v1/grants", {{"path", "a"}, {"cwd", cwd}, {"operations", {"read"}}, {"seconds", 0}}, 400, "seconds"},
      {"POST", "/v1/revoke", {{"target", "g99"}}, 404, "g99"},
      {"POST", "/v1/revoke", json::object(), 400, "target"},
      {"POST", "/v1/check", {{"path", "a"}, {"cwd", cwd}, {"operation", "fly"}}, 400, "operation"},
      {"POST", "/v1/sessions", {{"name", "../x"}, {"root", cwd}}, 422, "../x"},
      {"POST", "/v1/sessions", {{"name", "s"}, {"root", cwd}}, 409, "s"},
      {"POST", "/v1/sessions", {{"name", "t"}, {"root", "/"}}, 422, "exported whole"},
      {"POST", "/v1/sessions", {{"name", "t"}, {"root", cwd}, {"policy", "/no/such"}}, 422, "/no/such"},
      {"POST", "/v1/sessions/s/sandbox", {{"pid", 1}}, 403, "pid 1"},
      {"GET", "/v1/sessions/nobody", json(), 404, "nobody"},
      {"DELETE", "/v1/grants", json(), 405, "DELETE"},
      {"GET", "/v2/x", json(), 404, "/v2/x"},
  };
  for (const Case& one : cases) {
    const auto answer = broker.call(one.method, one.target, one.body);
    EXPECT_EQ(answer.status, one.status) << one.target << " " << one.body << answer.body;
    EXPECT_NE(answer.body.dump().find(one.names), std::string::npos) << one.target << answer.body;
  }
  EXPECT_EQ(broker.front->handle({"GET", "/v1/status", "", "", "http://evil", ""}).status, 403);
}

TEST_F(ControlChanges, TheAuditTellsGrantAndRevoke) {
  broker.session(kReadOnly);
  broker.grant("secret", {{"override_deny", true}, {"because", "a test"}});
  broker.revoke("secret");
  broker.registry->audit().sync(5s);
  std::ifstream log(broker.dir / "state/audit/000001.jsonl");
  const std::string text((std::istreambuf_iterator<char>(log)), {});
  for (const char* part : {"\"grant\"", "\"revoke\"", "override-deny", "a test", "g1"})
    EXPECT_NE(text.find(part), std::string::npos) << part << text;
}

}  // namespace
}  // namespace fbroker::test
