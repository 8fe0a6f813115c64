// The small parts of the file service: link targets, what a session created.
#include <gtest/gtest.h>

#include "broker/files/created_set.h"
#include "broker/files/host_location.h"
#include "broker/files/symlink_target.h"
#include "tests/broker/files_session.h"

namespace fbroker::test {
namespace {

using broker::CreatedSet;
using protocol::FileIdentity;

struct Target {
  const char* name;
  const char* target;
  std::size_t depth;
  bool stays;
};

class SymlinkTarget : public testing::TestWithParam<Target> {};

TEST_P(SymlinkTarget, StaysOrDoesNot) {
  EXPECT_EQ(broker::target_stays(GetParam().target, GetParam().depth), GetParam().stays);
}

INSTANTIATE_TEST_SUITE_P(, SymlinkTarget, testing::Values(
    Target{"Beside", "f", 0, true}, Target{"Below", "a/b", 0, true}, Target{"Here", ".", 0, true},
    Target{"UpOne", "../f", 1, true}, Target{"UpTwo", "../../f", 2, true},
    Target{"DotsBetween", "./.././../f", 2, true}, Target{"DoubleSlash", "..//../f", 2, true},
    Target{"Empty", "", 3, false}, Target{"Absolute", "/f", 3, false},
    Target{"UpTooFar", "../f", 0, false}, Target{"UpThree", "../../../f", 2, false},
    Target{"BackAfterAName", "a/../f", 5, false}, Target{"EndsUp", "a/..", 5, false},
    Target{"HiddenDots", "./a/./../../..", 2, false}, Target{"DotsInAName", "..a/...", 0, true}),
    [](const auto& c) { return c.param.name; });

broker::HostLocation on(std::string path) { return {"8:1", std::move(path)}; }

TEST(FilesCreatedSet, CoversWhatLiesBelowByComponent) {
  CreatedSet set;
  set.add(on("/a"), {1, 2, 3});
  EXPECT_TRUE(set.covering(on("/a")));
  EXPECT_TRUE(set.covering(on("/a/b/c")));
  EXPECT_FALSE(set.covering(on("/ab")));
  EXPECT_FALSE(set.covering(on("/")));
  EXPECT_EQ(set.covering(on("/a/b"))->identity, (FileIdentity{1, 2, 3}));
}

TEST(FilesCreatedSet, KeepsTheTopmostAndMovesAndForgets) {
  CreatedSet set;
  set.add(on("/a"), {1, 2, 3});
  set.add(on("/a/b"), {1, 4, 3});
  EXPECT_EQ(set.covering(on("/a/b"))->levels, 1u);
  set.moved(on("/a"), on("/x/y"));
  EXPECT_FALSE(set.covering(on("/a")));
  EXPECT_EQ(set.covering(on("/x/y/b"))->levels, 1u);
  EXPECT_EQ(set.covering(on("/x/y/b"))->identity, (FileIdentity{1, 2, 3}));
  set.forget(on("/x"));
  EXPECT_FALSE(set.covering(on("/x/y")));
}

TEST(FilesCreatedSet, ADirectoryMadeAgainIsTheNewOne) {
  CreatedSet set;
  set.add(on("/a"), {1, 2, 3});
  set.add(on("/a"), {1, 5, 6});
  EXPECT_EQ(set.covering(on("/a"))->identity, (FileIdentity{1, 5, 6}));
}

TEST(FilesCreatedSet, ThePersonsDirectoryIsNotCoveredAndWhatIsMadeInItIs) {
  CreatedSet set;
  set.add(on("/a"), {1, 2, 3});
  set.add_persons(on("/a/p"));
  EXPECT_FALSE(set.covering(on("/a/p/x")));
  EXPECT_TRUE(set.covering(on("/a/q")));
  set.add(on("/a/p/mine"), {1, 7, 3});
  EXPECT_EQ(set.covering(on("/a/p/mine/x"))->levels, 1u);
  EXPECT_EQ(set.covering(on("/a/p/mine/x"))->identity, (FileIdentity{1, 7, 3}));
  set.moved(on("/a"), on("/b"));
  EXPECT_FALSE(set.covering(on("/b/p/x")));
  EXPECT_TRUE(set.covering(on("/b/p/mine/x")));
  set.forget(on("/b/p"));
  EXPECT_TRUE(set.covering(on("/b/p")));
}

TEST(FilesHostLocation, IsComparedByComponentWithinOneDevice) {
  const broker::HostLocation home{"8:1", "/home"};
  EXPECT_EQ((broker::HostLocation{"8:1", "/home/u/f"}.below(home)), "u/f");
  EXPECT_EQ(home.below(home), "");
  EXPECT_FALSE((broker::HostLocation{"8:1", "/homework"}.below(home)));
  EXPECT_FALSE((broker::HostLocation{"8:2", "/home/u"}.below(home)));
  EXPECT_EQ((broker::HostLocation{"8:1", "/x"}.below({"8:1", "/"})), "x");
}

TEST(FilesHostLocation, FileSystemsThatFoldCaseAreKnown) {
  for (const std::int64_t kind : {0x4d44LL, 0x2011bab0LL, 0x7366746eLL, 0xfe534d42LL})
    EXPECT_TRUE(broker::folds_case(kind)) << kind;
  for (const std::int64_t kind : {0xef53LL, 0x01021994LL, 0x58465342LL, 0x9123683eLL})
    EXPECT_FALSE(broker::folds_case(kind)) << kind;
}

}  // namespace
}  // namespace fbroker::test
