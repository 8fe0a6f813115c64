// What is left when a launcher or a broker was killed: nothing that nobody
// would ever use again. Real programs; as root and as an ordinary user.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/agent_session.h"
#include "tests/support/temp_tree.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

class SessionEnds : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "ordinary" && ::getuid() != 0) GTEST_SKIP() << "we are the ordinary user already";
    home.emplace(GetParam() == "ordinary" ? "fbroker-test" : "");
    home->write("a", "content");
  }
  Process serve() {
    Process broker = Process::start({programs_directory() + "/fbroker", "serve"}, home->as());
    EXPECT_TRUE(wait_until([&] { return home->fbroker({"status"}).status == 0; }, 20s)) << broker.errors();
    return broker;
  }
  // Sockets, directories and locks, without those that every broker needs.
  std::string left(const std::string& but = "") const {
    std::string left;
    for (const std::string& name : names_below(home->path() / "run/fbroker"))
      if (name != "control" && name != ".locks" && (but.empty() || name.find(but) == name.npos)) left += name + "\n";
    return left;
  }
  // Programs of the sandbox: they carry the session's mark in their command line.
  bool runs(const std::string& mark) const {
    return home->shell("pgrep -f '[" + mark.substr(0, 1) + "]" + mark.substr(1) + "' || true").out != "";
  }
  std::optional<Home> home;
};

INSTANTIATE_TEST_SUITE_P(, SessionEnds,
                         testing::Values(::getuid() == 0 ? "root" : "self", "ordinary"),
                         [](const auto& user) { return user.param; });

TEST_P(SessionEnds, AKilledLaunchersSessionOnARunningBrokerIsGone) {
  Process broker = serve();
  AgentShell agent(*home, "work");
  ASSERT_EQ(agent("cat a; sleep 98765 &").out.substr(0, 7), "content") << agent.errors();
  ASSERT_TRUE(runs("sleep 98765"));
  agent.process().signal(SIGKILL);
  EXPECT_TRUE(wait_until([&] { return left("default") == ""; })) << left();
  EXPECT_TRUE(wait_until([&] { return !runs("sleep 98765"); }));
  EXPECT_FALSE(home->fbroker({"status", "--json"}).out.find("\"work\"") != std::string::npos);
  const Output story = home->fbroker({"audit", "search", "--json", "--dir", home->audit_dir("default").string()});
  EXPECT_NE(story.out.find("launcher gone"), std::string::npos) << story.out << story.err;
  AgentShell again(*home, "work");  // the name is free
  EXPECT_EQ(again("cat a").out.substr(0, 7), "content") << again.errors();
  EXPECT_EQ(again.finish(), 0);
  EXPECT_EQ(left("default"), "") << "a clean end leaves nothing, either";
}

TEST_P(SessionEnds, AnEmbeddedBrokersSessionLeavesNothingWhetherEndedOrKilled) {
  {
    AgentShell agent(*home, "work");
    ASSERT_EQ(agent("cat a").out.substr(0, 7), "content") << agent.errors();
    EXPECT_NE(left(), "");
    EXPECT_EQ(agent.finish(), 0);
    EXPECT_EQ(left(), "");
  }
  AgentShell agent(*home, "work");
  ASSERT_EQ(agent("cat a").out.substr(0, 7), "content") << agent.errors();
  agent.process().signal(SIGKILL);
  EXPECT_TRUE(wait_until([&] { return left() == ""; })) << left();
}

TEST_P(SessionEnds, WhatAKilledBrokerAndLauncherLeftTheNextStartRemoves) {
  {
    Process broker = serve();
    AgentShell agent(*home, "work");
    ASSERT_EQ(agent("cat a").out.substr(0, 7), "content") << agent.errors();
    broker.signal(SIGKILL);
    broker.wait();
    agent.process().signal(SIGKILL);
    agent.process().wait();
    EXPECT_NE(left("default"), "");
  }
  Process broker = serve();
  EXPECT_EQ(left("default"), "");
  EXPECT_EQ(home->fbroker({"status", "--json"}).out.find("\"work\""), std::string::npos);
  EXPECT_EQ(home->fbroker({"serve"}).status, 2) << "a live one is refused";
  EXPECT_NE(left(), "") << "and keeps its own";
}

TEST_P(SessionEnds, ALiveLaunchersSessionIsTakenUpByTheNextBroker) {
  Process first = serve();
  AgentShell agent(*home, "work", {"--transport", "http"});   // a device goes with its broker
  ASSERT_EQ(agent("cat a").out.substr(0, 7), "content") << agent.errors();
  first.signal(SIGKILL);
  first.wait();
  Process next = serve();
  EXPECT_EQ(agent("cat a").out.substr(0, 7), "content") << agent.errors();
  agent.process().signal(SIGKILL);
  EXPECT_TRUE(wait_until([&] { return left("default") == ""; })) << left();
}

}  // namespace
}  // namespace fbroker::test
