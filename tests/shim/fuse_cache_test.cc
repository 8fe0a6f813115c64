// What the kernel may keep, counted in requests, and what makes it forget.
#include <gtest/gtest.h>

#include <sys/mman.h>

#include "tests/shim/fuse_mounted.h"

namespace fbroker::test {
namespace {

using protocol::EventKind;

// `ls -l`: every name with its attributes.
std::size_t list_long(const std::string& path) {
  std::size_t count = 0;
  for (const std::string& name : listed(path)) count += stat_error(path + "/" + name) == 0 ? 1 : 0;
  return count;
}

struct FuseCache : testing::Test {
  FuseMounted m;
};

TEST_F(FuseCache, ASecondStatMakesNoRequest) {
  m.write_host("d/a", "text");
  ASSERT_EQ(stat_error(m.inside("d/a")), 0);
  m.counting.reset();
  EXPECT_EQ(stat_error(m.inside("d/a")), 0);
  EXPECT_EQ(m.counting.total(), 0) << m.counting.text();
}

TEST_F(FuseCache, ASecondLongListingOnlyOpensAndCloses) {
  for (int i = 0; i < 1000; ++i) m.write_host("d/" + std::to_string(i), "");
  ASSERT_EQ(list_long(m.inside("d")), 1000u);
  // Having read it, the kernel asks once for the directory's new access time.
  ASSERT_EQ(stat_error(m.inside("d")), 0);
  ASSERT_TRUE(wait_until([&] { return m.counting.of("close") == 1; }));
  m.counting.reset();
  EXPECT_EQ(list_long(m.inside("d")), 1000u);
  ASSERT_TRUE(wait_until([&] { return m.counting.of("close") == 1; }));
  EXPECT_EQ(m.counting.of("open_directory"), 1);
  EXPECT_EQ(m.counting.total(), 2) << m.counting.text();
}

TEST_F(FuseCache, TheFirstLongListingNeedsNoLookUpPerFile) {
  for (int i = 0; i < 1000; ++i) m.write_host("d/" + std::to_string(i), "");
  ASSERT_EQ(list_long(m.inside("d")), 1000u);
  EXPECT_EQ(m.counting.of("stat"), 0) << m.counting.text();
  EXPECT_LE(m.counting.of("lookup"), 2);
}

TEST_F(FuseCache, AWarmReadMakesNoReadRequest) {
  const std::string text(300'000, 't');
  m.write_host("a", text);
  ASSERT_EQ(slurp(m.inside("a")), text);
  m.counting.reset();
  EXPECT_EQ(slurp(m.inside("a")), text);
  EXPECT_EQ(m.counting.of("read"), 0) << m.counting.text();
  EXPECT_EQ(m.counting.of("open"), 1) << "every open is asked for and recorded";
}

// The refused twin: where the host has changed the file and nobody has told.
TEST_F(FuseCache, AnOpenDropsPagesOfAnOlderVersion) {
  m.write_host("a", "old");
  ASSERT_EQ(slurp(m.inside("a")), "old");
  ASSERT_EQ(slurp(m.inside("a")), "old");
  FuseMounted unwatched({allow("write", {"/**"})}, {}, false);
  unwatched.write_host("a", "old");
  ASSERT_EQ(slurp(unwatched.inside("a")), "old");
  unwatched.write_host("a", "new");
  EXPECT_EQ(slurp(unwatched.inside("a")), "new");
}

TEST_F(FuseCache, AnAbsentNameIsAskedForOnce) {
  m.session.tree.mkdir("w/d");
  ASSERT_EQ(stat_error(m.inside("d/none")), ENOENT);
  m.counting.reset();
  EXPECT_EQ(stat_error(m.inside("d/none")), ENOENT);
  EXPECT_EQ(m.counting.total(), 0) << m.counting.text();
}

TEST_F(FuseCache, ASymlinkIsReadOnce) {
  m.write_host("d/a", "text");
  ASSERT_EQ(::symlink("d/a", m.host("l").c_str()), 0);
  ASSERT_EQ(slurp(m.inside("l")), "text");
  m.counting.reset();
  ASSERT_EQ(slurp(m.inside("l")), "text");
  EXPECT_EQ(m.counting.of("readlink"), 0);
}

TEST_F(FuseCache, WritingAsksForNoExtendedAttribute) {
  ASSERT_EQ(spill(m.inside("a"), "1"), 0);
  m.counting.reset();
  const UniqueFd fd(::open(m.inside("a").c_str(), O_WRONLY));
  for (int i = 0; i < 100; ++i) ASSERT_EQ(::write(fd.get(), "x", 1), 1);
  EXPECT_EQ(m.counting.of("write"), 100);
  EXPECT_EQ(m.counting.of("open"), 1);
  EXPECT_EQ(m.counting.total() - m.counting.of("close"), 101) << m.counting.text();
}

TEST_F(FuseCache, ChangingDirectoryAgainMakesNoRequest) {
  m.session.tree.mkdir("w/d");
  const UniqueFd back(::open(".", O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(::chdir(m.inside("d").c_str()), 0);
  ASSERT_EQ(::fchdir(back.get()), 0);
  m.counting.reset();
  EXPECT_EQ(::chdir(m.inside("d").c_str()), 0);
  EXPECT_EQ(::fchdir(back.get()), 0);
  EXPECT_EQ(m.counting.total(), 0) << m.counting.text();
}

TEST(FuseHidden, AHiddenNameAlwaysReachesTheService) {
  FuseMounted m({allow("write", {"/**"}), deny("all", {"**/.env"})});
  m.write_host("d/.env", "secret");
  for (const char* name : {"d/.env", "d/sub/.env"}) stat_error(m.inside(name));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(stat_error(m.inside("d/.env")), ENOENT);
  EXPECT_EQ(m.counting.of("lookup /d/.env"), 4);
  EXPECT_EQ(listed(m.inside("d")), std::vector<std::string>{});
  m.session.tree.mkdir("w/e");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(stat_error(m.inside("e/.env")), ENOENT);
  EXPECT_EQ(m.counting.of("lookup /e/.env"), 3) << "the same whether it exists or not";
}

// --- Revoke and grant. Twice: with the kernel's epochs and, as older kernels
// have it, name by name.

class FusePolicyEvents : public testing::TestWithParam<bool> {
 protected:
  static fuse::Options options() {
    fuse::Options o;
    o.use_epoch = GetParam();
    return o;
  }
  bool revoke(const std::string& path, EventKind kind = EventKind::forget) {
    auto rules = rules_;
    rules.push_back(deny(kind == EventKind::retire ? "write" : "all", {path}));
    m.session.set_rules(rules);
    m.session.service->close_refused_handles(at(path));
    return m.pump->publish(kind, at(path));
  }
  std::vector<policy::Rule> rules_{allow("write", {"/**"})};
  FuseMounted m{rules_, options()};
};
INSTANTIATE_TEST_SUITE_P(, FusePolicyEvents, testing::Bool(), [](const auto& c) {
  return c.param ? "ByEpoch" : "ByName";
});

TEST_P(FusePolicyEvents, ARevokedTreeIsGoneUnderEveryNameAtOnce) {
  m.write_host("d/e/a", "text");
  ASSERT_EQ(slurp(m.inside("d/e/a")), "text");
  ASSERT_EQ(listed(m.inside("d")), std::vector<std::string>{"e"});
  const UniqueFd directory(::open(m.inside("d").c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_TRUE(revoke("/d"));
  EXPECT_EQ(stat_error(m.inside("d/e/a")), ENOENT);
  EXPECT_EQ(stat_error(m.inside("d")), ENOENT);
  EXPECT_EQ(listed(m.inside()), std::vector<std::string>{});
  EXPECT_EQ(::faccessat(directory.get(), "e/a", R_OK, 0), -1);
}

TEST_P(FusePolicyEvents, AnOpenFileCannotBeReadFromTheCacheAfterRevoke) {
  m.write_host("a", "secret");
  const UniqueFd fd(::open(m.inside("a").c_str(), O_RDONLY));
  char text[8] = {};
  ASSERT_EQ(::pread(fd.get(), text, sizeof text, 0), 6);
  ASSERT_TRUE(revoke("/a"));
  EXPECT_EQ(::pread(fd.get(), text, sizeof text, 0), -1);
}

TEST_P(FusePolicyEvents, WhatLiesElsewhereStaysInTheCache) {
  m.write_host("a", "secret");
  m.write_host("b", "text");
  ASSERT_EQ(slurp(m.inside("a")), "secret");
  ASSERT_EQ(slurp(m.inside("b")), "text");
  ASSERT_TRUE(revoke("/a"));
  m.counting.reset();
  EXPECT_EQ(slurp(m.inside("b")), "text");
  EXPECT_EQ(m.counting.of("read"), 0);
}

TEST_P(FusePolicyEvents, AGrantIsSeenWhereTheNameWasAbsentBefore) {
  m.write_host("d/a", "text");
  ASSERT_TRUE(revoke("/d"));
  ASSERT_EQ(stat_error(m.inside("d/a")), ENOENT);
  ASSERT_EQ(listed(m.inside()), std::vector<std::string>{});
  m.session.set_rules(rules_);
  ASSERT_TRUE(m.pump->publish(EventKind::forget, at("/d")));
  EXPECT_EQ(slurp(m.inside("d/a")), "text");
  EXPECT_EQ(listed(m.inside()), std::vector<std::string>{"d"});
}

TEST_P(FusePolicyEvents, AnAbsentNameIsAskedForAgainAfterForgetAll) {
  ASSERT_EQ(stat_error(m.inside("none")), ENOENT);
  m.session.tree.mkdir("w/d");
  ASSERT_EQ(stat_error(m.inside("d/none")), ENOENT);
  ASSERT_TRUE(m.pump->publish(EventKind::forget_all, at("/")));
  m.counting.reset();
  EXPECT_EQ(stat_error(m.inside("none")), ENOENT);
  EXPECT_EQ(stat_error(m.inside("d/none")), ENOENT);
  EXPECT_EQ(m.counting.of("lookup /none"), 1) << m.counting.text();
  EXPECT_EQ(m.counting.of("lookup /d/none"), 1) << m.counting.text();
}

TEST_P(FusePolicyEvents, ARetiredNodeIsStaleAndItsNameGivesANewOne) {
  m.write_host("a", "text");
  const UniqueFd writer(::open(m.inside("a").c_str(), O_RDWR));
  ASSERT_EQ(::pwrite(writer.get(), "TEXT", 4, 0), 4);
  ASSERT_TRUE(revoke("/a", EventKind::retire));
  char text[8] = {};
  EXPECT_EQ(::pread(writer.get(), text, sizeof text, 0), -1);
  EXPECT_EQ(errno, ESTALE);
  EXPECT_EQ(::pwrite(writer.get(), "more", 4, 0), -1);
  EXPECT_EQ(slurp(m.inside("a")), "TEXT") << "reading was left";
  EXPECT_EQ(spill(m.inside("a"), "x"), EACCES);
  EXPECT_EQ(m.session.tree.read("w/a"), "TEXT");
}

// The service has not been told here: it is the front that refuses.
TEST_P(FusePolicyEvents, ARetiredNodesHandlesAreDeadWhateverTheServiceSays) {
  m.write_host("a", "text");
  const UniqueFd fd(::open(m.inside("a").c_str(), O_RDWR));
  ASSERT_TRUE(m.pump->publish(EventKind::retire, at("/a")));
  m.counting.reset();
  char text[8] = {};
  EXPECT_EQ(::pread(fd.get(), text, sizeof text, 0), -1);
  EXPECT_EQ(errno, ESTALE);
  EXPECT_EQ(::pwrite(fd.get(), "more", 4, 0), -1);
  EXPECT_EQ(errno, ESTALE);
  EXPECT_EQ(m.counting.of("read") + m.counting.of("write"), 0);
  EXPECT_EQ(m.session.tree.read("w/a"), "text");
}

TEST_P(FusePolicyEvents, AShellStaysInADirectoryThatWasRetired) {
  m.write_host("d/a", "text");
  EXPECT_EQ(in_child([&] {
              if (::chdir(m.inside("d").c_str()) != 0) return 1;
              return 0;
            }),
            0);
  const UniqueFd directory(::open(m.inside("d").c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_TRUE(revoke("/d", EventKind::retire));
  EXPECT_EQ(::faccessat(directory.get(), "a", R_OK, 0), 0);
}

TEST_P(FusePolicyEvents, AMappedPageOfARevokedFileIsGone) {
  m.write_host("a", std::string(4096, 's'));
  int to_child[2], to_us[2];
  ASSERT_EQ(::pipe(to_child), 0);
  ASSERT_EQ(::pipe(to_us), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const int fd = ::open(m.inside("a").c_str(), O_RDONLY);
    const auto* page = static_cast<const volatile char*>(
        ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0));
    char byte = page[0];
    if (::write(to_us[1], &byte, 1) != 1 || ::read(to_child[0], &byte, 1) != 1) ::_exit(1);
    byte = page[0];  // SIGBUS
    ::_exit(byte == 's' ? 2 : 3);
  }
  char byte = 0;
  ASSERT_EQ(::read(to_us[0], &byte, 1), 1);
  EXPECT_EQ(byte, 's');
  ASSERT_TRUE(revoke("/a"));
  ASSERT_EQ(::write(to_child[1], "x", 1), 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) << status;
}

// --- The host's changes, as events say them.

TEST_F(FuseCache, ContentThatChangedIsReadAnewOnAnOpenDescriptor) {
  m.write_host("a", "old");
  const UniqueFd fd(::open(m.inside("a").c_str(), O_RDONLY));
  char text[8] = {};
  ASSERT_EQ(::pread(fd.get(), text, sizeof text, 0), 3);
  m.write_host("a", "newer");
  ASSERT_TRUE(m.pump->publish(EventKind::content, at("/a")));
  EXPECT_EQ(::pread(fd.get(), text, sizeof text, 0), 5);
  EXPECT_STREQ(text, "newer");
}

TEST_F(FuseCache, ANameThatAppearedIsSeenAndListed) {
  m.session.tree.mkdir("w/d");
  ASSERT_EQ(stat_error(m.inside("d/a")), ENOENT);
  ASSERT_EQ(listed(m.inside("d")), std::vector<std::string>{});
  m.write_host("d/a", "text");
  ASSERT_TRUE(m.pump->publish(EventKind::entry, at("/d/a")));
  EXPECT_EQ(slurp(m.inside("d/a")), "text");
  EXPECT_EQ(listed(m.inside("d")), std::vector<std::string>{"a"});
}

TEST_F(FuseCache, AFileReplacedOnTheHostIsAnotherNode) {
  m.write_host("a", "old");
  const UniqueFd fd(::open(m.inside("a").c_str(), O_RDONLY));
  m.write_host("b", "new");
  ASSERT_EQ(::rename(m.host("b").c_str(), m.host("a").c_str()), 0);
  // Before any event: the open finds another file and is looked up anew.
  EXPECT_EQ(slurp(m.inside("a")), "new");
  char text[8] = {};
  EXPECT_EQ(::pread(fd.get(), text, sizeof text, 0), 3);
  EXPECT_STREQ(text, "old");
}

TEST_F(FuseCache, ADirectoryReplacedOnTheHostIsAnotherNode) {
  m.write_host("d/a", "old");
  ASSERT_EQ(slurp(m.inside("d/a")), "old");
  ASSERT_EQ(::rename(m.host("d").c_str(), m.host("away").c_str()), 0);
  m.write_host("d/b", "new");
  ASSERT_TRUE(m.pump->publish(EventKind::entry, at("/d")));
  ASSERT_TRUE(m.pump->publish(EventKind::entry, at("/away")));
  EXPECT_EQ(listed(m.inside("d")), std::vector<std::string>{"b"});
  EXPECT_EQ(stat_error(m.inside("d/a")), ENOENT);
  EXPECT_EQ(slurp(m.inside("away/a")), "old");
}

// Nobody publishes anything here: the host watch alone tells. What is looked
// at is all in the kernel's cache, for ever, unless it is told.
TEST_F(FuseCache, WhatTheHostChangesIsSeenBecauseTheWatchTells) {
  m.write_host("d/a", "old");
  const UniqueFd fd(::open(m.inside("d/a").c_str(), O_RDONLY));
  char text[8] = {};
  ASSERT_EQ(::pread(fd.get(), text, sizeof text, 0), 3);
  ASSERT_EQ(stat_error(m.inside("d/new")), ENOENT);
  ASSERT_EQ(listed(m.inside("d")), std::vector<std::string>{"a"});
  m.counting.reset();
  ASSERT_EQ(stat_error(m.inside("d/new")), ENOENT);
  ASSERT_EQ(m.counting.of("lookup"), 0) << "the absent name is not cached: this would show nothing";

  m.write_host("d/a", "newer");
  EXPECT_TRUE(wait_until([&] {
    return ::pread(fd.get(), text, sizeof text, 0) == 5 && std::string_view(text, 5) == "newer";
  }));
  m.write_host("d/new", "text");
  EXPECT_TRUE(wait_until([&] { return slurp(m.inside("d/new")) == "text"; }));
  EXPECT_TRUE(wait_until([&] { return listed(m.inside("d")).size() == 2; }));
  ::unlink(m.host("d/new").c_str());
  EXPECT_TRUE(wait_until([&] { return stat_error(m.inside("d/new")) == ENOENT; }));
}

// --- Races

// INVARIANT of front.h, point 1: what the service answered before an event is
// not kept when it is replied after it.
TEST_F(FuseCache, AnAnswerFromBeforeAnEventIsNotKept) {
  m.session.tree.mkdir("w/d");
  ASSERT_EQ(stat_error(m.inside("d")), 0);
  std::atomic<bool> once{true};
  m.counting.after_lookup([&](const WorkspacePath& path) {
    if (path.bytes() != "/d/a" || !once.exchange(false)) return;
    m.write_host("d/a", "text");
    protocol::Event event;
    event.kind = EventKind::content;  // takes no directory lock, so it does not wait for us
    event.path = at("/d/a");
    m.front->handle(event);
  });
  EXPECT_EQ(stat_error(m.inside("d/a")), ENOENT) << "it was so when asked";
  EXPECT_EQ(stat_error(m.inside("d/a")), 0) << "and was not kept";
}

// Whatever the interleaving: after an event has been handled nobody sees what
// was so before it. Point 2 of front.h is in here too: replies under way.
TEST_F(FuseCache, NothingStaleSurvivesAnEventWhateverTheTiming) {
  constexpr int kRounds = 2000;
  m.session.tree.mkdir("w/d");
  std::atomic<bool> ending{false};
  std::vector<std::thread> lookers;
  for (int i = 0; i < 2; ++i)
    lookers.emplace_back([&, i] {
      while (!ending) {
        stat_error(m.inside("d/a"));
        if (i == 0) slurp(m.inside("d/a"));
        if (i == 1) listed(m.inside("d"));
      }
    });
  int wrong_name = 0, wrong_content = 0, wrong_list = 0;
  for (int round = 0; round < kRounds; ++round) {
    const std::string text = std::to_string(round);
    m.session.tree.write("new", text);
    ASSERT_EQ(::rename(m.session.tree.path("new").c_str(), m.host("d/a").c_str()), 0);
    ASSERT_TRUE(m.pump->publish(EventKind::entry, at("/d/a")));
    wrong_content += slurp(m.inside("d/a")) != text;
    wrong_list += listed(m.inside("d")) != std::vector<std::string>{"a"};
    if (round % 3 == 0) {
      ::unlink(m.host("d/a").c_str());
      ASSERT_TRUE(m.pump->publish(EventKind::entry, at("/d/a")));
      wrong_name += stat_error(m.inside("d/a")) != ENOENT;
    }
    if (round % 3 == 1) {
      m.write_host("d/a", text + "!");
      ASSERT_TRUE(m.pump->publish(EventKind::content, at("/d/a")));
      wrong_content += slurp(m.inside("d/a")) != text + "!";
    }
  }
  ending = true;
  for (std::thread& looker : lookers) looker.join();
  EXPECT_EQ(wrong_name, 0);
  EXPECT_EQ(wrong_content, 0);
  EXPECT_EQ(wrong_list, 0);
}

// Point 2 of front.h for content: the file's first look-up is answered while
// its content changes. Unwatched, so that no second event mends what a first
// one missed; what is kept lives a second, and is looked at before that.
TEST(FuseContentRace, AFirstLookUpUnderWayInstallsNoOldAttributes) {
  constexpr int kRounds = 5000;
  FuseMounted m({allow("write", {"/**"})}, {}, false);
  for (int i = 0; i < kRounds; ++i) m.write_host("d/" + std::to_string(i), "1");
  ASSERT_EQ(stat_error(m.inside("d")), 0);
  std::atomic<int> round{-1};
  std::atomic<bool> answered{false};
  m.counting.after_lookup([&](const WorkspacePath& path) {
    if (path.parent().bytes() == "/d") answered = true;
  });
  std::thread looker([&] {
    for (int i = 0; i < kRounds; ++i) {
      while (round < i) {
      }
      stat_error(m.inside("d/" + std::to_string(i)));
    }
  });
  int stale = 0;
  for (int i = 0; i < kRounds; ++i) {
    answered = false;
    round = i;
    const std::string name = "d/" + std::to_string(i);
    const UniqueFd host(::open(m.host(name).c_str(), O_WRONLY));
    while (!answered) {
    }
    // Spread over the time that the answer takes to be installed.
    for (std::atomic<int> spin{(i % 50) * 200}; spin > 0; --spin) {
    }
    ASSERT_EQ(::pwrite(host.get(), "12", 2, 0), 2);
    protocol::Event event;
    event.kind = EventKind::content;
    event.path = at("/" + name);
    m.front->handle(event);
    struct stat st;
    ASSERT_EQ(::lstat(m.inside(name).c_str(), &st), 0);
    stale += st.st_size != 2;
  }
  looker.join();
  EXPECT_EQ(stale, 0);
}

TEST_F(FuseCache, RevokingWhileManyReadLeavesNothingReadable) {
  constexpr int kRounds = 300;
  m.write_host("d/a", std::string(20'000, 's'));
  const std::vector<policy::Rule> open{allow("write", {"/**"})};
  auto closed = open;
  closed.push_back(deny("all", {"/d"}));
  std::atomic<bool> ending{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i)
    readers.emplace_back([&] {
      while (!ending) {
        slurp(m.inside("d/a"));
        listed(m.inside("d"));
      }
    });
  int leaks = 0;
  for (int round = 0; round < kRounds; ++round) {
    m.session.set_rules(closed);
    m.session.service->close_refused_handles(at("/d"));
    ASSERT_TRUE(m.pump->publish(EventKind::forget, at("/d")));
    leaks += slurp(m.inside("d/a")) != "errno 2";
    leaks += !listed(m.inside()).empty();
    m.session.set_rules(open);
    ASSERT_TRUE(m.pump->publish(EventKind::forget, at("/d")));
    leaks += slurp(m.inside("d/a")).size() != 20'000;
  }
  ending = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(leaks, 0);
}

}  // namespace
}  // namespace fbroker::test
