// Exports that lie in one another: what is known of a file by one name holds by all.
#include <gtest/gtest.h>

#include "policy/base_rules.h"
#include "tests/broker/files_session.h"
#include "tests/broker/session_broker.h"

namespace fbroker::test {
namespace {

std::vector<policy::Rule> guarded() {
  std::vector<policy::Rule> rules{allow("write", {"/**"})};
  for (const auto& base : policy::base_rules()) rules.push_back(policy::to_rule(base));
  return rules;
}

class FilesOverlap : public testing::Test {
 protected:
  FilesOverlap() : s(guarded()) {
    s.tree.mkdir("w/src");
    s.set_exports({{.at = at("/"), .from = ".", .submounts = false},
                   {.at = at("/alias"), .from = "./src", .submounts = false}});
  }
  int mkdir(std::string_view path) { return error_of(s.service->mkdir(s.caller, at(path), 0755)); }
  int rename(std::string_view from, std::string_view to) {
    return error_of(s.service->rename(s.caller, at(from), at(to), 0));
  }
  FilesSession s;
};

constexpr int kMake = O_WRONLY | O_CREAT;

TEST_F(FilesOverlap, WhatIsCreatedByOneNameIsCreatedByTheOther) {
  ASSERT_EQ(mkdir("/alias/new"), 0);
  EXPECT_EQ(s.open_error("/alias/new/.envrc", kMake), 0);
  EXPECT_EQ(s.open_error("/src/new/.envrc", O_WRONLY), 0);
  EXPECT_EQ(s.open_error("/src/.envrc", kMake), EACCES);
}

TEST_F(FilesOverlap, ThePersonsDirectoryRemainsThatBelowACreatedOne) {
  s.tree.write("w/src/pkg/.envrc", "# person");
  ASSERT_EQ(mkdir("/alias/new"), 0);
  ASSERT_EQ(rename("/src/pkg", "/src/new/pkg"), 0);
  EXPECT_EQ(s.open_error("/alias/new/pkg/.envrc", O_WRONLY), EACCES);
  EXPECT_EQ(s.open_error("/src/new/pkg/.envrc", O_WRONLY), EACCES);
  EXPECT_EQ(s.open_error("/src/new/.envrc", kMake), 0) << "what it made is its own";
}

TEST_F(FilesOverlap, WhereAPersonsDirectoryWasNoneIsCreated) {
  s.tree.mkdir("w/src/pkg");
  ASSERT_EQ(rename("/src/pkg", "/src/away"), 0);
  ASSERT_EQ(mkdir("/alias/pkg"), 0);
  EXPECT_EQ(s.open_error("/alias/pkg/.envrc", kMake), EACCES);
}

// Its handle says "/src/m/.git/config", where nothing is any more.
TEST_F(FilesOverlap, ARenameByTheOtherNameLeavesNoFileUnlookedAt) {
  ASSERT_EQ(mkdir("/src/m"), 0);
  ASSERT_EQ(mkdir("/src/m/.git"), 0);
  const auto handle = s.open("/src/m/.git/config", kMake);
  ASSERT_TRUE(handle);
  const std::string evil = "[core]\n\tfsmonitor = evil\n", fine = "[core]\n\tbare = false\n";
  EXPECT_EQ(error_of(s.write(*handle, evil)), EACCES);
  ASSERT_EQ(rename("/alias/m", "/alias/n"), 0);
  EXPECT_EQ(error_of(s.write(*handle, evil)), EACCES);
  EXPECT_EQ(s.tree.read("w/src/n/.git/config"), "");
  EXPECT_EQ(error_of(s.write(*handle, fine)), 0) << "the handle follows";
  EXPECT_EQ(s.tree.read("w/src/n/.git/config"), fine);
}

TEST_F(FilesOverlap, AnExportsRootIsFixedUnderEveryName) {
  s.tree.mkdir("w/vendor/ref");
  s.tree.write("w/vendor/one", "x");
  s.tree.write("w/vendor/other", "x");
  s.set_exports({{.at = at("/"), .from = ".", .submounts = false},
                 {.at = at("/ref"), .from = "./vendor/ref", .submounts = false},
                 {.at = at("/single"), .from = "./vendor/one", .submounts = false}});
  EXPECT_EQ(rename("/vendor/ref", "/vendor/old"), EBUSY);
  EXPECT_EQ(rename("/vendor", "/old"), EBUSY);
  EXPECT_EQ(error_of(s.service->rmdir(s.caller, at("/vendor/ref"))), EBUSY);
  EXPECT_EQ(rename("/vendor/one", "/vendor/two"), EBUSY);
  EXPECT_EQ(error_of(s.service->unlink(s.caller, at("/vendor/one"))), EBUSY);
  EXPECT_EQ(rename("/vendor/other", "/vendor/another"), 0);
  EXPECT_EQ(s.open_error("/vendor/one", O_WRONLY | O_TRUNC), 0) << "what is in it may change";
}

TEST(FilesExportLinks, AFromIsNotFollowedOverALinkThatTheAgentCouldHaveMade) {
  constexpr const char* policy = R"({"version":1,
    "exports":[{"at":"/","from":"."},{"at":"/ref","from":"./vendor/ref"},{"at":"/mine","from":"./mine"}],
    "rules":[{"allow":"write","paths":["/vendor"]},{"allow":"read","paths":["/ref","/mine"]},
             {"allow":"list","paths":["/"]},{"deny":"all","paths":["/private"]}]})";
  SessionBroker broker("/dev/shm");
  broker.write("project/private/secret", "SECRET");
  broker.write("project/docs/f", "mine");
  broker.write("project/vendor/ref/f", "ref");
  std::filesystem::create_symlink("docs", broker.dir / "project/mine");
  {
    const auto session = broker.session(policy);
    EXPECT_EQ(opens(*session, "/mine/f", O_RDONLY), 0) << "a link of the person's own, where no agent writes";
    EXPECT_EQ(opens(*session, "/ref/f", O_RDONLY), 0);
  }
  broker.stop();
  std::filesystem::remove_all(broker.dir / "project/vendor/ref");
  std::filesystem::create_symlink("../private", broker.dir / "project/vendor/ref");
  broker.start();
  EXPECT_THROW(broker.session(policy), std::runtime_error);
}

}  // namespace
}  // namespace fbroker::test
