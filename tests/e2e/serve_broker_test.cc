// `fbroker serve` and the person's verbs, as real programs.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class ServeBroker : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "ordinary" && ::getuid() != 0) GTEST_SKIP() << "we are the ordinary user already";
    home.emplace(GetParam() == "ordinary" ? "fbroker-test" : "");
    home->write("a", "content");
    home->write(".env", "TOKEN=1");
  }
  // Started and answering.
  Process serve(std::vector<std::string> options = {}) {
    std::vector<std::string> argv{programs_directory() + "/fbroker", "serve"};
    argv.insert(argv.end(), options.begin(), options.end());
    Process broker = Process::start(argv, home->as());
    EXPECT_TRUE(wait_until([&] { return home->fbroker({"status"}).status == 0; }, 20s)) << broker.errors();
    return broker;
  }
  fs::path socket() const { return home->path() / "run/fbroker/default/broker.sock"; }
  std::string get(const std::string& path) const {
    return home->shell("curl -s --max-time 20 --unix-socket " + socket().string() +
                       " 'http://x/v1/files?path=" + path + "' | tr -d '\\n'").out;
  }
  std::optional<Home> home;
};

INSTANTIATE_TEST_SUITE_P(, ServeBroker,
                         testing::Values(::getuid() == 0 ? "root" : "self", "ordinary"),
                         [](const auto& user) { return user.param; });

TEST_P(ServeBroker, SaysAtItsStartWhatItServesAndWhatItHides) {
  Process broker = serve();
  const auto start = broker.read_until("other terminal: fbroker grant", 20s);
  ASSERT_TRUE(start);
  for (const std::string& part : {std::string("session default"), "/workspace = " + home->project().string() + " (rw)",
                                 socket().string(), std::string("1 hidden: /.env"), std::string("base rules on: env"),
                                 home->audit_dir("default").string()})
    EXPECT_TRUE(has(*start, part)) << part << " is not in\n" << *start;
  EXPECT_EQ(get("/a"), "content");
  EXPECT_TRUE(has(get("/.env"), "ENOENT"));
}

TEST_P(ServeBroker, GrantAndRevokeFromAnotherTerminal) {
  Process broker = serve();
  const Output refused = home->fbroker({"grant", ".env"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_TRUE(has(refused.err, "base:env") && has(refused.err, "--override-deny")) << refused.err;
  EXPECT_EQ(home->fbroker({"grant", ".env", "--read", "--override-deny", "--because", "test"}).status, 0);
  EXPECT_EQ(get("/.env"), "TOKEN=1");
  EXPECT_TRUE(has(home->fbroker({"grants"}).out, "/workspace/.env"));
  EXPECT_EQ(home->fbroker({"check", ".env", "read"}).status, 0);
  EXPECT_EQ(home->fbroker({"revoke", ".env"}).status, 0);
  EXPECT_TRUE(has(get("/.env"), "ENOENT"));
  EXPECT_EQ(home->fbroker({"check", ".env", "read"}).status, 1);
  EXPECT_EQ(home->fbroker({"revoke", "g77"}).status, 1);
  EXPECT_EQ(home->fbroker({"grant", "a", "--for", "soon"}).status, 2);
  const json grants = json::parse(home->fbroker({"grants", "--json"}).out);
  EXPECT_EQ(grants["grants"].size(), 0u);
}

TEST_P(ServeBroker, AFileFromOutsideIsShownForItsTimeAndGoes) {
  Process broker = serve();
  ASSERT_EQ(home->shell("mkdir ../tmp/d; echo spec > ../tmp/d/spec.pdf").status, 0);
  const Output granted = home->fbroker({"grant", "../tmp/d/spec.pdf", "--for", "2s"});
  ASSERT_EQ(granted.status, 0) << granted.err;
  EXPECT_TRUE(has(granted.out, "/workspace/.fbroker/granted/spec.pdf")) << granted.out;
  EXPECT_EQ(get("/.fbroker/granted/spec.pdf"), "spec");
  EXPECT_TRUE(wait_until([&] { return has(get("/.fbroker/granted/spec.pdf"), "ENOENT"); }, 20s));
}

TEST_P(ServeBroker, AKilledBrokersSuccessorKeepsGrantsAndDenies) {
  {
    Process broker = serve();
    ASSERT_EQ(home->fbroker({"grant", ".env", "--override-deny"}).status, 0);
    ASSERT_EQ(home->fbroker({"revoke", "a"}).status, 0);
    broker.signal(SIGKILL);
    broker.wait();
  }
  EXPECT_EQ(home->fbroker({"status"}).status, 3);
  Process broker = serve();  // over the stale sockets
  EXPECT_EQ(get("/.env"), "TOKEN=1");
  EXPECT_TRUE(has(get("/a"), "ENOENT"));
  EXPECT_EQ(home->fbroker({"audit", "verify", "--dir", home->audit_dir("default").string()}).status, 0);
}

TEST_P(ServeBroker, TheLogStatesAKillOnceAndAnOrderlyEndNot) {
  const auto log = [&](const std::string& what, std::vector<std::string> options) {
    options.insert(options.begin(), {"audit", what, "--dir", home->audit_dir("default").string()});
    return home->fbroker(options);
  };
  const auto records_of = [&](const std::string& operation) {
    const std::string text = home->shell("cat " + home->audit_dir("default").string() + "/*.jsonl").out;
    std::size_t count = 0;
    for (std::size_t at = 0; (at = text.find("\"operation\":\"" + operation + '"', at)) != text.npos; ++at) ++count;
    return count;
  };
  {
    Process broker = serve();
    for (int i = 0; i < 20; ++i) ASSERT_EQ(get("/a"), "content");
    broker.signal(SIGKILL);   // with records in the ring alone
    broker.wait();
  }
  for (int orderly = 0; orderly < 2; ++orderly) {
    Process broker = serve();
    EXPECT_EQ(records_of("restart"), 1u) << "it is there before the successor answers";
    EXPECT_EQ(records_of("open"), 20u) << "what was answered is in no log";
    broker.signal(SIGTERM);
    EXPECT_EQ(broker.wait(20s), 0) << broker.errors();
  }
  EXPECT_EQ(records_of("restart"), 1u);
  const Output verified = log("verify", {});
  EXPECT_EQ(verified.status, 0) << verified.out << verified.err;
  EXPECT_TRUE(has(log("search", {"--op", "restart"}).out, "killed"));
}

TEST_P(ServeBroker, ASecondBrokerOnALiveSocketIsRefusedAndTheFirstGoesOn) {
  Process broker = serve();
  const Output second = home->fbroker({"serve"});
  EXPECT_EQ(second.status, 2);
  EXPECT_TRUE(has(second.err, "fbroker status")) << second.err;
  EXPECT_EQ(get("/a"), "content");
}

TEST_P(ServeBroker, ABrokenPolicyIsToldAndTheOldOneStays) {
  home->write("../p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"read","paths":["/**"]}]})");
  Process broker = serve({"--policy", "../p.json"});
  EXPECT_EQ(get("/a"), "content");
  home->write("../p.json", R"({"version":1,"rulez":[]})");
  EXPECT_TRUE(wait_until([&] { return has(broker.errors(), "BROKEN") && has(broker.errors(), "rulez"); }, 20s)) << broker.errors();
  EXPECT_EQ(get("/a"), "content");
  home->write("../p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[]})");
  broker.signal(SIGHUP);
  EXPECT_TRUE(wait_until([&] { return has(get("/a"), "ENOENT"); }, 20s)) << broker.errors();
}

TEST_P(ServeBroker, EndsOnSigtermWithNothingLost) {
  Process broker = serve();
  ASSERT_EQ(home->fbroker({"grant", ".env", "--override-deny"}).status, 0);
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(20s), 0) << broker.errors();
  EXPECT_EQ(home->fbroker({"audit", "verify", "--dir", home->audit_dir("default").string()}).status, 0);
  Process next = serve();
  EXPECT_EQ(get("/.env"), "TOKEN=1");
}

TEST_P(ServeBroker, WithoutABrokerTheVerbsSayHowToStartOne) {
  for (const std::vector<std::string>& verb :
       {std::vector<std::string>{"grant", "a"}, {"revoke", "a"}, {"grants"}, {"status"}, {"check", "a", "read"}}) {
    const Output output = home->fbroker(verb);
    EXPECT_EQ(output.status, 3) << verb[0];
    EXPECT_TRUE(has(output.err, "fbroker serve")) << output.err;
  }
  EXPECT_EQ(home->fbroker({"nonsense"}).status, 2);
  EXPECT_EQ(home->fbroker({"grant"}).status, 2);
  EXPECT_EQ(home->fbroker({"--version"}).status, 0);
  home->write("p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"read","paths":["/**"]},{"ask":"write","paths":["/a"]}]})");
  EXPECT_EQ(home->fbroker({"check", "a", "read", "--policy", "p.json"}).status, 0);
  EXPECT_EQ(home->fbroker({"check", "a", "write", "--policy", "p.json"}).status, 4);
  EXPECT_EQ(home->fbroker({"check", ".env", "read", "--policy", "p.json"}).status, 1);
}

TEST_P(ServeBroker, OnlyItsUserReachesItAndItsFilesAreItsOwn) {
  Process broker = serve();
  struct stat info{};
  ASSERT_EQ(::stat((home->path() / "run/fbroker").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  ASSERT_EQ(::stat((home->path() / "run/fbroker/control/default.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((home->path() / "state/fbroker/default").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_P(ServeBroker, AnEmbeddedOneGoesWithItsParent) {
  // The parent is a shell that starts it, waits until it can be called, and ends.
  const Output output = home->shell(
      "mkfifo ready; (" + programs_directory() + "/fbroker serve --embedded --session e --ready-fd 3 3>ready "
      ">/dev/null 2>&1 & read line <ready; echo \"$line\")");
  ASSERT_TRUE(has(output.out, "control/e.sock")) << output.out << output.err;
  EXPECT_TRUE(wait_until([&] { return home->fbroker({"status"}).status == 3; }, 20s));
}

}  // namespace
}  // namespace fbroker::test
