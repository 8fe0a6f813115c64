// The tables behind the FUSE front end, as a hostile device uses them.
#include <gtest/gtest.h>

#include <random>

#include "broker/fuse/handle_table.h"
#include "broker/fuse/inode_table.h"

namespace fbroker::fuse {
namespace {

using protocol::Attributes;
using protocol::FileType;
using protocol::Lifetime;

Attributes file(std::uint64_t inode, FileType type = FileType::regular) {
  Attributes a;
  a.identity = {1, inode, 5};
  a.type = type;
  return a;
}
Attributes directory(std::uint64_t inode) { return file(inode, FileType::directory); }
WorkspacePath at(std::string_view bytes) { return WorkspacePath::parse(bytes).value(); }

struct FuseInodeTable : testing::Test {
  NodeId remember(NodeId parent, std::string_view name, const Attributes& a) {
    const auto node = table.remember(parent, name, a, Lifetime::until_told);
    return node ? *node : 0;
  }
  std::string path(NodeId node) {
    const auto view = table.view(node);
    if (!view) return "errno " + std::to_string(view.error().value);
    return view->names.empty() ? "" : view->names.front().path.bytes();
  }
  InodeTable table{1'000'000};
};

TEST_F(FuseInodeTable, PathsAreBuiltFromParents) {
  const NodeId d = remember(kRootNode, "d", directory(2));
  EXPECT_EQ(path(remember(d, "a", file(3))), "/d/a");
  EXPECT_EQ(path(kRootNode), "/");
}

TEST_F(FuseInodeTable, ANameThatBecameAnotherFileIsAnotherNode) {
  const NodeId before = remember(kRootNode, "a", file(2));
  const NodeId after = remember(kRootNode, "a", file(3));
  EXPECT_NE(before, after);
  EXPECT_EQ(path(before), "") << "the older one lost its name";
  EXPECT_EQ(path(after), "/a");
}

TEST_F(FuseInodeTable, HardLinksAreOneNodeWithTwoNames) {
  const NodeId a = remember(kRootNode, "a", file(2));
  EXPECT_EQ(remember(kRootNode, "b", file(2)), a);
  EXPECT_EQ(table.view(a)->names.size(), 2u);
  table.drop_name(kRootNode, "a");
  EXPECT_EQ(path(a), "/b");
}

// The refused twin: the kernel allows a directory one place.
TEST_F(FuseInodeTable, ADirectoryUnderASecondNameIsAnotherNode) {
  EXPECT_NE(remember(kRootNode, "a", directory(2)), remember(kRootNode, "b", directory(2)));
}

TEST_F(FuseInodeTable, AMovedDirectoryTakesItsChildrenAlong) {
  const NodeId d = remember(kRootNode, "d", directory(2));
  const NodeId e = remember(kRootNode, "e", directory(3));
  const NodeId a = remember(d, "a", file(4));
  table.moved(kRootNode, "d", e, "f");
  EXPECT_EQ(path(a), "/e/f/a");
}

TEST_F(FuseInodeTable, ADirectoryCannotBecomeItsOwnParent) {
  const NodeId d = remember(kRootNode, "d", directory(2));
  const NodeId e = remember(d, "e", directory(3));
  table.moved(kRootNode, "d", e, "d");
  EXPECT_EQ(path(e), "") << "no circle, no path";
}

// ATTACK: keep a file open and take its name away; a revoke of where it was
//   must still reach its pages.
struct Nameless : FuseInodeTable {
  void SetUp() override {
    d = remember(kRootNode, "d", directory(2));
    a = remember(d, "a", file(3));
    b = remember(d, "b", file(4));
    for (const NodeId node : {a, b}) table.note_cached(node);
  }
  bool reaches(std::string_view place, NodeId node, bool retire = false) {
    const auto nodes = table.below(at(place), {}, retire).nodes;
    return std::count(nodes.begin(), nodes.end(), node) > 0;
  }
  NodeId d, a, b;
};

TEST_F(Nameless, AnUnlinkedFileIsFoundWhereItWas) {
  table.drop_name(d, "a");
  for (const char* place : {"/d/a", "/d", "/"}) EXPECT_TRUE(reaches(place, a)) << place;
  for (const char* place : {"/d/b", "/d/aa", "/d/a/x", "/e"}) EXPECT_FALSE(reaches(place, a)) << place;
}

TEST_F(Nameless, AReplacedFileIsFoundWhereItWas) {
  table.moved(d, "b", d, "a");
  EXPECT_TRUE(reaches("/d/a", a));
  EXPECT_TRUE(reaches("/d/a", b)) << "and what took its place";
  EXPECT_FALSE(reaches("/d/b", a));
}

TEST_F(Nameless, WhatIsBelowADirectoryThatIsGoneIsFound) {
  table.drop_name(kRootNode, "d");
  EXPECT_TRUE(reaches("/d/a", a));
  EXPECT_FALSE(reaches("/d/a", b));
  EXPECT_TRUE(reaches("/d", b));
  table.drop_name(d, "a");
  EXPECT_TRUE(reaches("/d/a", a)) << "it lost its name in a directory that had none";
}

TEST_F(Nameless, ANewNameIsWhereItIs) {
  table.drop_name(d, "a");
  EXPECT_EQ(remember(kRootNode, "again", file(3)), a);
  EXPECT_FALSE(reaches("/d/a", a));
  EXPECT_TRUE(reaches("/again", a));
}

TEST_F(Nameless, RetiringReachesItAndNobodyElse) {
  table.drop_name(d, "a");
  table.drop_name(d, "b");
  EXPECT_TRUE(reaches("/d/a", a, true));
  EXPECT_FALSE(table.usable(a));
  EXPECT_TRUE(table.usable(b));
}

TEST_F(Nameless, TooManyPlacesToRememberAreAnywhere) {
  const std::string long_name(255, 'n');
  NodeId parent = kRootNode;
  for (std::uint64_t depth = 0; depth < 14; ++depth) parent = remember(parent, long_name, directory(100 + depth));
  NodeId last = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    last = remember(parent, "f", file(1000 + i));
    table.note_cached(last);
    table.drop_name(parent, "f");
  }
  EXPECT_TRUE(reaches("/elsewhere", last));
  EXPECT_LT(table.memory(), std::size_t{6} << 20);
  table.forget(last, 1);
  EXPECT_FALSE(reaches("/elsewhere", last));
}

// INVARIANT: an id is never used for a second file.
TEST_F(FuseInodeTable, IdsAreNeverReused) {
  std::set<NodeId> seen;
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    const NodeId node = remember(kRootNode, "a", file(i + 2));
    EXPECT_TRUE(seen.insert(node).second);
    table.forget(node, 1);
    EXPECT_EQ(path(node), "errno " + std::to_string(ESTALE));
  }
  EXPECT_EQ(table.size(), 1u);
}

// ATTACK: counts from the device.
TEST_F(FuseInodeTable, ForgettingTooMuchTakesWhatIsThereAndNoMore) {
  const NodeId a = remember(kRootNode, "a", file(2));
  const NodeId b = remember(kRootNode, "b", file(3));
  table.forget(a, ~0ULL);
  table.forget(a, ~0ULL);
  table.forget(kRootNode, ~0ULL);
  EXPECT_EQ(path(a), "errno " + std::to_string(ESTALE));
  EXPECT_EQ(path(b), "/b");
  EXPECT_EQ(path(kRootNode), "/");
}

TEST_F(FuseInodeTable, ForgettingLessKeepsTheNode) {
  const NodeId a = remember(kRootNode, "a", file(2));
  remember(kRootNode, "a", file(2));
  table.forget(a, 1);
  EXPECT_EQ(path(a), "/a");
}

// ATTACK: ids from the device.
TEST_F(FuseInodeTable, ForgedIdsFindNothing) {
  const NodeId d = remember(kRootNode, "d", directory(2));
  const unsigned seed = std::random_device()();
  std::mt19937_64 random(seed);
  for (int i = 0; i < 100'000; ++i) {
    NodeId forged = random();
    if (i % 2 == 0) forged &= 0xffff;
    if (i % 3 == 0) forged = d ^ (1ULL << (random() % 64));
    if (forged == d || forged == kRootNode) continue;
    ASSERT_FALSE(table.view(forged)) << "seed " << seed;
    ASSERT_FALSE(table.child_path(forged, "a"));
    ASSERT_FALSE(table.remember(forged, "a", file(9), Lifetime::none));
    ASSERT_FALSE(table.usable(forged));
    table.forget(forged, random());
    table.drop_name(forged, "d");
    table.moved(forged, "d", kRootNode, "x");
    table.moved(kRootNode, "d", forged, "x");
    table.listed(forged, 0, true, file(2));
  }
  EXPECT_EQ(path(d), "/d");
  EXPECT_EQ(table.size(), 2u);
}

TEST_F(FuseInodeTable, AFileIsNoParent) {
  const NodeId a = remember(kRootNode, "a", file(2));
  EXPECT_EQ(remember(a, "b", file(3)), 0u);
  EXPECT_FALSE(table.child_path(a, "b"));
}

TEST_F(FuseInodeTable, ARetiredFileIsStaleAndItsNameFree) {
  const NodeId d = remember(kRootNode, "d", directory(2));
  const NodeId a = remember(d, "a", file(3));
  remember(kRootNode, "link", file(3));
  table.below(at("/d"), {}, true);
  EXPECT_EQ(path(a), "errno " + std::to_string(ESTALE));
  EXPECT_EQ(path(d), "/d") << "a directory stays";
  EXPECT_NE(remember(d, "a", file(3)), a);
}

TEST_F(FuseInodeTable, AnEventConcernsAllNamesOfAFile) {
  const NodeId d = remember(kRootNode, "d", directory(2));
  const NodeId a = remember(d, "a", file(3));
  remember(kRootNode, "link", file(3));
  table.note_cached(a);
  const Affected affected = table.below(at("/d/a"), {}, false);
  EXPECT_EQ(std::count(affected.nodes.begin(), affected.nodes.end(), a), 1);
  EXPECT_TRUE(std::any_of(affected.entries.begin(), affected.entries.end(),
                          [](const auto& e) { return e.name == "link"; }));
}

TEST_F(FuseInodeTable, ItsSizeIsBounded) {
  InodeTable small(3);
  EXPECT_TRUE(small.remember(kRootNode, "a", file(2), Lifetime::none));
  EXPECT_TRUE(small.remember(kRootNode, "b", file(3), Lifetime::none));
  const auto third = small.remember(kRootNode, "c", file(4), Lifetime::none);
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().value, ENOMEM);
  std::size_t kept = 0;
  for (int i = 0; i < 5000; ++i) kept += small.remember_absent(kRootNode, std::to_string(i)) ? 1 : 0;
  EXPECT_EQ(kept, 1024u);
}

TEST_F(FuseInodeTable, ANodeTakesLessThanFourHundredBytes) {
  NodeId parent = kRootNode;
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    if (i % 100 == 0) parent = remember(kRootNode, "dir-" + std::to_string(i), directory(i + 2));
    remember(parent, "some-source-file-" + std::to_string(i) + ".cc", file(1'000'000 + i));
  }
  EXPECT_LT(table.memory() / table.size(), 400u);
}

struct FuseHandleTable : testing::Test {
  HandleTable table{100};
};

TEST_F(FuseHandleTable, AHandleHoldsForItsNodeAndKindOnly) {
  const auto id = table.add({7, 42, false, nullptr});
  ASSERT_TRUE(id);
  EXPECT_EQ(table.file(*id, 42)->service, 7u);
  EXPECT_FALSE(table.file(*id, 43));
  EXPECT_FALSE(table.directory(*id, 42));
  EXPECT_FALSE(table.remove(*id, 42, true));
  EXPECT_TRUE(table.remove(*id, 42, false));
  EXPECT_FALSE(table.remove(*id, 42, false)) << "closed once";
  const auto next = table.add({8, 42, false, nullptr});
  EXPECT_NE(*next, *id) << "and its number never comes back";
  EXPECT_FALSE(table.file(*id, 42));
}

TEST_F(FuseHandleTable, ForgedHandlesFindNothing) {
  const auto id = table.add({7, 42, false, nullptr});
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t forged = i % 2 == 0 ? random() : *id ^ (1ULL << (random() % 64));
    if (forged == *id) continue;
    ASSERT_FALSE(table.file(forged, 42));
    ASSERT_FALSE(table.directory(forged, 42));
    ASSERT_FALSE(table.remove(forged, 42, false));
  }
  EXPECT_EQ(table.size(), 1u);
}

TEST_F(FuseHandleTable, ThereIsALimitToOpenFiles) {
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(table.add({1, 42, false, nullptr}));
  EXPECT_EQ(table.add({1, 42, false, nullptr}).error().value, ENFILE);
}

}  // namespace
}  // namespace fbroker::fuse
