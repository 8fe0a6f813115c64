// What an agent keeps, and how a login comes into it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "container/agents/state.h"
#include "tests/support/temp_tree.h"

namespace fbroker::container::agents {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class State : public testing::Test {
 protected:
  State() {
    ::setenv("XDG_STATE_HOME", tree.path("state").c_str(), 1);
    profile = named("demo");
  }
  ~State() override { ::unsetenv("XDG_STATE_HOME"); }
  static Profile named(const std::string& name) {
    Profile one;
    one.name = name;
    one.title = "Demo";
    one.state = {".demo", ".config/demo"};
    one.login.files = {".demo/auth.json", ".config/demo/sub/token"};
    return one;
  }
  std::string kept(const std::string& below) const { return tree.path("state/fbroker/.agents/demo/default/" + below); }
  std::string share() {
    auto state = open_state(profile, "default", user);
    if (!state) return state.error().text();
    const auto copied = share_login(profile, tree.path("home"), *state, user);
    if (!copied) return copied.error().text();
    std::string all;
    for (const std::string& line : *copied) all += line + "\n";
    return all;
  }
  static mode_t mode_of(const std::string& path) {
    struct stat found {};
    return ::lstat(path.c_str(), &found) == 0 ? found.st_mode & 07777 : 0;
  }
  static uid_t owner_of(const std::string& path) {
    struct stat found {};
    return ::lstat(path.c_str(), &found) == 0 ? found.st_uid : 0;
  }

  test::TempTree tree;
  // As root, the sandbox's user; else ourselves.
  HostUser user{::geteuid() == 0 ? 65534 : ::geteuid(), ::geteuid() == 0 ? 65534 : ::getegid()};
  Profile profile;
};

TEST_F(State, IsMadeForTheSandboxesUserAndNobodyElse) {
  const auto state = open_state(profile, "default", user);
  ASSERT_TRUE(state) << state.error().text();
  ASSERT_EQ(state->size(), 2u);
  EXPECT_EQ((*state)[1].path, kept(".config/demo"));
  for (const char* directory : {".demo", ".config/demo"}) {
    EXPECT_EQ(mode_of(kept(directory)), 0700) << directory;
    EXPECT_EQ(owner_of(kept(directory)), user.uid) << directory;
  }
  // What is above them is not mounted and stays ours.
  for (const char* directory : {".config", "", "..", "../.."}) EXPECT_EQ(owner_of(kept(directory)), ::geteuid()) << directory;
  EXPECT_EQ(mode_of(kept("")), 0700);
}

TEST_F(State, IsOpenedAgainAndNeverAnothers) {
  ASSERT_TRUE(open_state(profile, "default", user));
  tree.write("state/fbroker/.agents/demo/default/.demo/note", "kept");
  const auto again = open_state(profile, "default", user);
  ASSERT_TRUE(again);
  struct stat found {};
  EXPECT_EQ(::fstatat((*again)[0].fd.get(), "note", &found, 0), 0);
  for (const auto& [agent, name] : {std::pair{"demo", "other"}, std::pair{"demo2", "default"}}) {
    const auto other = open_state(named(agent), name, user);
    ASSERT_TRUE(other);
    EXPECT_NE(::fstatat((*other)[0].fd.get(), "note", &found, 0), 0) << agent << " " << name;
  }
  EXPECT_NE(state_directory(named("demo"), "x"), state_directory(named("demo2"), "x"));
}

TEST_F(State, OfAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  ASSERT_TRUE(open_state(profile, "default", user));
  const auto other = open_state(profile, "default", {1234, 1234});
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().text(), HasSubstr("belongs to uid 65534, this sandbox runs as 1234"));
}

TEST_F(State, ALinkInItsPlaceIsRefused) {
  ASSERT_TRUE(open_state(profile, "default", user));
  fs::remove(kept(".demo"));
  tree.mkdir("elsewhere");
  fs::create_directory_symlink(tree.path("elsewhere"), kept(".demo"));
  EXPECT_FALSE(open_state(profile, "default", user));
  fs::remove(kept(".demo"));
  fs::remove_all(kept(".config"));
  fs::create_directory_symlink(tree.path("elsewhere"), kept(".config"));
  EXPECT_FALSE(open_state(profile, "default", user));
  EXPECT_FALSE(tree.exists("elsewhere/demo"));
}

TEST_F(State, NothingIsMadeForAnAgentThatKeepsNothing) {
  profile.state.clear();
  profile.login.files.clear();
  ASSERT_TRUE(open_state(profile, "default", user));
  EXPECT_FALSE(tree.exists("state/fbroker/.agents"));
}

// ---- --share-login ----

TEST_F(State, ALoginIsCopiedAloneAndSaid) {
  tree.write("home/.demo/auth.json", "token");
  tree.write("home/.demo/history", "private");
  tree.write("home/.config/demo/sub/token", "two");
  EXPECT_THAT(share(), testing::AllOf(HasSubstr("copied ~/.demo/auth.json into "), HasSubstr("copied ~/.config/demo/sub/token")));
  EXPECT_EQ(tree.read("state/fbroker/.agents/demo/default/.demo/auth.json"), "token");
  EXPECT_EQ(tree.read("state/fbroker/.agents/demo/default/.config/demo/sub/token"), "two");
  EXPECT_FALSE(fs::exists(kept(".demo/history")));
  for (const char* file : {".demo/auth.json", ".config/demo/sub/token"}) {
    EXPECT_EQ(mode_of(kept(file)), 0600) << file;
    EXPECT_EQ(owner_of(kept(file)), user.uid) << file;
  }
  EXPECT_EQ(owner_of(kept(".config/demo/sub")), user.uid);
  EXPECT_EQ(test::names_below(kept(".demo")).size(), 1u) << "no half copy is left";
}

TEST_F(State, ALoginThatIsSharedAgainReplacesTheOldOne) {
  tree.write("home/.demo/auth.json", "old and longer");
  share();
  tree.write("home/.demo/auth.json", "new");
  share();
  EXPECT_EQ(tree.read("state/fbroker/.agents/demo/default/.demo/auth.json"), "new");
}

TEST_F(State, NoLoginIsAnErrorThatNamesWhatIsMissing) {
  tree.mkdir("home");
  EXPECT_THAT(share(), HasSubstr("nothing to copy: ~/.demo/auth.json, ~/.config/demo/sub/token do not exist"));
  profile.login.files.clear();
  EXPECT_THAT(share(), HasSubstr("has no login file"));
}

// ATTACK: a link at the source would have any file of the person's handed over.
TEST_F(State, ALinkIsNoLogin) {
  tree.write("home/secret", "private key");
  tree.mkdir("home/.demo");
  fs::create_symlink(tree.path("home/secret"), tree.path("home/.demo/auth.json"));
  EXPECT_THAT(share(), HasSubstr("auth.json is a symbolic link"));
  EXPECT_FALSE(fs::exists(kept(".demo/auth.json")));
}

TEST_F(State, OnlyASmallRegularFileIsALogin) {
  tree.mkdir("home/.demo");
  ASSERT_EQ(::mkfifo(tree.path("home/.demo/auth.json").c_str(), 0600), 0);
  EXPECT_THAT(share(), HasSubstr("is not a regular file"));
  fs::remove(tree.path("home/.demo/auth.json"));
  tree.write("home/.demo/auth.json", std::string(kMaxLoginBytes + 1, 'x'));
  EXPECT_THAT(share(), HasSubstr("is larger than 1 MiB"));
  EXPECT_FALSE(fs::exists(kept(".demo/auth.json")));
  tree.write("home/.demo/auth.json", std::string(kMaxLoginBytes, 'x'));
  EXPECT_THAT(share(), HasSubstr("copied"));
}

// ATTACK: the agent of the last run put links where the copy goes.
TEST_F(State, ALinkOfTheAgentsIsReplacedAndNotWrittenThrough) {
  tree.write("victim", "untouched");
  tree.write("home/.demo/auth.json", "token");
  ASSERT_TRUE(open_state(profile, "default", user));
  fs::create_symlink(tree.path("victim"), kept(".demo/auth.json"));
  EXPECT_THAT(share(), HasSubstr("copied"));
  EXPECT_EQ(tree.read("victim"), "untouched");
  EXPECT_FALSE(fs::is_symlink(kept(".demo/auth.json")));
  EXPECT_EQ(tree.read("state/fbroker/.agents/demo/default/.demo/auth.json"), "token");
}

TEST_F(State, ADirectoryOfTheAgentsThatIsALinkIsNotWalked) {
  tree.write("home/.config/demo/sub/token", "two");
  tree.mkdir("elsewhere");
  ASSERT_TRUE(open_state(profile, "default", user));
  fs::create_directory_symlink(tree.path("elsewhere"), kept(".config/demo/sub"));
  EXPECT_THAT(share(), HasSubstr(".config/demo/sub/token"));
  EXPECT_FALSE(tree.exists("elsewhere/token"));
  EXPECT_TRUE(test::names_below(tree.path("elsewhere")).empty());
}

}  // namespace
}  // namespace fbroker::container::agents
