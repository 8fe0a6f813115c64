// Where a session's policy is read from, whatever the agent does to the way there.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "broker/grants/changes.h"
#include "tests/broker/session_broker.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAll = R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]}]})";

class PolicyPlace : public testing::Test {
 protected:
  // project/conf -> v2, project/v2/p.json; the policy named through the link.
  std::shared_ptr<broker::Session> through_link() {
    broker.write("project/v2/p.json", kAll);
    fs::create_directory_symlink("v2", broker.dir / "project/conf");
    broker::WantedSession wanted{"s", (broker.dir / "project").string(), {}, {}, ""};
    wanted.policy = (broker.dir / "project/conf/p.json").string();
    auto made = broker.registry->create(wanted, broker::Registry::OldGrants::keep);
    if (!made) throw std::runtime_error(made.error().text());
    return *made;
  }
  SessionBroker broker;
};

TEST_F(PolicyPlace, APolicyNamedThroughALinkIsReadFromWhereItLies) {
  const auto session = through_link();
  EXPECT_EQ(session->options().policy, (broker.dir / "project/v2/p.json").string());
  EXPECT_EQ(opens(*session, "/v2/p.json", O_RDONLY), ENOENT) << "it is the broker's own";
  EXPECT_EQ(opens(*session, "/v2/other", O_RDWR | O_CREAT), 0) << "what lies beside it is not";
}

TEST_F(PolicyPlace, ALinkThatLeadsToThePolicyIsNobodysToReplace) {
  const auto session = through_link();
  EXPECT_FALSE(session->files().unlink({}, ws("/conf")));
  EXPECT_FALSE(session->files().rename({}, ws("/conf"), ws("/old"), 0));
  EXPECT_TRUE(fs::is_symlink(broker.dir / "project/conf"));
  fs::create_directory_symlink("v2", broker.dir / "project/other");
  EXPECT_TRUE(session->files().unlink({}, ws("/other"))) << "any other link is the agent's";
}

TEST_F(PolicyPlace, WhatIsPutInTheLinksPlaceIsNotReadByAReload) {
  const auto session = through_link();
  fs::remove(broker.dir / "project/conf");   // as if a race had been won
  broker.write("project/conf/p.json", R"({"version":1,"exports":[{"at":"/","from":"/etc"}],"rules":[{"allow":"read","paths":["/"]}]})");
  ASSERT_TRUE(broker::reload(session->take_turn()));
  EXPECT_EQ(opens(*session, "/passwd", O_RDONLY), ENOENT);
  broker.write("project/v2/p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"read","paths":["/v2/x"]}]})");
  broker.write("project/v2/x", "x");
  ASSERT_TRUE(broker::reload(session->take_turn()));
  EXPECT_EQ(opens(*session, "/v2/x", O_RDONLY), 0);
  EXPECT_EQ(opens(*session, "/v2/x", O_RDWR), EACCES) << "the person's own change is";
}

}  // namespace
}  // namespace fbroker::test
