// The data socket as a polite client sees it; the impolite ones are in
// tests/attack/http_*_test.cc.
#include "broker/http/http_front.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "tests/broker/http_session.h"

namespace fbroker::test {
namespace {

using nlohmann::json;

std::string handle_of(const std::string& reply) {
  return json::parse(body_of(reply))["handle"].get<std::string>();
}

TEST(HttpFrontRoutes, AFileIsReadWrittenAndListedByPath) {
  HttpSession session;
  session.files.tree.mkdir("w/d");
  RawClient client(session.socket());
  client.send("PUT /v1/files?path=/d/a%20b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
  EXPECT_EQ(body_of(client.reply()), R"({"written":5})");
  EXPECT_EQ(session.files.tree.read("w/d/a b"), "hello");
  EXPECT_EQ(body_of(client.get("/v1/files?path=/d/a%20b")), "hello");
  const std::string part = client.get("/v1/files?path=/d/a%20b", "Range: bytes=1-3\r\n");
  EXPECT_EQ(status_of(part), 206u);
  EXPECT_EQ(body_of(part), "ell");
  EXPECT_NE(part.find("Content-Range: bytes 1-3/5\r\n"), std::string::npos);
  EXPECT_EQ(status_of(client.get("/v1/files?path=/d/a%20b", "Range: bytes=5-\r\n")), 416u);
  EXPECT_NE(client.get("/v1/list?path=/d").find("\"name\":\"a b\""), std::string::npos);
  EXPECT_EQ(session.files.service->open_handles(), 0u);
}

// An upload that breaks off in its first piece has changed nothing.
TEST(HttpFrontRoutes, AnUploadThatBreaksOffLeavesTheOldContent) {
  HttpSession session;
  session.files.tree.write("w/a", "old content");
  const auto upload = [&](const std::string& sent) {
    {
      RawClient client(session.socket());
      client.send("PUT /v1/files?path=/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n" + sent);
      if (sent.size() == 10) EXPECT_EQ(status_of(client.reply()), 200u);
      else EXPECT_TRUE(eventually([&] { return session.files.service->open_handles() == 1; }));
    }
    EXPECT_TRUE(eventually([&] { return session.files.service->open_handles() == 0; }));
    return session.files.tree.read("w/a");
  };
  EXPECT_EQ(upload("half "), "old content");
  EXPECT_EQ(upload(""), "old content");
  EXPECT_EQ(upload("0123456789"), "0123456789");
}

// The file stays the file it is: its other names, its mode and who has it open.
TEST(HttpFrontRoutes, AnUploadKeepsTheFileItReplacesTheContentOf) {
  HttpSession session;
  session.files.tree.write("w/a", "old content");
  std::filesystem::permissions(session.files.tree.path("w/a"), std::filesystem::perms(0751));
  std::filesystem::create_hard_link(session.files.tree.path("w/a"), session.files.tree.path("w/b"));
  RawClient client(session.socket());
  client.send("PUT /v1/files?path=/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nnew");
  EXPECT_EQ(status_of(client.reply()), 200u);
  EXPECT_EQ(session.files.tree.read("w/b"), "new");
  EXPECT_EQ(std::filesystem::status(session.files.tree.path("w/a")).permissions(), std::filesystem::perms(0751));
}

// pid is what the client says, peer_pid what the kernel says of it.
TEST(HttpFrontRecords, TheProcessThatConnectedIsInEveryRecordOfItsCalls) {
  HttpSession session;
  session.files.tree.write("w/a", "content");
  RawClient client(session.socket());
  client.get("/v1/files?path=/a", "Fbroker-Pid: 4711\r\n");
  client.get("/v1/files?path=/absent", "Fbroker-Pid: 4711\r\n");
  const auto records = session.files.audit.records();
  ASSERT_GE(records.size(), 2u);
  for (const auto& record : records) {
    EXPECT_EQ(record.pid, 4711u) << record.operation;
    EXPECT_EQ(record.peer_pid, static_cast<std::uint32_t>(::getpid())) << record.operation;
  }
}

TEST(HttpFrontRoutes, LinksAreResolvedForPathsAndNotBeyondTheExport) {
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  std::filesystem::create_symlink("a", session.host() + "/in");
  std::filesystem::create_symlink("/etc/passwd", session.host() + "/out");
  RawClient client(session.socket());
  EXPECT_EQ(body_of(client.get("/v1/files?path=/in")), "hello");
  const std::string out = client.get("/v1/files?path=/out");
  EXPECT_GE(status_of(out), 400u);
  EXPECT_EQ(out.find("root:"), std::string::npos);
}

TEST(HttpFrontRecords, AFileReachedThroughLinksIsRecordedAsAskedToo) {
  HttpSession session;
  session.files.tree.write("w/d/a", "hello");
  std::filesystem::create_symlink("d", session.host() + "/in");
  RawClient client(session.socket());
  ASSERT_EQ(body_of(client.get("/v1/files?path=/in/a")), "hello");
  ASSERT_EQ(body_of(client.get("/v1/files?path=/d/a")), "hello");
  const auto records = session.files.audit.records();
  std::vector<std::string> asked;
  for (const auto& record : records)
    if (record.operation == "open") {
      EXPECT_EQ(record.path, "/d/a");
      asked.push_back(record.requested);
    }
  EXPECT_EQ(asked, (std::vector<std::string>{"/in/a", ""}));
}

TEST(HttpFrontRecords, ALinkThatLeavesTheWorkspaceIsRefusedOnTheRecord) {
  HttpSession session;
  session.files.tree.mkdir("w/d");
  RawClient client(session.socket());
  for (const char* target : {"/etc/passwd", "../../../etc/passwd"}) {
    std::filesystem::remove(session.host() + "/d/out");
    std::filesystem::create_symlink(target, session.host() + "/d/out");
    EXPECT_EQ(status_of(client.get("/v1/files?path=/d/out")), 403u) << target;
    const auto records = session.files.audit.records();
    ASSERT_FALSE(records.empty());
    EXPECT_EQ(records.back().path, "/d/out");
    EXPECT_EQ(records.back().target, target);
    EXPECT_EQ(records.back().reason, "link-leaves-workspace");
    EXPECT_EQ(records.back().error, EACCES);
  }
}

TEST(HttpFrontRoutes, PermissionsAreOctalTextAndNothingElse) {
  HttpSession session;
  for (const char* wrong : {"", "%200777", "-1", "+7", "0778", "1000", "0x1ff", "7%00"}) {
    RawClient client(session.socket());
    client.send(std::string("PUT /v1/files?path=/new&permissions=") + wrong +
                " HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx");
    EXPECT_EQ(status_of(client.reply()), 400u) << wrong;
  }
  EXPECT_FALSE(std::filesystem::exists(session.host() + "/new"));
  RawClient client(session.socket());
  client.send("PUT /v1/files?path=/new&permissions=0640 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx");
  EXPECT_EQ(status_of(client.reply()), 200u);
}

TEST(HttpFrontRoutes, BytesOfAnySizeGoBothWaysInPieces) {
  HttpSession session;
  std::string big(5'000'003, '\0');
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 31 >> 3);
  RawClient client(session.socket());
  client.send("PUT /v1/files?path=/big HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (std::size_t at = 0; at < big.size(); at += 70'001) {
    const std::string chunk = big.substr(at, 70'001);
    char size[16];
    std::snprintf(size, sizeof size, "%zx\r\n", chunk.size());
    client.send(size + chunk + "\r\n");
  }
  client.send("0\r\n\r\n");
  EXPECT_EQ(body_of(client.reply()), R"({"written":5000003})");
  EXPECT_TRUE(session.files.tree.read("w/big") == big);
  const std::string range = client.get("/v1/files?path=/big", "Range: bytes=0-\r\n");
  EXPECT_TRUE(body_of(range) == big);
  // Without a range it comes in chunks.
  RawClient second(session.socket());
  second.send("GET /v1/files?path=/big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string all = second.rest();
  EXPECT_NE(all.find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_GT(all.size(), big.size());
  EXPECT_TRUE(all.ends_with("\r\n0\r\n\r\n"));
}

TEST(HttpFrontRoutes, PipelinedRequestsAreAnsweredInOrder) {
  HttpSession session;
  std::string all;
  for (int i = 0; i < 1000; ++i) {
    session.files.tree.write("w/f" + std::to_string(i % 10), std::to_string(i % 10));
    all += "GET /v1/files?path=/f" + std::to_string(i % 10) + " HTTP/1.1\r\nHost: x\r\n\r\n";
  }
  RawClient client(session.socket());
  std::thread sender([&] { client.send(all); });
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(body_of(client.reply()), std::to_string(i % 10));
  sender.join();
}

TEST(HttpFrontRoutes, ExpectContinueIsAnsweredBeforeTheBody) {
  HttpSession session;
  RawClient client(session.socket());
  client.send("PUT /v1/files?path=/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(status_of(client.reply()), 100u);
  client.send("ok");
  EXPECT_EQ(status_of(client.reply()), 200u);
}

TEST(HttpFrontRoutes, AHalfClosedClientStillGetsItsAnswer) {
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  RawClient client(session.socket());
  client.send("GET /v1/files?path=/a HTTP/1.1\r\nHost: x\r\n\r\n");
  client.finish_sending();
  EXPECT_EQ(body_of(client.rest()), "hello");
}

TEST(HttpFrontProblems, AHiddenNameIsByteForByteAnAbsentOne) {
  HttpSession session({}, {allow("write", {"/**"}), deny("all", {"**/.env", "**/.none"})});
  session.files.tree.write("w/.env", "SECRET=1");
  RawClient client(session.socket());
  for (const std::string call : {"lookup", "stat", "readlink", "unlink", "rmdir", "opendir"}) {
    const std::string hidden = client.post("/v1/" + call, R"({"path":"/.env"})");
    const std::string absent = client.post("/v1/" + call, R"({"path":"/.none"})");
    const std::string unknown = client.post("/v1/" + call, R"({"path":"/never"})");
    EXPECT_EQ(status_of(hidden), 404u) << call;
    EXPECT_EQ(hidden, absent) << call;
    EXPECT_EQ(body_of(hidden), body_of(unknown)) << call;
    EXPECT_EQ(hidden.find("test:"), std::string::npos) << "names a rule";
  }
  const std::string flags = R"(,"flags":["read"]})";
  EXPECT_EQ(client.post("/v1/open", R"({"path":"/.env")" + flags),
            client.post("/v1/open", R"({"path":"/.none")" + flags));
  EXPECT_EQ(body_of(client.get("/v1/files?path=/.env")), body_of(client.get("/v1/files?path=/never")));
}

TEST(HttpFrontProblems, ARefusalOfAHiddenNameNamesNoRule) {
  HttpSession session({}, {allow("write", {"/**"}), deny("all", {"**/.env"}), ask("write", {"**/.env"})});
  RawClient client(session.socket());
  for (const std::string& reply :
       {client.post("/v1/open", R"({"path":"/.env","flags":["write","create"],"permissions":"0644"})"),
        client.post("/v1/mkdir", R"({"path":"/.env","permissions":"0755"})"),
        client.post("/v1/symlink", R"({"path":"/.env","target":"a"})")}) {
    EXPECT_EQ(status_of(reply), 403u);
    EXPECT_EQ(reply.find("rule"), std::string::npos) << reply;
    EXPECT_EQ(reply.find("askable"), std::string::npos) << reply;
  }
}

TEST(HttpFrontProblems, ARefusalOfAVisibleNameNamesItsRule) {
  HttpSession session({}, {allow("read", {"/**"}), ask("write", {"/a"})});
  session.files.tree.write("w/a", "");
  session.files.tree.write("w/b", "");
  RawClient client(session.socket());
  const std::string a = client.post("/v1/open", R"({"path":"/a","flags":["write"]})");
  EXPECT_EQ(status_of(a), 403u);
  EXPECT_NE(a.find("application/problem+json"), std::string::npos);
  const json problem = json::parse(body_of(a));
  EXPECT_EQ(problem["errno"], "EACCES");
  EXPECT_EQ(problem["rule"], "test:ask-write");
  EXPECT_EQ(problem["askable"], true);
  const json other = json::parse(body_of(client.post("/v1/open", R"({"path":"/b","flags":["write"]})")));
  EXPECT_EQ(other["rule"], "default");
  EXPECT_EQ(other["askable"], false);
}

TEST(HttpFrontRevoke, NothingIsSentFromAnOpenHandleAfterwards) {
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  RawClient client(session.socket());
  const std::string handle = handle_of(client.post("/v1/open", R"({"path":"/a","flags":["read_write"]})"));
  EXPECT_EQ(body_of(client.get("/v1/handles/" + handle + "/data")), "hello");
  session.files.set_rules({deny("all", {"/a"}), allow("write", {"/**"})});
  EXPECT_GE(status_of(client.get("/v1/handles/" + handle + "/data")), 400u);
  client.send("PUT /v1/handles/" + handle + "/data?offset=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nX");
  EXPECT_GE(status_of(client.reply()), 400u);
  EXPECT_EQ(session.files.tree.read("w/a"), "hello");
}

// A client that does not read holds its Admission, and with it the drain; cut,
// it lets go.
TEST(HttpFrontRevoke, AClientThatDoesNotReadIsCutAndHoldsNothingUp) {
  HttpSession session;
  session.files.tree.write("w/big", std::string(8 << 20, 'x'));
  RawClient stuck(session.socket());
  stuck.send("GET /v1/files?path=/big HTTP/1.1\r\nHost: x\r\n\r\n");
  auto& admissions = *session.files.admissions;
  const auto next = std::make_shared<const broker::View>(*admissions.current());
  ASSERT_TRUE(eventually([&] { return stuck.more(); }));
  admissions.publish(next);
  EXPECT_FALSE(admissions.drain(std::chrono::milliseconds(100))) << "it does not hold an Admission";
  EXPECT_EQ(session.front->abort_older_than_publish(), 1u);
  EXPECT_TRUE(admissions.drain(std::chrono::seconds(10)));
  EXPECT_LT(stuck.rest().size(), 8u << 20);
}

TEST(HttpFrontRevoke, AClientUnderTheNewViewIsNotCut) {
  HttpSession session;
  session.files.tree.write("w/big", std::string(8 << 20, 'x'));
  RawClient slow(session.socket());
  slow.send("GET /v1/files?path=/big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return slow.more(); }));
  EXPECT_EQ(session.front->abort_older_than_publish(), 0u);
  EXPECT_GT(slow.rest().size(), 8u << 20);
}

TEST(HttpFrontStop, ARunningReplyIsFinishedWithinItsGrace) {
  HttpSession session;
  session.files.tree.write("w/big", std::string(8 << 20, 'x'));
  RawClient client(session.socket());
  client.send("GET /v1/files?path=/big HTTP/1.1\r\nHost: x\r\nRange: bytes=0-\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return client.more(); }));
  std::thread stopper([&] { session.front->stop(std::chrono::seconds(10)); });
  EXPECT_EQ(body_of(client.reply()).size(), 8u << 20);
  stopper.join();
  EXPECT_EQ(session.front->connections(), 0u);
}

TEST(UnixListenerBind, ALiveSocketIsRefusedAndADeadOneTakenOver) {
  TempTree tree;
  tree.mkdir("s");
  auto first = broker::bind_unix_socket(tree.path("s"), "x.sock", 0600, tree.path("lock"));
  ASSERT_TRUE(first) << first.error().text();
  const auto second = broker::bind_unix_socket(tree.path("s"), "x.sock", 0600, tree.path("lock"));
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().text().find("another broker"), std::string::npos);
  // ATTACK: what lies in the mounted directory, a sandbox can lock.
  const std::filesystem::directory_iterator shown(tree.path("s"));
  EXPECT_EQ(std::distance(begin(shown), end(shown)), 1);
  { const auto gone = std::move(first).value(); }
  EXPECT_TRUE(tree.exists("s/x.sock"));
  EXPECT_TRUE(broker::bind_unix_socket(tree.path("s"), "x.sock", 0600, tree.path("lock")));
}

TEST(UnixListenerBind, SomebodyElsesListenerWithoutTheLockIsRefusedToo) {
  TempTree tree;
  tree.mkdir("s");
  const auto first = broker::bind_unix_socket(tree.path("s"), "x.sock", 0600, tree.path("lock"));
  ASSERT_TRUE(first);
  std::filesystem::remove(tree.path("lock"));
  EXPECT_FALSE(broker::bind_unix_socket(tree.path("s"), "x.sock", 0600, tree.path("lock")));
}

TEST(UnixListenerBind, WhatIsNoSocketAndWhereOthersMayWriteIsLeftAlone) {
  TempTree tree;
  tree.write("s/x.sock", "data");
  EXPECT_FALSE(broker::bind_unix_socket(tree.path("s"), "x.sock", 0600, tree.path("lock")));
  EXPECT_EQ(tree.read("s/x.sock"), "data");
  tree.mkdir("open");
  ::chmod(tree.path("open").c_str(), 0777);
  EXPECT_FALSE(broker::bind_unix_socket(tree.path("open"), "x.sock", 0600, tree.path("lock")));
  EXPECT_FALSE(broker::bind_unix_socket(tree.path("s"), std::string(200, 'x'), 0600, tree.path("lock")));
}

}  // namespace
}  // namespace fbroker::test
