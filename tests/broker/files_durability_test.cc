// "durability": "strict": nothing is answered before its record is on disk.
#include <gtest/gtest.h>

#include <fstream>
#include <future>

#include "tests/broker/files_session.h"
#include "tests/broker/session_broker.h"

namespace fbroker::test {
namespace {

using namespace std::chrono_literals;
using policy::Durability;
using protocol::FileRef;

struct Change {
  const char* name;
  int (*make)(FilesSession& s);   // the errno, 0 = it worked
};

constexpr Change kChanges[] = {
    {"open", [](FilesSession& s) { return s.open_error("/a"); }},
    {"create", [](FilesSession& s) { return s.open_error("/new", O_WRONLY | O_CREAT); }},
    {"opendir", [](FilesSession& s) { return error_of(s.service->open_directory(s.caller, {at("/d"), {}, 0})); }},
    {"mkdir", [](FilesSession& s) { return error_of(s.service->mkdir(s.caller, at("/e"), 0755)); }},
    {"symlink", [](FilesSession& s) { return error_of(s.service->symlink(s.caller, "a", at("/l"))); }},
    {"link", [](FilesSession& s) { return error_of(s.service->link(s.caller, {at("/a"), {}, 0}, at("/b"))); }},
    {"unlink", [](FilesSession& s) { return error_of(s.service->unlink(s.caller, at("/a"))); }},
    {"rmdir", [](FilesSession& s) { return error_of(s.service->rmdir(s.caller, at("/d"))); }},
    {"rename", [](FilesSession& s) { return error_of(s.service->rename(s.caller, at("/a"), at("/c"), 0)); }},
    {"truncate", [](FilesSession& s) { return error_of(s.service->truncate(s.caller, {at("/a"), {}, 0}, 1)); }},
    {"chmod", [](FilesSession& s) { return error_of(s.service->chmod(s.caller, {at("/a"), {}, 0}, 0755)); }},
    {"utimens", [](FilesSession& s) { return error_of(s.service->utimens(s.caller, {at("/a"), {}, 0}, {})); }},
};

class Durably : public testing::TestWithParam<Change> {
 protected:
  Durably() {
    s.tree.write("w/a", "text");
    s.tree.mkdir("w/d");
  }
  FilesSession s;
};
INSTANTIATE_TEST_SUITE_P(, Durably, testing::ValuesIn(kChanges),
                         [](const auto& change) { return std::string(change.param.name); });

TEST_P(Durably, StrictAnswersAfterTheRecordIsOnDisk) {
  s.set_durability(Durability::strict);
  EXPECT_EQ(GetParam().make(s), 0);
  EXPECT_GT(s.audit.records().size(), 0u);
  EXPECT_EQ(s.audit.durable(), s.audit.records().size());
}

TEST_P(Durably, NormalDoesNotWait) {
  s.audit.fail_sync(true);
  EXPECT_EQ(GetParam().make(s), 0);
  EXPECT_EQ(s.audit.durable(), 0u);
}

TEST_P(Durably, StrictIsRefusedWhenTheLogCannotBeSynced) {
  s.set_durability(Durability::strict);
  s.audit.fail_sync(true);
  EXPECT_EQ(GetParam().make(s), EIO);
  EXPECT_EQ(s.service->open_handles(), 0u);
  s.audit.fail_sync(false);
  EXPECT_EQ(s.open_error("/d/other", O_WRONLY | O_CREAT), std::string(GetParam().name) == "rmdir" ? ENOENT : 0);
}

// Else those who wait would wait one after the other, and a rename stop everybody.
TEST_P(Durably, WhoeverWaitsHoldsNobodyUp) {
  s.set_durability(Durability::strict);
  s.tree.write("w/x", "");
  bool once = false;
  s.audit.on_wait = [&] {
    if (std::exchange(once, true)) return;
    auto other = std::async(std::launch::async, [&] { return error_of(s.service->rename(s.caller, at("/x"), at("/y"), 0)); });
    ASSERT_EQ(other.wait_for(20s), std::future_status::ready);
    EXPECT_EQ(other.get(), 0);
  };
  EXPECT_EQ(GetParam().make(s), 0);
  EXPECT_TRUE(once);
}

TEST(DurabilityTest, ARefusedOpenWaitsTooAndALookDoesNot) {
  FilesSession s({allow("write", {"/**"}), deny("all", {"/secret"})});
  s.tree.write("w/secret", "");
  s.tree.write("w/a", "");
  s.set_durability(Durability::strict);
  EXPECT_TRUE(s.lookup("/a"));
  EXPECT_EQ(s.audit.durable(), 0u);
  EXPECT_EQ(s.open_error("/secret"), ENOENT);
  EXPECT_EQ(s.audit.durable(), s.audit.records().size());
}

// A whole broker: its own log, and the policy's file.
TEST(DurabilityTest, FollowsThePolicyWithoutARestart) {
  const auto text = [](const char* durability) {
    return std::string(R"({"version":1,"durability":")") + durability +
           R"(","exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]}]})";
  };
  SessionBroker broker;
  broker.write("project/a", "text");
  const auto session = broker.session(text("normal"));
  EXPECT_EQ(session->view()->durability, Durability::normal);
  broker.write("p.json", text("strict"));
  ASSERT_TRUE(broker::reload(session->take_turn()));
  EXPECT_EQ(session->view()->durability, Durability::strict);
  const auto opens_in_log = [&] {
    std::ifstream log(broker.dir / "state/audit/000001.jsonl");
    int count = 0;
    for (std::string line; std::getline(log, line);) count += line.find("\"open\"") != line.npos ? 1 : 0;
    return count;
  };
  for (int i = 1; i <= 100; ++i) {
    ASSERT_EQ(opens(*session, "/a", O_RDONLY), 0);
    ASSERT_EQ(opens_in_log(), i);
  }
  ASSERT_EQ(broker.revoke("a").status, 200);
  EXPECT_EQ(session->view()->durability, Durability::strict) << "a change of grants keeps it";
  broker.write("p.json", text("normal"));
  ASSERT_TRUE(broker::reload(session->take_turn()));
  EXPECT_EQ(session->view()->durability, Durability::normal);
}

}  // namespace
}  // namespace fbroker::test
