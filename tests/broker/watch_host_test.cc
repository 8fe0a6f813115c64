// HostWatch over real directories: what others change is told, the session's
// own changes are not.
#include "broker/watch/host_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>

#include "broker/files/file_stat.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using protocol::Event;
using protocol::EventKind;

constexpr auto kLong = 20s;

WorkspacePath path(const std::string& bytes) { return *WorkspacePath::parse(bytes); }

class WatchHostTest : public testing::Test {
 protected:
  WatchHostTest() {
    char name[] = "/tmp/fbroker-watch-XXXXXX";
    root_ = ::mkdtemp(name);
    fs::create_directory(root_ + "/d");
    subscription_ = bus_.subscribe([this] {
      const std::lock_guard lock(mutex_);
      changed_.notify_all();
    });
  }
  ~WatchHostTest() override {
    watch_.reset();
    fs::remove_all(root_);
  }

  void start(HostWatchOptions options = {}) {
    auto watch = HostWatch::start(bus_, options);
    ASSERT_TRUE(watch);
    watch_ = std::move(*watch);
  }

  bool watch(const std::string& host, const std::string& as) {
    const UniqueFd fd(::open(host.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    return watch_->watch(fd.get(), stat_of(fd.get())->identity, path(as));
  }

  protocol::FileIdentity identity(const std::string& host) { return stat(host).identity; }
  FileStat stat(const std::string& host) {
    const UniqueFd fd(::open(host.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    return *stat_of(fd.get());
  }
  void own(const std::string& directory, const std::string& name) {
    const std::string host = directory + "/" + name;
    const bool there = fs::exists(fs::symlink_status(host));
    const FileStat now = there ? stat(host) : FileStat{};
    watch_->own_change(identity(directory), name, now.identity, now.changed);
  }
  void write(const std::string& host, const std::string& text = "x") { std::ofstream(host) << text; }

  // Waits until an event of this kind and path was told.
  bool told(EventKind kind, const std::string& at) {
    return told([&] { return count(kind, at) > 0; });
  }
  bool told(const std::function<bool()>& enough) {
    const auto until = std::chrono::steady_clock::now() + kLong;
    for (;;) {
      for (auto& event : subscription_->take()) seen_.push_back(event);
      if (enough()) return true;
      std::unique_lock lock(mutex_);
      if (std::chrono::steady_clock::now() > until) return false;
      changed_.wait_for(lock, 10ms);
    }
  }
  std::size_t count(EventKind kind, const std::string& at) const {
    std::size_t n = 0;
    for (const Event& event : seen_) n += event.kind == kind && event.path == path(at) ? 1 : 0;
    return n;
  }
  // Events come in the order of their causes: once the marker's is here, what
  // was to be told of earlier changes has been told.
  void settle() {
    const std::string marker = "marker" + std::to_string(++markers_);
    write(root_ + "/d/" + marker);
    ASSERT_TRUE(told(EventKind::entry, "/d/" + marker));
  }
  std::size_t told_of(const std::string& at) const {
    std::size_t n = 0;
    for (const Event& event : seen_) n += event.path == path(at) ? 1 : 0;
    return n;
  }

  std::string root_;
  EventBus bus_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<EventBus::Subscription> subscription_;
  std::unique_ptr<HostWatch> watch_;
  std::vector<Event> seen_;
  int markers_ = 0;
};

TEST_F(WatchHostTest, ANameThatAppearsVanishesOrIsReplacedIsTold) {
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  write(root_ + "/d/a");
  ASSERT_TRUE(told(EventKind::entry, "/d/a"));
  EXPECT_EQ(seen_.back().identity, identity(root_ + "/d/a"));
  seen_.clear();
  write(root_ + "/new");
  fs::rename(root_ + "/new", root_ + "/d/a");
  ASSERT_TRUE(told(EventKind::entry, "/d/a"));
  seen_.clear();
  fs::remove(root_ + "/d/a");
  ASSERT_TRUE(told(EventKind::entry, "/d/a"));
  seen_.clear();
  fs::create_symlink("nowhere", root_ + "/d/link");
  EXPECT_TRUE(told(EventKind::entry, "/d/link"));
}

TEST_F(WatchHostTest, BytesAndAttributesThatChangeAreTold) {
  write(root_ + "/d/a");
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  { std::ofstream(root_ + "/d/a", std::ios::app) << "more"; }
  ASSERT_TRUE(told(EventKind::content, "/d/a"));
  EXPECT_EQ(seen_.back().identity, identity(root_ + "/d/a"));
  settle();
  seen_.clear();
  ::chmod((root_ + "/d/a").c_str(), 0600);
  EXPECT_TRUE(told(EventKind::content, "/d/a"));
}

TEST_F(WatchHostTest, NamesAreBytes) {
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  write(root_ + "/d/\xff\n");
  EXPECT_TRUE(told(EventKind::entry, "/d/\xff\n"));
}

TEST_F(WatchHostTest, EachNameOfADirectoryIsTold) {
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  ASSERT_TRUE(watch(root_ + "/d", "/other/d"));
  write(root_ + "/d/a");
  EXPECT_TRUE(told(EventKind::entry, "/d/a"));
  EXPECT_TRUE(told(EventKind::entry, "/other/d/a"));
}

// On a busy machine the event may be looked at before the session has said that
// the change was its own: one too many, so some rounds of many may be told of.
TEST_F(WatchHostTest, TheSessionsOwnChangesAreNotTold) {
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  int quiet = 0;
  for (int round = 0; round < 20; ++round) {
    const std::string a = "a" + std::to_string(round), b = "b" + std::to_string(round);
    write(root_ + "/d/" + a);
    own(root_ + "/d", a);
    write(root_ + "/d/" + b);
    own(root_ + "/d", b);
    fs::remove(root_ + "/d/" + b);
    own(root_ + "/d", b);
    settle();
    quiet += told_of("/d/" + a) + told_of("/d/" + b) == 0;
  }
  EXPECT_GE(quiet, 10);
}

TEST_F(WatchHostTest, WhatTheHostChangesAfterAnOwnChangeIsToldEvenAtOnce) {
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  for (int i = 0; i < 50; ++i) {
    const std::string name = "a" + std::to_string(i);
    write(root_ + "/d/" + name);
    own(root_ + "/d", name);
    { std::ofstream(root_ + "/d/" + name, std::ios::app) << "host"; }  // perhaps in the same tick
    // Created and changed: one event, whatever its kind.
    ASSERT_TRUE(told([&] { return told_of("/d/" + name) > 0; })) << name;
  }
}

// A clock that cannot tell two changes apart: one event too many, never one less.
TEST_F(WatchHostTest, OnACoarseClockAnOwnChangeIsToldOnceMore) {
  HostWatchOptions coarse;
  coarse.clock_tick = 30ms;
  start(coarse);
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  write(root_ + "/d/a");
  own(root_ + "/d", "a");
  EXPECT_TRUE(told(EventKind::entry, "/d/a"));
}

TEST_F(WatchHostTest, ADirectoryThatIsMovedAwayIsForgottenWithAllBelow) {
  fs::create_directories(root_ + "/d/sub/deep");
  start();
  ASSERT_TRUE(watch(root_ + "/d/sub", "/d/sub"));
  ASSERT_TRUE(watch(root_ + "/d/sub/deep", "/d/sub/deep"));
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  fs::rename(root_ + "/d/sub", root_ + "/elsewhere");
  ASSERT_TRUE(told(EventKind::forget, "/d/sub"));
  settle();
  seen_.clear();
  write(root_ + "/elsewhere/a");
  write(root_ + "/elsewhere/deep/a");
  settle();
  EXPECT_EQ(told_of("/d/sub/a"), 0u) << "it is no longer there";
  EXPECT_EQ(told_of("/d/sub/deep/a"), 0u);
}

TEST_F(WatchHostTest, ADirectoryThatTheSessionMovesIsToldUnderItsNewName) {
  fs::create_directories(root_ + "/d/sub/deep");
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  ASSERT_TRUE(watch(root_ + "/d/sub", "/d/sub"));
  ASSERT_TRUE(watch(root_ + "/d/sub/deep", "/d/sub/deep"));
  fs::rename(root_ + "/d/sub", root_ + "/d/moved");
  watch_->moved(path("/d/sub"), path("/d/moved"));
  own(root_ + "/d", "sub");
  own(root_ + "/d", "moved");
  write(root_ + "/d/moved/a");
  write(root_ + "/d/moved/deep/a");
  EXPECT_TRUE(told(EventKind::entry, "/d/moved/a"));
  EXPECT_TRUE(told(EventKind::entry, "/d/moved/deep/a"));
}

TEST_F(WatchHostTest, ADirectoryThatIsDeletedIsForgottenAndItsNumberNotConfused) {
  fs::create_directory(root_ + "/d/sub");
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  ASSERT_TRUE(watch(root_ + "/d/sub", "/d/sub"));
  fs::remove(root_ + "/d/sub");
  ASSERT_TRUE(told(EventKind::forget, "/d/sub"));
  fs::create_directory(root_ + "/d/sub");
  ASSERT_TRUE(watch(root_ + "/d/sub", "/d/sub"));
  write(root_ + "/d/sub/a");
  EXPECT_TRUE(told(EventKind::entry, "/d/sub/a"));
}

// By name another directory could be put in place between opening and watching.
TEST_F(WatchHostTest, TheOpenedDirectoryIsWatchedNotWhatHasItsNameNow) {
  start();
  const UniqueFd fd(::open((root_ + "/d").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto opened = stat_of(fd.get())->identity;
  fs::rename(root_ + "/d", root_ + "/opened");
  fs::create_directory(root_ + "/d");
  ASSERT_TRUE(watch_->watch(fd.get(), opened, path("/d")));
  write(root_ + "/d/impostor");
  write(root_ + "/opened/real");
  EXPECT_TRUE(told(EventKind::entry, "/d/real"));
  EXPECT_EQ(told_of("/d/impostor"), 0u);
}

TEST_F(WatchHostTest, ABurstIsFoldedIntoForgettingTheDirectory) {
  start();
  ASSERT_TRUE(watch(root_ + "/d", "/d"));
  const auto start_time = std::chrono::steady_clock::now();
  for (int i = 0; i < 10'000; ++i) write(root_ + "/d/f" + std::to_string(i), "");
  ASSERT_TRUE(told(EventKind::forget, "/d"));
  seen_.clear();
  fs::remove(root_ + "/d/f9999");
  EXPECT_TRUE(told([&] { return count(EventKind::forget, "/d") + told_of("/d/f9999") > 0; }))
      << "what comes during a burst is told at its end";
  // 128 a window of 100 ms, and what folds the others; a slow machine has more windows.
  const auto windows = static_cast<std::uint64_t>((std::chrono::steady_clock::now() - start_time) / 100ms);
  EXPECT_LE(bus_.last_sequence(), 130 * (windows + 2)) << "10,000 creations flooded the bus";
}

TEST_F(WatchHostTest, BeyondTheLimitItSaysThatItCannot) {
  HostWatchOptions two;
  two.max_watches = 2;
  start(two);
  for (const char* name : {"/d/a", "/d/b", "/d/c"}) fs::create_directory(root_ + name);
  EXPECT_TRUE(watch(root_ + "/d/a", "/d/a"));
  EXPECT_TRUE(watch(root_ + "/d/b", "/d/b"));
  EXPECT_FALSE(watch(root_ + "/d/c", "/d/c"));
  EXPECT_TRUE(watch(root_ + "/d/a", "/d/a")) << "what is watched stays so";
}

TEST_F(WatchHostTest, AFileSystemThatChangesElsewhereIsNotPromised) {
  start();
  EXPECT_TRUE(watch(root_ + "/d", "/d"));
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(watch_->watch(file.get(), {1, 2, 3}, path("/x"))) << "no directory";
}

}  // namespace
}  // namespace fbroker::broker
