#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "broker/grants/grant_store.h"

namespace fbroker::broker {
namespace {

class GrantsStore : public testing::Test {
 protected:
  GrantsStore() {
    std::string name = "/tmp/fbroker-grants-XXXXXX";
    dir_ = ::mkdtemp(name.data());
    open();
  }
  ~GrantsStore() override { std::filesystem::remove_all(dir_); }
  void open() {
    store_.reset();
    state_.reset();
    state_ = std::make_unique<StateDir>(std::move(StateDir::open(dir_ + "/state")).value());
    auto opened = GrantStore::open(*state_);
    ASSERT_TRUE(opened) << opened.error().text();
    store_ = std::move(*opened);
  }
  static LiveGrant grant(const std::string& path) {
    LiveGrant live;
    live.grant.path = WorkspacePath::parse(path).value();
    live.grant.operations = {policy::Operation::list, policy::Operation::read};
    return live;
  }
  std::string dir_;
  std::unique_ptr<StateDir> state_;
  std::unique_ptr<GrantStore> store_;
};

TEST_F(GrantsStore, EverythingOfAGrantSurvivesARestart) {
  LiveGrant wanted = grant("/a\xff\n\"b");
  wanted.from = "/host/\xfe";
  wanted.grant.override_deny = true;
  wanted.grant.because = "why not";
  wanted.grant.expires = std::chrono::system_clock::time_point(std::chrono::milliseconds(2'000'000'000'123));
  const auto made = store_->add("s", wanted);
  ASSERT_TRUE(made);
  open();
  const auto found = store_->of("s");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].grant.id, "g1");
  EXPECT_EQ(found[0].grant.path, wanted.grant.path);
  EXPECT_EQ(found[0].grant.operations, wanted.grant.operations);
  EXPECT_EQ(found[0].grant.expires, wanted.grant.expires);
  EXPECT_EQ(found[0].from, wanted.from);
  EXPECT_TRUE(found[0].grant.override_deny);
  EXPECT_EQ(found[0].grant.because, "why not");
}

TEST_F(GrantsStore, AnIdIsNeverUsedAgain) {
  ASSERT_TRUE(store_->add("s", grant("/a")));
  store_->end_unstored("s", {"g1"});
  ASSERT_TRUE(store_->store());
  open();
  EXPECT_TRUE(store_->of("s").empty());
  EXPECT_EQ(store_->add("s", grant("/a"))->grant.id, "g2");
}

TEST_F(GrantsStore, AUsedGrantForOneOpenIsNotThereAfterARestart) {
  LiveGrant once = grant("/a");
  once.grant.once = true;
  ASSERT_TRUE(store_->add("s", once));
  ASSERT_TRUE(store_->add("s", grant("/b")));
  ASSERT_TRUE(store_->use_up("s", "g1"));
  EXPECT_TRUE(store_->of("s")[0].used);
  open();   // as after a kill: nobody stored anything since
  ASSERT_EQ(store_->of("s").size(), 1u);
  EXPECT_EQ(store_->of("s")[0].grant.id, "g2");
}

TEST_F(GrantsStore, AFileThatItDidNotWriteIsRefusedAndTheFieldNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "JSON"},
      {"[]", "object"},
      {R"({"version":2,"next":1,"sessions":{}})", "version"},
      {R"({"version":1,"next":1,"sessions":{},"x":1})", "x"},
      {R"({"version":1,"next":9,"sessions":{"../s":[]}})", "sessions.../s"},
      {R"({"version":1,"next":9,"sessions":{"s":[{"order":9,"effect":"allow","path":"/a","operations":3,"made":1}]}})", "order"},
      {R"({"version":1,"next":9,"sessions":{"s":[{"order":1,"effect":"allow","path":"/a/../b","operations":3,"made":1}]}})", "path"},
      {R"({"version":1,"next":9,"sessions":{"s":[{"order":1,"effect":"ask","path":"/a","operations":3,"made":1}]}})", "effect"},
      {R"({"version":1,"next":9,"sessions":{"s":[{"order":1,"effect":"allow","path":"/a","operations":255,"made":1}]}})", "operations"},
      {R"({"version":1,"next":9,"sessions":{"s":[{"order":1,"effect":"allow","path":"/a","operations":3,"made":1,"from":"etc"}]}})", "from"},
  };
  for (const auto& [text, field] : cases) {
    std::ofstream(dir_ + "/state/grants.json") << text;
    const auto opened = GrantStore::open(*state_);
    ASSERT_FALSE(opened) << text;
    EXPECT_NE(opened.error().text().find(field), std::string::npos) << opened.error().text();
  }
}

TEST_F(GrantsStore, WhatCannotBeStoredIsNotGranted) {
  ASSERT_TRUE(store_->add("s", grant("/a")));
  std::filesystem::remove(dir_ + "/state/grants.json");
  std::filesystem::create_directory(dir_ + "/state/grants.json");
  std::ofstream(dir_ + "/state/grants.json/in-the-way") << "";
  EXPECT_FALSE(store_->add("s", grant("/b")));
  EXPECT_EQ(store_->of("s").size(), 1u);
}

TEST_F(GrantsStore, ASessionHasAtMostAThousandGrants) {
  for (std::size_t i = 0; i < GrantStore::kMaxGrants; ++i) store_->add_unstored("s", grant("/a"));
  EXPECT_FALSE(store_->add("s", grant("/b")));
  EXPECT_TRUE(store_->add("t", grant("/b")));
}

TEST_F(GrantsStore, ASecondBrokerOnTheSameStateIsRefused) {
  const auto second = StateDir::open(dir_ + "/state");
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().text().find(std::to_string(::getpid())), std::string::npos);
}

}  // namespace
}  // namespace fbroker::broker
