// On whose behalf the broker works, and how its descriptors are named.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "broker/files/descriptor_name.h"
#include "broker/files/owner.h"
#include "tests/broker/files_session.h"

namespace fbroker::test {
namespace {

using broker::ActAs;
using broker::ActAsItself;
using broker::DescriptorName;
using broker::Owner;

constexpr uid_t kSomebody = 54321;

// What /proc says of the calling thread: the fourth of "Uid:" and "Gid:" is the
// file system's, "Groups:", "CapEff:".
std::string thread_says() {
  std::ifstream status("/proc/thread-self/status");
  std::string all;
  for (std::string line; std::getline(status, line);)
    for (const char* wanted : {"Uid:", "Gid:", "Groups:", "CapEff:"})
      if (line.starts_with(wanted)) all += line + "\n";
  return all;
}

class ActAsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root becomes somebody else";
  }
  const Owner somebody_{kSomebody, kSomebody, {kSomebody, kSomebody + 1}};
  const Owner root_{0, ::getegid(), {::getegid()}};
};

TEST_F(ActAsTest, OneWithinAnotherOfTheSameOwnerIsNothingAndTheOuterOneStays) {
  const std::string before = thread_says();
  for (const Owner& owner : {somebody_, root_}) {
    const ActAs outer(owner);
    const std::string acting = thread_says();
    EXPECT_NE(acting, before);
    {
      const Owner the_same = owner;
      const ActAs inner(the_same);
      EXPECT_EQ(thread_says(), acting);
    }
    EXPECT_EQ(thread_says(), acting) << "the inner one took the outer one's place";
  }
  EXPECT_EQ(thread_says(), before);
}

TEST_F(ActAsTest, OneWithinAnotherOfAnotherOwnerGivesItBack) {
  const std::string before = thread_says();
  {
    const ActAs outer(somebody_);
    const std::string acting = thread_says();
    EXPECT_NE(acting.find(std::to_string(kSomebody + 1)), acting.npos) << "the owner's groups";
    {
      const ActAs inner(root_);
      EXPECT_NE(thread_says(), acting);
      EXPECT_EQ(thread_says().find(std::to_string(kSomebody)), acting.npos);
    }
    EXPECT_EQ(thread_says(), acting);
    {
      const ActAsItself itself;
      EXPECT_EQ(thread_says(), before);
    }
    EXPECT_EQ(thread_says(), acting);
  }
  { const ActAsItself itself; }
  EXPECT_EQ(thread_says(), before);
}

TEST_F(ActAsTest, AnOwnerThatIsRootHasNoMoreRightsThanItsFilesGive) {
  TempTree tree;
  tree.write("theirs", "x");
  ASSERT_EQ(::chown(tree.path("theirs").c_str(), kSomebody, kSomebody), 0);
  ASSERT_EQ(::chmod(tree.path("theirs").c_str(), 0600), 0);
  const auto may_read = [&] { return UniqueFd(::open(tree.path("theirs").c_str(), O_RDONLY | O_CLOEXEC)).get() >= 0; };
  EXPECT_TRUE(may_read());
  {
    const ActAs as(root_);
    EXPECT_FALSE(may_read());
  }
  EXPECT_TRUE(may_read());
}

// ATTACK: the broker's own directory is for root alone. Were it looked through
//   as the export's owner, nothing in it would be found, and a file of it that
//   has a second name in the export would be served.
TEST_F(ActAsTest, OwnFilesAreKnownWhereTheOwnerMayNotSeeThem) {
  TempTree state;
  FilesSession session;
  ASSERT_EQ(::chown(session.tree.path("w").c_str(), kSomebody, kSomebody), 0);
  ASSERT_EQ(::chmod(session.tree.path().c_str(), 0755), 0);
  session.set_exports({{.at = at("/there"), .from = ".", .submounts = false}});   // looked at anew: the owner's now
  session.own.add_directory(state.path());
  ASSERT_EQ(::chmod(state.path().c_str(), 0700), 0);
  session.tree.write("w/plain", "plain");
  for (const char* name : {"one", "two"}) {
    state.write(name, "secret");   // the directory changes: it is looked through anew
    ASSERT_EQ(::link(state.path(name).c_str(), session.tree.path(std::string("w/") + name).c_str()), 0);
    ASSERT_EQ(::chmod(state.path(name).c_str(), 0644), 0);
    EXPECT_FALSE(session.lookup(std::string("/there/") + name)) << name;
    EXPECT_EQ(session.content(std::string("/there/") + name), "errno " + std::to_string(ENOENT)) << name;
  }
  ASSERT_EQ(::chown(session.tree.path("w/plain").c_str(), kSomebody, kSomebody), 0);
  EXPECT_EQ(session.content("/there/plain"), "plain");
}

TEST(DescriptorNameTest, NamesTheVeryFileThatIsHeld) {
  TempTree tree;
  tree.write("f", "held");
  const UniqueFd held(::open(tree.path("f").c_str(), O_PATH | O_CLOEXEC));
  tree.write("g", "other");
  ASSERT_EQ(::rename(tree.path("g").c_str(), tree.path("f").c_str()), 0);
  const DescriptorName name(held.get());
  const UniqueFd opened(::openat(name.directory(), name.name(), O_RDONLY | O_CLOEXEC));
  char text[8] = {};
  EXPECT_EQ(::read(opened.get(), text, sizeof text), 4);
  EXPECT_STREQ(text, "held");
}

// ATTACK: the directory was opened by the parent; by it a child that was forked
//   would open what the parent has under that number.
TEST(DescriptorNameTest, InAChildThatWasForkedItNamesTheChildsOwn) {
  TempTree tree;
  tree.write("f", "parent");
  tree.write("g", "child");
  const UniqueFd held(::open(tree.path("f").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_GE(DescriptorName(held.get()).directory(), 0) << "by its descriptor, not by the whole way";
  const std::string other = tree.path("g");
  const pid_t child = ::fork();
  if (child == 0) {
    const int mine = ::open(other.c_str(), O_RDONLY);
    if (mine < 0 || ::dup2(mine, held.get()) < 0) ::_exit(2);
    const DescriptorName name(held.get());
    char text[8] = {};
    const int again = ::openat(name.directory(), name.name(), O_RDONLY);
    ::_exit(::read(again, text, sizeof text) == 5 && text[0] == 'c' ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace fbroker::test
