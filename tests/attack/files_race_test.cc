// A program inside races the broker's look at a name against its use of it.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "tests/broker/files_session.h"

namespace fbroker::test {
namespace {

constexpr int kRounds = 4000;

// Runs `swap` in a loop beside `kRounds` calls of `attempt`.
void race(const std::function<void()>& swap, const std::function<void()>& attempt) {
  std::atomic<bool> stop{false};
  std::atomic<int> swaps{0};
  std::thread swapper([&] {
    while (!stop) swap(), ++swaps;
  });
  while (swaps == 0) std::this_thread::yield();
  for (int round = 0; round < kRounds; ++round) attempt();
  stop = true;
  swapper.join();
  EXPECT_GT(swaps.load(), 1);
}

TEST(FilesRaceAttack, ADirectorySwappedForALinkLeaksNothing) {
  FilesSession s;
  s.tree.write("w/dir/f", "public");
  s.tree.write("outside/f", "SECRET");
  const std::string dir = s.tree.path("w/dir"), aside = s.tree.path("w/aside");
  int leaks = 0;
  race(
      [&] {
        (void)::rename(dir.c_str(), aside.c_str());
        (void)::symlink(s.tree.path("outside").c_str(), dir.c_str());
        (void)::unlink(dir.c_str());
        (void)::rename(aside.c_str(), dir.c_str());
      },
      [&] { leaks += s.content("/dir/f") == "SECRET"; });
  EXPECT_EQ(leaks, 0);
  EXPECT_EQ(s.content("/dir/f"), "public");
}

TEST(FilesRaceAttack, AFileSwappedForALinkIsNeitherReadNorWritten) {
  FilesSession s;
  s.tree.write("w/f", "public");
  s.tree.write("outside", "SECRET");
  ASSERT_EQ(::chmod(s.tree.path("outside").c_str(), 0644), 0);
  const std::string file = s.tree.path("w/f"), aside = s.tree.path("w/aside");
  int leaks = 0;
  race(
      [&] {
        (void)::rename(file.c_str(), aside.c_str());
        (void)::symlink(s.tree.path("outside").c_str(), file.c_str());
        (void)::unlink(file.c_str());
        (void)::rename(aside.c_str(), file.c_str());
      },
      [&] {
        leaks += s.content("/f") == "SECRET";
        (void)s.open_error("/f", O_WRONLY | O_TRUNC);
        (void)s.service->truncate(s.caller, {at("/f"), {}, 0}, 0);
        (void)s.service->chmod(s.caller, {at("/f"), {}, 0}, 0600);
      });
  EXPECT_EQ(leaks, 0);
  EXPECT_EQ(s.tree.read("outside"), "SECRET");
  struct stat host {};
  ASSERT_EQ(::stat(s.tree.path("outside").c_str(), &host), 0);
  EXPECT_EQ(host.st_mode & 0777u, 0644u);
}

// A denied file and an allowed one change places, all inside the export.
TEST(FilesRaceAttack, ALinkToADeniedNameInTheSameExportIsNotFollowed) {
  FilesSession s({allow("write", {"/**"}), deny("all", {"/secrets"})});
  s.tree.write("w/dir/f", "public");
  s.tree.write("w/secrets/f", "SECRET");
  const std::string dir = s.tree.path("w/dir"), aside = s.tree.path("w/aside");
  int leaks = 0;
  race(
      [&] {
        (void)::rename(dir.c_str(), aside.c_str());
        (void)::symlink("secrets", dir.c_str());
        (void)::unlink(dir.c_str());
        (void)::rename(aside.c_str(), dir.c_str());
      },
      [&] { leaks += s.content("/dir/f") == "SECRET"; });
  EXPECT_EQ(leaks, 0);
}

// Through the broker itself: renames by one thread, opens and a policy that
// follows the name by another. A handle must never be judged by a name that
// its file no longer has.
TEST(FilesRaceAttack, AHandleOpenedDuringARenameIsJudgedByItsNewName) {
  FilesSession s;
  s.tree.write("w/a/f", "text");
  std::atomic<bool> stop{false};
  std::thread renamer([&] {
    while (!stop) {
      (void)s.service->rename(s.caller, at("/a"), at("/b"), 0);
      (void)s.service->rename(s.caller, at("/b"), at("/a"), 0);
    }
  });
  std::vector<protocol::HandleId> handles;
  for (int round = 0; round < kRounds && handles.size() < 200; ++round)
    for (const char* path : {"/a/f", "/b/f"})
      if (auto handle = s.open(path)) handles.push_back(*handle);
  stop = true;
  renamer.join();
  ASSERT_FALSE(handles.empty());
  const std::string now = s.lookup("/a") ? "/a/f" : "/b/f";
  s.audit.clear();
  for (const auto handle : handles) EXPECT_TRUE(s.read(handle));
  s.set_rules({allow("write", {"/**"}), deny("all", {s.lookup("/a") ? "/a" : "/b"})});
  for (const auto handle : handles) EXPECT_EQ(error_of(s.read(handle)), EACCES);
  // The records of their sums name the file as it is called now.
  s.service->close_all();
  EXPECT_EQ(s.audit.count_if([&](const auto& r) { return r.operation == "close" && r.path == now; }),
            handles.size());
}

TEST(FilesRaceAttack, ReadsStopWhenARevokeWasPublishedAndDrained) {
  FilesSession s;
  s.tree.write("w/f", "text");
  const auto handle = s.open("/f", O_RDWR);
  ASSERT_TRUE(handle);
  std::atomic<bool> stop{false}, revoked{false};
  std::atomic<int> late{0}, early{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread)
    threads.emplace_back([&] {
      while (!stop) {
        const bool after = revoked;
        const bool success = static_cast<bool>(s.read(*handle)) || static_cast<bool>(s.write(*handle, "x"));
        if (success) (after ? late : early)++;
      }
    });
  while (early < 100) std::this_thread::yield();
  s.set_rules({allow("write", {"/**"}), deny("all", {"/f"})});
  revoked = true;
  s.service->close_refused_handles();
  for (int round = 0; round < 1000; ++round) EXPECT_FALSE(s.read(*handle));
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(late.load(), 0);
}

}  // namespace
}  // namespace fbroker::test
