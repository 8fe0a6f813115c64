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

TEST(FilesCreatedSet, CoversWhatLiesBelowByComponent) {
  CreatedSet set;
  set.add(at("/a"), {1, 2, 3});
  EXPECT_TRUE(set.covering(at("/a")));
  EXPECT_TRUE(set.covering(at("/a/b/c")));
  EXPECT_FALSE(set.covering(at("/ab")));
  EXPECT_FALSE(set.covering(at("/")));
  EXPECT_EQ(set.covering(at("/a/b"))->identity, (FileIdentity{1, 2, 3}));
}

TEST(FilesCreatedSet, KeepsTheTopmostAndMovesAndForgets) {
  CreatedSet set;
  set.add(at("/a"), {1, 2, 3});
  set.add(at("/a/b"), {1, 4, 3});
  EXPECT_EQ(set.covering(at("/a/b"))->path, at("/a"));
  set.moved(at("/a"), at("/x/y"));
  EXPECT_FALSE(set.covering(at("/a")));
  EXPECT_EQ(set.covering(at("/x/y/b"))->path, at("/x/y"));
  set.forget(at("/x"));
  EXPECT_FALSE(set.covering(at("/x/y")));
}

TEST(FilesCreatedSet, ADirectoryMadeAgainIsTheNewOne) {
  CreatedSet set;
  set.add(at("/a"), {1, 2, 3});
  set.add(at("/a"), {1, 5, 6});
  EXPECT_EQ(set.covering(at("/a"))->identity, (FileIdentity{1, 5, 6}));
}

TEST(FilesCreatedSet, ThePersonsDirectoryIsNotCoveredAndWhatIsMadeInItIs) {
  CreatedSet set;
  set.add(at("/a"), {1, 2, 3});
  set.add_persons(at("/a/p"));
  EXPECT_FALSE(set.covering(at("/a/p/x")));
  EXPECT_TRUE(set.covering(at("/a/q")));
  set.add(at("/a/p/mine"), {1, 7, 3});
  EXPECT_EQ(set.covering(at("/a/p/mine/x"))->path, at("/a/p/mine"));
  set.moved(at("/a"), at("/b"));
  EXPECT_FALSE(set.covering(at("/b/p/x")));
  EXPECT_TRUE(set.covering(at("/b/p/mine/x")));
  set.forget(at("/b/p"));
  EXPECT_TRUE(set.covering(at("/b/p")));
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
