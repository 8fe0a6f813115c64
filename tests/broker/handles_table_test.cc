#include <gtest/gtest.h>

#include <set>

#include "broker/handles/handle_table.h"

namespace fbroker::test {
namespace {

using broker::Handle;
using broker::HandleTable;
using broker::NodeTable;

TEST(HandlesTable, AnIdIsNeverUsedAgain) {
  HandleTable table(10);
  std::set<protocol::HandleId> seen;
  for (int round = 0; round < 1000; ++round) {
    const auto id = table.insert(std::make_shared<Handle>());
    ASSERT_TRUE(id);
    EXPECT_TRUE(seen.insert(*id).second);
    EXPECT_TRUE(table.remove(*id));
    EXPECT_FALSE(table.find(*id));
    EXPECT_FALSE(table.remove(*id));
  }
  EXPECT_FALSE(seen.contains(0));
}

TEST(HandlesTable, IsBounded) {
  HandleTable table(2);
  ASSERT_TRUE(table.insert(std::make_shared<Handle>()));
  EXPECT_FALSE(table.full());
  ASSERT_TRUE(table.insert(std::make_shared<Handle>()));
  EXPECT_TRUE(table.full());
  const auto third = table.insert(std::make_shared<Handle>());
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().value, EMFILE);
}

TEST(HandlesTable, TwoTablesShareNoIds) {
  HandleTable a(10), b(10);
  std::set<protocol::HandleId> ids;
  for (int round = 0; round < 5; ++round) {
    ids.insert(a.insert(std::make_shared<Handle>()).value());
    ids.insert(b.insert(std::make_shared<Handle>()).value());
  }
  EXPECT_EQ(ids.size(), 10u);
}

TEST(HandlesNodes, OneFileIsOneNodeWhileItIsOpen) {
  NodeTable nodes;
  const protocol::FileIdentity file{1, 2, 3}, reborn{1, 2, 4};
  const auto first = nodes.node(file);
  EXPECT_EQ(nodes.node(file), first);
  EXPECT_NE(nodes.node(reborn), first) << "the same inode number, another file";
}

TEST(HandlesNodes, ClosedFilesAreForgotten) {
  NodeTable nodes;
  for (std::uint64_t inode = 1; inode <= 100'000; ++inode) (void)nodes.node({1, inode, 0});
  EXPECT_LT(nodes.size(), 5000u);
}

}  // namespace
}  // namespace fbroker::test
