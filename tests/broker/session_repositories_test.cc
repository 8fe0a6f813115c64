// Sessions whose root lies inside what a base rule names, and repositories that
// only the host's disk tells of.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "broker/grants/changes.h"
#include "broker/sessions/repositories.h"
#include "tests/broker/session_broker.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

TEST(GitPaths, AreReadAsGitReadsThem) {
  const auto found = broker::git_paths_in(
      "[core]\n\tbare = false\n\thooksPath = scripts/hooks ; ours\n# hooksPath = no\n"
      "[Core] HOOKSPATH=\"a b\\\"c\"\n[include]\n path = ../more.cfg\n[includeIf \"gitdir:/x]y\"]\npath=z\n"
      "[other]\nhooksPath = no\n[core \"sub\"]\nx = y\n");
  EXPECT_EQ(found.hooks, (std::vector<std::string>{"scripts/hooks", "a b\"c"}));
  EXPECT_EQ(found.includes.front(), "../more.cfg");
}

class Repositories : public testing::Test {
 protected:
  std::shared_ptr<broker::Session> session(const std::string& root, const std::string& policy = "") {
    broker::WantedSession wanted{"s", (broker.dir / root).string(), {}, {}, ""};
    if (!policy.empty()) {
      broker.write("p.json", policy);
      wanted.policy = (broker.dir / "p.json").string();
    }
    auto made = broker.registry->create(wanted, broker::Registry::OldGrants::keep);
    refusal = made ? "" : made.error().text();
    return made ? *made : nullptr;
  }
  // Whether the agent could write that.
  static bool writes(broker::Session& session, const std::string& path) {
    return opens(session, path, O_RDWR | O_CREAT) == 0;
  }
  void repository(const std::string& at) const {
    for (const char* part : {"/objects/x", "/refs/x", "/HEAD", "/config", "/hooks/pre-commit.sample"}) broker.write(at + part, "x\n");
  }
  SessionBroker broker;
  std::string refusal;
};

TEST_F(Repositories, OneThatAGitFileLeadsToIsGuardedWhateverItIsCalled) {
  repository("project/.bare");
  broker.write("project/.git", "gitdir: ./.bare\n");
  broker.write("project/src/config", "mine");
  const auto s = session("project");
  ASSERT_TRUE(s) << refusal;
  EXPECT_FALSE(writes(*s, "/.bare/config"));
  EXPECT_FALSE(writes(*s, "/.bare/hooks/pre-commit"));
  EXPECT_FALSE(writes(*s, "/.bare/worktrees/w/config.worktree"));
  EXPECT_EQ(opens(*s, "/.bare/config", O_RDONLY), 0);
  EXPECT_TRUE(writes(*s, "/.bare/objects/x")) << "commits go on";
  EXPECT_TRUE(writes(*s, "/src/config"));
  EXPECT_FALSE(s->files().rename({}, ws("/.bare"), ws("/other"), 0));
}

TEST_F(Repositories, AFolderWithHeadObjectsAndRefsIsOneAndOneWithLessIsNot) {
  repository("project/vault");
  broker.write("project/data/objects/x", "x");
  broker.write("project/data/refs/x", "x");
  broker.write("project/data/config", "x");
  const auto s = session("project");
  ASSERT_TRUE(s) << refusal;
  EXPECT_FALSE(writes(*s, "/vault/config"));
  EXPECT_FALSE(writes(*s, "/vault/hooks/post-update"));
  EXPECT_TRUE(writes(*s, "/data/config"));
}

TEST_F(Repositories, HooksThatAConfigurationTakesFromTheTreeAreGuarded) {
  broker.write("project/.git/config", "[core]\n\thooksPath = scripts/hooks\n[include]\n\tpath = ../team.cfg\n");
  broker.write("project/scripts/build.sh", "x");
  broker.write("project/sub/.git/config", "[core]\nhooksPath=tools\n");
  const auto s = session("project");
  ASSERT_TRUE(s) << refusal;
  EXPECT_FALSE(writes(*s, "/scripts/hooks/pre-commit"));
  EXPECT_FALSE(s->files().mkdir({}, ws("/scripts/hooks"), 0755));
  EXPECT_FALSE(writes(*s, "/team.cfg"));
  EXPECT_FALSE(s->files().mkdir({}, ws("/sub/tools"), 0755));
  EXPECT_TRUE(writes(*s, "/scripts/build.sh"));
  EXPECT_TRUE(s->files().mkdir({}, ws("/tools"), 0755));
}

TEST_F(Repositories, WhatThePersonConfiguresLaterIsGuardedAfterAReload) {
  broker.write("project/.git/config", "[core]\n");
  const std::string all = R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]}]})";
  const auto s = session("project", all);
  ASSERT_TRUE(s) << refusal;
  EXPECT_TRUE(writes(*s, "/run-me"));
  broker.write("project/.git/config", "[core]\nhooksPath = run-me\n");
  ASSERT_TRUE(broker::reload(s->take_turn()));
  EXPECT_FALSE(writes(*s, "/run-me"));
}

TEST_F(Repositories, TheGuardCanBeSwitchedOffAndNarrowed) {
  broker.write("project/.git/config", "[core]\nhooksPath = scripts\n");
  broker.write("project/scripts/a", "");
  broker.write("project/scripts/b", "");
  const auto with = [](const std::string& base) {
    return R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]}],"base":)" + base + "}";
  };
  const auto s = session("project", with(R"({"git":{"except":["/scripts/a"]}})"));
  ASSERT_TRUE(s) << refusal;
  EXPECT_TRUE(writes(*s, "/scripts/a"));
  EXPECT_FALSE(writes(*s, "/scripts/b"));
  broker.write("p.json", with(R"({"git":"off"})"));
  ASSERT_TRUE(broker::reload(s->take_turn()));
  EXPECT_TRUE(writes(*s, "/scripts/b"));
}

TEST_F(Repositories, ARootInsideASecretIsRefusedWithTheCure) {
  broker.write("project/.aws/credentials", "KEY");
  EXPECT_FALSE(session("project/.aws"));
  EXPECT_NE(refusal.find("\"cloud\""), refusal.npos) << refusal;
  EXPECT_NE(refusal.find("\"off\""), refusal.npos) << refusal;
  const auto s = session("project/.aws", R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"read","paths":["/"]}],"base":{"cloud":"off"}})");
  ASSERT_TRUE(s) << refusal;
  EXPECT_EQ(opens(*s, "/credentials", O_RDONLY), 0);
}

TEST_F(Repositories, ARootAboveASecretHidesItAndServesTheRest) {
  broker.write("project/.config/gh/hosts.yml", "token");
  broker.write("project/.config/app/x", "x");
  const auto s = session("project/.config");
  ASSERT_TRUE(s) << refusal;
  EXPECT_EQ(opens(*s, "/gh/hosts.yml", O_RDONLY), ENOENT);
  EXPECT_EQ(opens(*s, "/app/x", O_RDONLY), 0);
  EXPECT_FALSE(s->files().mkdir({}, ws("/fish"), 0755));
  EXPECT_TRUE(s->files().mkdir({}, ws("/other"), 0755));
}

TEST_F(Repositories, ALinkToASecretAsRootHidesItToo) {
  broker.write("project/.docker/config.json", "auths");
  broker.write("project/.docker/x", "x");
  fs::create_directory_symlink(".docker", broker.dir / "project/innocent");
  const auto s = session("project/innocent");
  ASSERT_TRUE(s) << refusal;
  EXPECT_EQ(opens(*s, "/config.json", O_RDONLY), ENOENT);
  EXPECT_EQ(opens(*s, "/x", O_RDONLY), 0);
}

TEST_F(Repositories, AGrantOfAHostFileInASecretNeedsTheOverride) {
  broker.write("elsewhere/.aws/config", "x");
  broker.write("elsewhere/notes", "x");
  const auto s = session("project");
  ASSERT_TRUE(s) << refusal;
  const auto refused = broker.grant("../elsewhere/.aws/config");
  EXPECT_EQ(refused.status, 403) << refused.body.dump();
  EXPECT_EQ(broker.grant("../elsewhere/.aws/config", {{"override_deny", true}}).status, 200);
  EXPECT_EQ(broker.grant("../elsewhere/notes").status, 200);
}

// Finding of an agent that makes the folder first, and then owns what is in it.
TEST_F(Repositories, AFolderOfAnAgentsSettingsIsNotTheSessionsToMake) {
  broker.write("project/a", "");
  broker.write("project/has/.claude/x.md", "");
  const auto s = session("project");
  ASSERT_TRUE(s) << refusal;
  for (const char* folder : {"/.claude", "/.cursor", "/.roo", "/.qwen", "/.opencode", "/.vscode"}) {
    EXPECT_FALSE(s->files().mkdir({}, ws(folder), 0755)) << folder;
    EXPECT_FALSE(s->files().symlink({}, "elsewhere", ws(folder))) << folder;
  }
  EXPECT_FALSE(writes(*s, "/.claude/settings.json"));
  EXPECT_TRUE(writes(*s, "/has/.claude/x.md")) << "what lies beside the settings is work";
  ASSERT_TRUE(s->files().mkdir({}, ws("/new"), 0755));
  ASSERT_TRUE(s->files().mkdir({}, ws("/new/.claude"), 0755)) << "a project of its own";
  EXPECT_TRUE(writes(*s, "/new/.claude/settings.json"));
  ASSERT_TRUE(s->files().mkdir({}, ws("/.git"), 0755)) << "git init works as before";
  EXPECT_TRUE(writes(*s, "/.git/config"));
}

}  // namespace
}  // namespace fbroker::test
