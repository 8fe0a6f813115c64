// Limits that an agent can reach: lengths of names, open files, large trees;
// and what is judged in one moment and written in another.
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <thread>

#include "broker/files/fold_checks.h"
#include "policy/base_rules.h"
#include "tests/broker/files_session.h"
#include "tests/support/folding_mount.h"

namespace fbroker::test {
namespace {

std::vector<policy::Rule> guarded() {
  std::vector<policy::Rule> rules{allow("write", {"/**"})};
  for (const auto& base : policy::base_rules()) rules.push_back(policy::to_rule(base));
  return rules;
}

constexpr int kMake = O_WRONLY | O_CREAT;

// ---- what was vetted is what is written -------------------------------------------

class VettedWrites : public testing::Test {
 protected:
  VettedWrites() : s(guarded()) {
    EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/m"), 0755)), 0);
    handle = s.open("/m/.git", O_RDWR | O_CREAT).value();
    EXPECT_EQ(error_of(s.write(handle, kLeads)), EACCES);
  }

  // The agent's two hands: one writes what is harmless with the old tail behind
  // it, the other cuts that off. True: what nobody vetted stands alone.
  template <class Cut>
  bool wins(Cut cut) {
    const std::string tail = [] {
      std::string names;
      while (names.size() < 180'000) names += "/b";
      return names + "/.git\n";
    }();
    for (int round = 0; round < 150; ++round) {
      cut();
      if (error_of(s.write(handle, std::string(kLeads) + tail)) != 0) return true;   // cannot even begin
      std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::microseconds(round * 20));
        cut();
      });
      (void)s.write(handle, kLeads);
      other.join();
      if (s.tree.read("w/m/.git") == kLeads) return true;
    }
    return false;
  }

  static constexpr std::string_view kLeads = "gitdir: ../s/.git/refs/heads/e";
  FilesSession s;
  protocol::HandleId handle = 0;
};

TEST_F(VettedWrites, AreNotCutWhileTheyLandByTruncate) {
  EXPECT_FALSE(wins([&] { (void)s.service->truncate(s.caller, {at("/m/.git"), {}, 0}, 0); }));
}

TEST_F(VettedWrites, AreNotCutWhileTheyLandByAHandle) {
  EXPECT_FALSE(wins([&] { (void)s.service->truncate(s.caller, {{}, {}, handle}, 0); }));
}

TEST_F(VettedWrites, AreNotCutWhileTheyLandByOpening) {
  EXPECT_FALSE(wins([&] { (void)s.open_error("/m/.git", O_WRONLY | O_TRUNC); }));
}

TEST_F(VettedWrites, MayBeCutToWhatIsHarmless) {
  ASSERT_EQ(error_of(s.write(handle, "gitdir: ../.git/modules/m\n")), 0);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {{}, {}, handle}, 9)), EACCES);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {{}, {}, handle}, 25)), 0);
  EXPECT_EQ(s.open_error("/m/.git", O_WRONLY | O_TRUNC), 0);
  EXPECT_EQ(s.tree.read("w/m/.git"), "");
}

// ---- a deny of the person's own hides no guard ---------------------------------------

TEST(GuardAndDeny, TheGuardHoldsForLinksToo) {
  for (const bool denied : {false, true}) {
    auto rules = guarded();
    if (denied) rules.push_back(deny("write", {"**/*.git/config"}));
    FilesSession s(std::move(rules));
    ASSERT_TRUE(s.service->mkdir(s.caller, at("/sub"), 0755));
    EXPECT_EQ(error_of(s.service->symlink(s.caller, "../plain", at("/sub/.git"))), EPERM) << denied;
    EXPECT_EQ(error_of(s.service->symlink(s.caller, "../plain", at("/sub/git"))), 0) << denied;
  }
}

TEST(GuardAndDeny, WithoutTheGuardLinksAreTheAgents) {
  FilesSession s({allow("write", {"/**"}), deny("write", {"**/*.git/config"})});
  EXPECT_EQ(error_of(s.service->symlink(s.caller, "plain", at("/.git"))), 0);
}

// ---- names that grow too long ----------------------------------------------------------

class LongNames : public testing::Test {
 protected:
  LongNames() : s(guarded()) {
    far = "/c";
    EXPECT_TRUE(s.service->mkdir(s.caller, at(far), 0755));
    while (far.size() + 256 <= 4000) {
      far += "/" + std::string(255, 'L');
      EXPECT_TRUE(s.service->mkdir(s.caller, at(far), 0755));
    }
    EXPECT_TRUE(s.service->mkdir(s.caller, at("/c/x"), 0755));
    EXPECT_TRUE(s.service->mkdir(s.caller, at(deep), 0755));
  }
  int rename(const std::string& from, const std::string& to) {
    return error_of(s.service->rename(s.caller, at(from), at(to), 0));
  }
  FilesSession s;
  std::string far;
  const std::string deep = "/c/x/" + std::string(240, 'd');
};

TEST_F(LongNames, ThePersonsDirectoryIsNotForgottenOnTheWay) {
  s.tree.write("w/pkg/.envrc", "# person");
  ASSERT_EQ(rename("/pkg", deep + "/pkg-of-the-person"), 0);
  ASSERT_EQ(s.open_error(deep + "/pkg-of-the-person/.envrc", O_WRONLY), EACCES);
  (void)rename("/c/x", far + "/x");
  (void)rename(far + "/x", "/c/x");
  EXPECT_EQ(s.open_error(deep + "/pkg-of-the-person/.envrc", O_WRONLY), EACCES);
  EXPECT_EQ(s.tree.read("w" + deep + "/pkg-of-the-person/.envrc"), "# person");
}

TEST_F(LongNames, AnOpenFileFollowsOrStaysWhereItIs) {
  const auto handle = s.open(deep + "/f (deleted)", O_RDWR | O_CREAT);
  ASSERT_TRUE(handle);
  EXPECT_EQ(rename("/c/x", far + "/x"), ENAMETOOLONG);
  EXPECT_EQ(s.refusals("rename", "/c/x", ENAMETOOLONG), 1u);
  EXPECT_EQ(rename("/c/x", "/c/y"), 0);
  s.set_rules({allow("write", {"/**"}), deny("all", {"/c/y"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST_F(LongNames, ALinkStaysKnown) {
  s.tree.write("w/a", "x");
  ASSERT_EQ(error_of(s.service->link(s.caller, {at("/a"), {}, 0}, at(deep + "/b-of-a-longer-name"))), 0);
  EXPECT_EQ(rename("/c/x", far + "/x"), ENAMETOOLONG);
  EXPECT_EQ(rename("/c/x", "/c/y"), 0);
  EXPECT_EQ(s.service->names_elsewhere({at("/a")}), std::vector{at("/c/y/" + std::string(240, 'd') + "/b-of-a-longer-name")});
}

TEST_F(LongNames, WhatHoldsNothingKnownMayBecomeTooLong) {
  EXPECT_EQ(rename("/c/x", far + "/x"), 0);
}

// ---- the last free handle ------------------------------------------------------------------

TEST(LastHandle, WhoeverFindsNoRoomHasChangedNothing) {
  FilesSession s({allow("write", {"/**"})}, {.max_handles = 1, .on_grant_used = {}});
  for (int round = 0; round < 500; ++round) {
    const std::string name = "/r" + std::to_string(round) + "-";
    s.tree.write("w/t" + std::to_string(round), "kept");
    std::barrier together(2);
    std::array<Result<protocol::HandleId, Errno>, 2> opened{Errno{0}, Errno{0}};
    const auto make = [&](std::size_t i) {
      together.arrive_and_wait();
      opened[i] = i == 0 ? s.open(name + "0", kMake | O_EXCL)
                         : s.open("/t" + std::to_string(round), O_WRONLY | O_TRUNC);
    };
    std::thread other([&] { make(1); });
    make(0);
    other.join();
    ASSERT_NE(opened[0].has_value(), opened[1].has_value()) << "one has room";
    EXPECT_EQ(s.tree.exists("w" + name + "0"), opened[0].has_value());
    EXPECT_EQ(s.tree.read("w/t" + std::to_string(round)), opened[1] ? "" : "kept");
    for (const auto& handle : opened)
      if (handle) s.service->close(s.caller, *handle);
  }
}

// ---- nobody holds a revoke up ------------------------------------------------------------

TEST(LargeTrees, RenamesThatLookThroughThemHoldNoRevokeUp) {
  FilesSession s;
  for (int d = 0; d < 60; ++d) {
    const std::string directory = "w/x/y/t/" + std::to_string(d);
    s.tree.mkdir(directory);
    for (int l = 0; l < 500; ++l)
      std::filesystem::create_symlink("x", s.tree.path(directory + "/" + std::to_string(l)));
  }
  std::atomic<bool> stop{false};
  std::vector<std::thread> agents;
  for (int i = 0; i < 16; ++i)
    agents.emplace_back([&] {
      // Not to be moved up: one that would leave at the end.
      while (!stop) {
        (void)s.service->rename(s.caller, at("/x/y/t"), at("/x/t"), 0);
        (void)s.service->rename(s.caller, at("/x/t"), at("/x/y/t"), 0);
      }
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  for (int round = 0; round < 3; ++round) {
    const auto begun = std::chrono::steady_clock::now();
    s.publish();
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(900)) << round;
  }
  stop = true;
  for (auto& agent : agents) agent.join();
}

TEST(LargeTrees, AreMovedUpAllTheSame) {
  FilesSession s;
  for (int l = 0; l < 500; ++l) s.tree.write("w/x/y/t/" + std::to_string(l), "x");
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/x/y/t"), at("/x/t"), 0)), 0);
  std::filesystem::create_symlink("../../../z", s.tree.path("w/x/t/leaves"));
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/x/t"), at("/t"), 0)), EXDEV);
}

// ---- case ------------------------------------------------------------------------------------

TEST(FoldedCase, ADirectoryThatTellsCasesApartIsFoundOut) {
  TempTree tree;
  tree.mkdir("d");
  const UniqueFd directory(::open(tree.path("d").c_str(), O_PATH | O_DIRECTORY));
  EXPECT_EQ(broker::tried_out(directory.get()), broker::Folding::unsaid);
  tree.write("d/x", "");
  tree.write("d/X", "");
  EXPECT_EQ(broker::tried_out(directory.get()), broker::Folding::unsaid);
  EXPECT_FALSE(broker::is_other_spelling(directory.get(), "X"));
  tree.write("d/.env", "");
  EXPECT_EQ(broker::tried_out(directory.get()), broker::Folding::no);
  EXPECT_FALSE(broker::is_other_spelling(directory.get(), ".env"));
}

// One name is proof enough, however many there are.
TEST(FoldedCase, ALargeDirectoryThatTellsCasesApartIsFoundOutToo) {
  TempTree tree;
  tree.mkdir("d");
  for (int i = 0; i < 10'001; ++i) tree.write("d/f" + std::to_string(i), "");
  const UniqueFd directory(::open(tree.path("d").c_str(), O_PATH | O_DIRECTORY));
  EXPECT_EQ(broker::tried_out(directory.get()), broker::Folding::no);
}

// A mount below the export that takes .ENV for .env, as what Windows and Macs
// share does.
TEST(FoldedCase, AMountBelowThatFoldsIsNotThere) {
  for (const bool folds : {true, false}) {
    FilesSession s({allow("read", {"/**"}), deny("all", {"**/.env"})});
    s.tree.mkdir("w/usb");
    auto mounted = FoldingMount::at(s.tree.path("w/usb"), folds);
    if (!mounted) GTEST_SKIP() << "no FUSE for this user";
    s.set_exports({{.at = at("/"), .from = ".", .submounts = true}});
    EXPECT_EQ(s.open_error("/usb/.env"), ENOENT);
    EXPECT_EQ(s.open_error("/usb/.ENV"), ENOENT);
    EXPECT_EQ(s.open_error("/usb/readme"), folds ? ENOENT : 0);
    EXPECT_EQ(s.names("/usb"), folds ? std::vector<std::string>{"errno 2"} : std::vector<std::string>{"readme"});
  }
}

}  // namespace
}  // namespace fbroker::test
