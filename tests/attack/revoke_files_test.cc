// A revoke takes files away, not only names: links, open files whose own name is
// gone, renames in the middle of it, restarts, exports that overlap.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "broker/files/revoked_files.h"
#include "broker/grants/changes.h"
#include "tests/broker/session_broker.h"
#include "tests/support/temp_tree.h"

namespace fbroker::test {
namespace {

constexpr const char* kOverlapping = R"({"version":1,"exports":[{"at":"/","from":"."},{"at":"/alias","from":"./sub"}],
  "rules":[{"allow":"write","paths":["/"]}]})";

class RevokeFiles : public testing::Test {
 protected:
  void begin(const std::string& policy = "") { session = broker.session(policy); }
  void restart() {
    session.reset();
    broker.stop();
    broker.start();
    begin();
  }
  broker::LocalFileService& files() { return session->files(); }
  protocol::HandleId open(const std::string& path, int flags = O_RDWR) {
    const auto opened = files().open({}, {ws(path), {}, 0}, flags, 0644);
    EXPECT_TRUE(opened) << path;
    return opened ? opened->handle : 0;
  }
  int reads(protocol::HandleId handle) {
    std::array<std::byte, 64> bytes{};
    const auto done = files().read({}, handle, 0, bytes);
    return done ? 0 : done.error().value;
  }
  int writes(protocol::HandleId handle) {
    const auto done = files().write({}, handle, {}, std::as_bytes(std::span("x")));
    return done ? 0 : done.error().value;
  }
  int link(const std::string& from, const std::string& to) {
    const auto done = files().link({}, {ws(from), {}, 0}, ws(to));
    return done ? 0 : done.error().value;
  }
  int rename(const std::string& from, const std::string& to) {
    const auto done = files().rename({}, ws(from), ws(to), 0);
    return done ? 0 : done.error().value;
  }
  int opens(const std::string& path, int flags = O_RDONLY) { return test::opens(*session, path, flags); }
  void host_link(const std::string& from, const std::string& to) {
    ASSERT_EQ(::link((broker.dir / "project" / from).c_str(), (broker.dir / "project" / to).c_str()), 0);
  }
  std::string on_host(const std::string& name) const {
    std::ifstream file(broker.dir / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void grant(const std::string& path, const char* level) {
    broker::LiveGrant wanted;
    wanted.grant.path = ws(path);
    wanted.grant.operations = *policy::level_of(policy::Effect::allow, level);
    EXPECT_TRUE(broker::grant(session->take_turn(), wanted));
  }
  broker::RevokeOutcome revoke(const std::string& path) {
    auto outcome = broker::revoke_places(session->take_turn(), {ws(path)});
    EXPECT_TRUE(outcome.finality.is_final());
    EXPECT_TRUE(outcome.recorded) << outcome.not_recorded;
    return outcome;
  }

  SessionBroker broker{"/dev/shm"};
  std::shared_ptr<broker::Session> session;
};

TEST_F(RevokeFiles, AnOpenFileWhoseOwnNameIsGoneEndsWithItsOtherName) {
  broker.write("project/plan", "one");
  broker.write("project/other", "two");
  begin();
  const auto handle = open("/plan"), other = open("/other");
  ASSERT_EQ(link("/plan", "/b"), 0);
  ASSERT_TRUE(files().unlink({}, ws("/plan")));
  ASSERT_EQ(reads(handle), 0);
  EXPECT_EQ(revoke("/b").finality.handles_closed, 1u);
  EXPECT_EQ(reads(handle), EACCES);
  EXPECT_EQ(writes(handle), EACCES);
  EXPECT_EQ(reads(other), 0);
  EXPECT_EQ(writes(other), 0);
}

TEST_F(RevokeFiles, AnOpenFileWithNoNameLeftElsewhereLives) {
  broker.write("project/plan", "one");
  broker.write("project/b", "another");
  begin();
  const auto handle = open("/plan");
  ASSERT_TRUE(files().unlink({}, ws("/plan")));
  revoke("/b");
  EXPECT_EQ(reads(handle), 0) << "it was nothing of what was revoked";
}

TEST_F(RevokeFiles, LinksThatNobodyToldTheSessionOf) {
  broker.write("project/d/a", "one");
  broker.write("project/d/e", "two");
  broker.write("project/free", "three");
  host_link("d/a", "b");
  host_link("free", "free2");
  begin();
  EXPECT_EQ(opens("/b"), 0);
  const auto handle = open("/b");
  revoke("/d");
  EXPECT_EQ(reads(handle), EACCES);
  EXPECT_EQ(opens("/b"), ENOENT);
  EXPECT_EQ(opens("/b", O_WRONLY | O_TRUNC), ENOENT);
  EXPECT_NE(rename("/b", "/c"), 0);
  EXPECT_NE(link("/b", "/c"), 0);
  EXPECT_FALSE(files().lookup({}, ws("/b"))->attributes);
  // The other link of a file that was not revoked is nobody's business.
  EXPECT_EQ(opens("/free2"), 0);
  // Gone from the revoked place, and still what was revoked.
  ASSERT_EQ(::unlink((broker.dir / "project/d/a").c_str()), 0);
  EXPECT_EQ(opens("/b"), ENOENT);
}

TEST_F(RevokeFiles, ANewerGrantOfANameGivesItBackAndOnlyThat) {
  broker.write("project/a", "one");
  host_link("a", "b");
  host_link("a", "c");
  begin();
  revoke("/a");
  grant("/b", "read");
  EXPECT_EQ(opens("/b"), 0);
  EXPECT_EQ(opens("/c"), ENOENT);
  EXPECT_EQ(opens("/a"), ENOENT);
}

TEST_F(RevokeFiles, ANewerGrantGivesBackWhatItSaysAndNoMore) {
  broker.write("project/a", "one");
  host_link("a", "c");
  begin();
  revoke("/a");
  grant("/c", "read");
  EXPECT_EQ(opens("/c"), 0);
  EXPECT_EQ(opens("/c", O_RDWR), EACCES);
  EXPECT_EQ(opens("/c", O_WRONLY | O_TRUNC), EACCES);
  EXPECT_EQ(files().truncate({}, {ws("/c"), {}, 0}, 0).error().value, EACCES);
  EXPECT_EQ(files().chmod({}, {ws("/c"), {}, 0}, 0777).error().value, EACCES);
  EXPECT_EQ(on_host("project/a"), "one");
}

TEST_F(RevokeFiles, ASecondRevokeOverrulesAGrantSince) {
  broker.write("project/a", "one");
  host_link("a", "c");
  begin();
  revoke("/a");
  grant("/c", "write");
  const auto handle = open("/c");
  ASSERT_EQ(writes(handle), 0);
  revoke("/a");
  EXPECT_EQ(opens("/c"), ENOENT);
  EXPECT_EQ(reads(handle), EACCES);
  EXPECT_EQ(writes(handle), EACCES);
}

// What the person moved is judged by where it is: for every change, not only for writes.
TEST_F(RevokeFiles, AnOpenFileThatTheHostMovedChangesAsItsPlaceAllows) {
  broker.write("project/src/f", "one");
  broker.write("project/done/x", "");
  begin(R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"read","paths":["/"]},{"allow":"write","paths":["/src"]}]})");
  const auto handle = open("/src/f");
  std::filesystem::rename(broker.dir / "project/src/f", broker.dir / "project/done/f");
  EXPECT_EQ(files().truncate({}, {ws("/src/f"), {}, handle}, 0).error().value, EACCES);
  EXPECT_EQ(files().chmod({}, {ws("/src/f"), {}, handle}, 0777).error().value, EACCES);
  EXPECT_EQ(on_host("project/done/f"), "one");
}

// Another directory made and removed in its old place does not make it nobody's.
TEST_F(RevokeFiles, AnOpenDirectoryThatTheHostMovedStaysJudgedByItsPlace) {
  broker.write("project/notes/one", "");
  broker.write("project/private/x", "");
  begin(R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]},{"deny":"all","paths":["/private"]}]})");
  const auto opened = files().open_directory({}, {ws("/notes"), {}, 0});
  ASSERT_TRUE(opened);
  std::filesystem::rename(broker.dir / "project/notes", broker.dir / "project/private/notes");
  ASSERT_TRUE(files().mkdir({}, ws("/notes"), 0755));
  ASSERT_TRUE(files().rmdir({}, ws("/notes")));
  EXPECT_FALSE(files().read_directory({}, opened->handle, 0, 100));
}

TEST_F(RevokeFiles, TakingTheDenyBackGivesAllNamesBack) {
  broker.write("project/a", "one");
  host_link("a", "b");
  begin();
  const auto outcome = revoke("/a");
  ASSERT_EQ(outcome.denied.size(), 1u);
  ASSERT_TRUE(broker::revoke_id(session->take_turn(), outcome.denied.front().grant.id));
  EXPECT_EQ(opens("/a"), 0);
  EXPECT_EQ(opens("/b"), 0);
}

TEST_F(RevokeFiles, AWiderRevokeKeepsWhatANarrowerOneKnew) {
  broker.write("project/d/a", "one");
  host_link("d/a", "b");
  begin();
  revoke("/d/a");
  ASSERT_EQ(::unlink((broker.dir / "project/d/a").c_str()), 0);
  revoke("/d");
  EXPECT_EQ(opens("/b"), ENOENT);
}

// By name nothing allowed it there, so no deny was needed; by another name it was open.
TEST_F(RevokeFiles, WhatNothingAllowsByThatNameIsDeniedByTheOthers) {
  broker.write("project/.env", "SECRET");
  host_link(".env", "b");
  begin();
  EXPECT_EQ(opens("/b"), 0);
  revoke("/.env");
  EXPECT_EQ(opens("/b"), ENOENT);
}

TEST_F(RevokeFiles, LinksAreKnownAfterARestart) {
  broker.write("project/a", "one");
  broker.write("project/x", "two");
  begin();
  ASSERT_EQ(link("/a", "/b"), 0);
  ASSERT_EQ(link("/x", "/y"), 0);
  restart();
  revoke("/a");
  EXPECT_EQ(opens("/b"), ENOENT);
  EXPECT_EQ(opens("/y"), 0);
  restart();
  EXPECT_EQ(opens("/b"), ENOENT) << "revoked before the restart";
  EXPECT_EQ(opens("/y"), 0);
}

TEST_F(RevokeFiles, ALinkThatIsRenamedWithoutAPause) {
  begin();
  for (int round = 0; round < 30; ++round) {
    const std::string name = "/r" + std::to_string(round);
    broker.write("project" + name, "SECRET");
    std::string last = name + "-0";
    ASSERT_EQ(link(name, last), 0);
    std::atomic<bool> stop{false};
    std::thread agent([&] {
      for (int k = 1; !stop; ++k) {
        const std::string next = name + "-" + std::to_string(k);
        if (rename(last, next) == 0) last = next;
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 5));
    revoke(name);
    stop = true;
    agent.join();
    ASSERT_NE(opens(last), 0) << "round " << round << ": " << last;
  }
}

TEST_F(RevokeFiles, InExportsThatOverlap) {
  broker.write("project/sub/a", "one");
  broker.write("project/sub/free", "two");
  begin(kOverlapping);
  ASSERT_EQ(link("/sub/a", "/sub/b"), 0);
  const auto handle = open("/alias/b");
  const auto outcome = broker.revoke("sub/a");
  EXPECT_EQ(outcome.status, 200);
  for (const char* name : {"/sub/a", "/sub/b", "/alias/a", "/alias/b"}) EXPECT_EQ(opens(name), ENOENT) << name;
  EXPECT_EQ(reads(handle), EACCES);
  EXPECT_EQ(opens("/alias/free"), 0);
}

// The name of an open file may end as the kernel's names of deleted ones do.
TEST_F(RevokeFiles, AFileThatIsCalledDeleted) {
  for (const std::string name : {"f2", "f (deleted)"}) {
    broker.write("project/sub/f", "one");
    std::filesystem::create_directories(broker.dir / "project/sub/d");
    if (!session) begin(kOverlapping);
    const auto handle = open("/alias/f", O_RDONLY);
    ASSERT_EQ(rename("/sub/f", "/sub/d/" + name), 0);
    EXPECT_EQ(reads(handle), 0);
    const auto outcome = revoke("/sub/d/" + name);
    EXPECT_EQ(reads(handle), EACCES) << name;
    for (const auto& deny : outcome.denied) broker::revoke_id(session->take_turn(), deny.grant.id);
  }
}

// ---- looking through places

class FilesBelow : public testing::Test {
 protected:
  FilesBelow() {
    for (const char* name : {"w/d/one", "w/d/e/two", "w/three"}) tree.write(name, "x");
    EXPECT_EQ(::link(tree.path("w/d/e/two").c_str(), tree.path("w/linked").c_str()), 0);
    broker::ExportTableInput input{tree.path("w"), tree.path(), {{.at = ws("/"), .from = ".", .submounts = false}}, {}};
    table = broker::ExportTable::build(input).value();
  }
  static bool none(const protocol::FileIdentity&) { return false; }
  TempTree tree;
  std::shared_ptr<const broker::ExportTable> table;
};

TEST_F(FilesBelow, AreThoseWithOtherNamesOrOpenOnes) {
  broker::SearchBudget budget;
  EXPECT_EQ(broker::files_below(*table, ws("/d"), budget, none).files.size(), 1u);
  EXPECT_EQ(broker::files_below(*table, ws("/d"), budget, [](const auto&) { return true; }).files.size(), 2u);
  EXPECT_TRUE(broker::files_below(*table, ws("/three"), budget, none).empty());
  EXPECT_TRUE(broker::files_below(*table, ws("/nothing"), budget, none).empty());
}

// ATTACK: in the middle of the search a file is opened by its other name, which is then unlinked.
TEST_F(FilesBelow, AskWhatIsOpenWhenAllHasBeenLookedAt) {
  broker::SearchBudget budget;
  const auto found = broker::files_below(*table, ws("/d"), budget, [&](const auto&) {
    std::filesystem::remove_all(tree.path("d"));
    return true;
  });
  EXPECT_EQ(found.files.size(), 2u);
}

TEST_F(FilesBelow, AreEveryFileWithTwoNamesWhereNotAllCouldBeSeen) {
  broker::SearchBudget little;
  little.entries = 1;
  const auto found = broker::files_below(*table, ws("/d"), little, none);
  EXPECT_FALSE(found.complete);
  broker::RevokedFiles revoked;
  revoked.add(7, found);
  EXPECT_EQ(revoked.denied_by({1, 2, 3}, true), 7u);
  EXPECT_EQ(revoked.denied_by({1, 2, 3}, false), 0u);
}

// ATTACK: what a killed broker had open comes back by its last name, which is
//   none of those that were revoked.
TEST_F(RevokeFiles, WhatAFormerBrokerHadOpenStaysRevoked) {
  broker.write("project/a", "one");
  broker.write("project/gone", "two");
  broker.write("project/free", "three");
  host_link("a", "b");
  host_link("gone", "unlinked");
  begin();
  struct Kept {
    protocol::FileRef last_name;
    UniqueFd fd;
  };
  const auto keep = [&](const std::string& path) {
    const int borrowed = files().descriptor(open(path));
    return Kept{{ws(path), broker::stat_of(borrowed)->identity, 0}, UniqueFd(::fcntl(borrowed, F_DUPFD_CLOEXEC, 3))};
  };
  const auto adopts = [&](const Kept& kept) {
    const auto adopted = files().adopt({}, kept.last_name, UniqueFd(::fcntl(kept.fd.get(), F_DUPFD_CLOEXEC, 3)), O_RDWR);
    return adopted ? 0 : adopted.error().value;
  };
  const Kept linked = keep("/b"), unlinked = keep("/unlinked"), free = keep("/free");
  ASSERT_TRUE(files().unlink({}, ws("/unlinked")));
  EXPECT_EQ(adopts(linked), 0);
  EXPECT_EQ(adopts(unlinked), 0);
  revoke("/a");
  revoke("/gone");
  EXPECT_EQ(adopts(linked), ENOENT);
  EXPECT_EQ(adopts(unlinked), ENOENT);
  restart();
  EXPECT_EQ(adopts(linked), ENOENT);
  EXPECT_EQ(adopts(unlinked), EACCES) << "its one name left is the revoked one, and nobody had it open";
  EXPECT_EQ(adopts(free), 0);
}

}  // namespace
}  // namespace fbroker::test
