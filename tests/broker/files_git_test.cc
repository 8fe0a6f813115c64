// Repositories that a session makes: the person's git obeys them, so they hold
// nothing that makes it run a program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>

#include <random>

#include "broker/files/git_files.h"
#include "policy/base_rules.h"
#include "tests/broker/files_session.h"
#include "tests/support/process.h"

namespace fbroker::test {
namespace {

namespace git = broker::git;
using git::Role;

std::vector<policy::Rule> base_and_all() {
  std::vector<policy::Rule> rules{allow("write", {"/**"})};
  for (const auto& base : policy::base_rules()) rules.push_back(policy::to_rule(base));
  return rules;
}

struct Named {
  const char* path;
  Role role;
};

constexpr Named kNames[] = {
    {"/a/.git/config", Role::config},
    {"/a/.git/config.lock", Role::config},
    {"/a.git/config.worktree", Role::config},
    {"/.git/modules/m/config", Role::config},
    {"/.git/modules/a/modules/b/config.lock", Role::config},
    {"/.git/worktrees/w/config.worktree", Role::config},
    {"/.git/worktrees/w/config.worktree.lock", Role::config},
    {"/.git/modules/refs/x.git/config", Role::config},
    {"/.git/refs/x.git/hooks/update", Role::closed},
    {"/.git/worktrees/w/commondir", Role::commondir},
    {"/.git/worktrees/w/hooks", Role::hooks},
    {"/.git/worktrees/refs/hooks/post-index-change", Role::closed},
    {"/.git/worktrees/w/modules/m/hooks/update", Role::closed},
    {"/.git/worktrees/w/modules/m/config", Role::config},
    {"/.git/commondir", Role::closed},
    {"/.git/modules/m/commondir", Role::closed},
    {"/.git/hooks", Role::hooks},
    {"/.git/hooks/pre-commit", Role::closed},
    {"/.git/hooks/d/x.sample", Role::closed},
    {"/.git/modules/m/hooks/post-index-change", Role::closed},
    {"/x/.git", Role::gitfile},
    {"/HEAD", Role::head},
    {"/a/HEAD", Role::head},
};

TEST(FilesGit, KnowsFilesByTheirNames) {
  for (const auto& [path, role] : kNames) EXPECT_EQ(git::role_of(at(path)), role) << path;
  for (const char* path :
       {"/", "/config", "/a/hooks/pre-commit", "/.git/HEAD", "/.git/refs/heads/config", "/.github/config",
        "/.git/worktrees/w/HEAD", "/x.git/HEAD", "/HEAD/x", "/HEAD.lock", "/.git/hooks/pre-commit.sample", "/.git/modules/m/refs/heads/config",
        "/.git/modules/m/logs/refs/heads/hooks/x", "/.git/objects/info/alternates", "/x.git"})
    EXPECT_EQ(git::role_of(at(path)), Role::none) << path;
}

// What has a role and no guard would never be looked at.
TEST(FilesGit, EveryNameWithARoleIsGuarded) {
  policy::SnapshotInput input;
  input.rules = base_and_all();
  const auto snapshot = policy::Snapshot::compile(std::move(input)).value();
  for (const auto& [path, role] : kNames) {
    const auto entry = snapshot->decide(at(path)).of(policy::Operation::write);
    EXPECT_TRUE(entry.guard) << path;
    EXPECT_EQ(snapshot->reason(entry.reason).id, "base:git") << path;
  }
}

constexpr const char* kHarmless[] = {
    "",
    "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n",
    "[remote \"origin\"]\n\turl = https://example.com/a.git\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
    "[remote \"o\"]\n\turl = git@example.com:a/b.git\n[branch \"main\"]\n\tremote = o\n\tmerge = refs/heads/main\n",
    "# words\n; more\n\n[user]\nname=A B\nemail = a@b\n[advice]\n\tdetachedHead = false\n",
    "[submodule \"lib/x\"]\n\tactive = true\n\turl = ../x.git\n\tupdate = rebase\n",
    "[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge -- %f\n\tprocess = git-lfs filter-process\n\trequired = true\n",
    "[CORE]\n\tBare = true",
};

constexpr const char* kHarmful[] = {
    "[core]\n\tfsmonitor = touch /tmp/x\n",
    "[CORE]\n\tFSMonitor = x\n",
    "[core] fsmonitor = x\n",
    "[core]\n\tbare = false \\\n\tfsmonitor = x\n",
    "[core]\n\thooksPath = x\n",
    "[core]\n\tsshCommand = x\n",
    "[core]\n\tpager\n",
    "[core]\n\teditor = x\n",
    "[core]\n\tworktree = ../..\n",
    "[remote \"o\"]\n\tpromisor = true\n",
    "[remote \"o\"]\n\tpartialclonefilter = blob:none\n",
    "[extensions]\n\tpartialClone = o\n",
    "[core]\n\tworktree = /home/u\n",
    "[core.x]\n\tbare = true\n",
    "[include]\n\tpath = ../x\n",
    "[includeIf \"gitdir:/\"]\n\tpath = ../x\n",
    "[alias]\n\tst = !x\n",
    "[diff \"x\"]\n\ttextconv = x\n",
    "[diff]\n\texternal = x\n",
    "[filter \"x\"]\n\tclean = x\n",
    "[filter \"lfs\"]\n\tclean = x\n",
    "[filter]\n\tclean = git-lfs clean -- %f\n",
    "[credential]\n\thelper = !x\n",
    "[credential \"https://h\"]\n\thelper = x\n",
    "[gpg]\n\tprogram = x\n",
    "[remote \"o\"]\n\tuploadpack = x\n",
    "[remote \"o\"]\n\tproxy = x\n",
    "[remote \"o\"]\n\turl = ext::sh -c x\n",
    "[remote \"o\"]\n\turl = --upload-pack=x\n",
    "[url \"ext::x \"]\n\tinsteadOf = h\n",
    "[submodule \"x\"]\n\tupdate = !x\n",
    "[protocol]\n\tallow = always\n",
    "[sequence]\n\teditor = x\n",
    "[advice \"x\"]\n\tpath = x\n",
    "[user]\n\tname = \"a\nb\"\n",
    "[user]\n\tname = a\rb\n",
    "fsmonitor = x\n",
};

TEST(FilesGit, ConfigurationTakesWhatRunsNothing) {
  for (const char* text : kHarmless)
    EXPECT_EQ(git::objection(at("/r/.git/config"), text), std::nullopt) << text;
  for (const char* text : kHarmful) EXPECT_NE(git::objection(at("/r/.git/config"), text), std::nullopt) << text;
  const std::string zeros("[core]\n\tbare = a\0b\n", 20);
  EXPECT_NE(git::objection(at("/r/.git/config"), zeros), std::nullopt);
  EXPECT_NE(git::objection(at("/r/.git/config"), "#" + std::string(git::kMaxBytes, 'x')), std::nullopt);
}

TEST(FilesGit, ASubmodulesFilesLieBesideTheRepositoryOnly) {
  const auto allowed = [](const char* path, const std::string& tree) {
    return !git::objection(at(path), "[core]\n\tworktree = " + tree + "\n");
  };
  EXPECT_TRUE(allowed("/.git/modules/m/config", "../../../m"));
  EXPECT_TRUE(allowed("/a/.git/modules/l/b/config", "../../../../l/b"));
  for (const char* tree : {"../../m", "../../../../m", "../../..", "../../../.husky", "../../../x.git/hooks",
                           "../../../m/..", "m", "/m", "../../../m/../../../../x"})
    EXPECT_FALSE(allowed("/.git/modules/m/config", tree)) << tree;
}

TEST(FilesGit, AGitFileLeadsToARepositoryThatIsGuarded) {
  const auto allowed = [](const std::string& content) {
    return !git::objection(at("/sub/.git"), content);
  };
  for (const char* good : {"gitdir: ../.git/modules/sub\n", "gitdir: ../.git/modules/a/b", "gitdir: ../other/.git\n",
                           "gitdir: /workspace/.git/worktrees/w\n", "",
                           "gitdir: ../.git/worktrees/w/modules/sub\n"})
    EXPECT_TRUE(allowed(good)) << good;
  for (const char* bad : {"gitdir: ../evil\n", "gitdir: ../.git/evil\n", "gitdir: ../.git/../evil\n",
                          "gitdir: ../.git/modules/../../evil\n", "gitdir: ../.git/worktrees/a/b\n",
                          "gitdir: ../.git/modules/refs/m\n", "gitdir: ../.git/worktrees/w/modules/objects\n",
                          "gitdir: ../.git/worktrees/w/modules\n", "gitdir: ../.git/modules/m/hooks\n",
                          "gitdir: ../.git/modules\n", "gitdir:../.git\n", "gitdir: ../.git\nx\n",
                          "gitdir: ../x.git/../../e\n", "gitdir: ../tests/fix.git\n", "gitdir: ../fix.git/worktrees/w\n", "words\n", "\n"})
    EXPECT_FALSE(allowed(bad)) << bad;
}

// What is let through must be, to git itself, made of harmless keys only: a
// parser that reads more than ours does would be a way past it.
TEST(FilesGit, GitReadsNothingElseInWhatIsAllowed) {
  TempTree tree;
  std::mt19937 random(20260101);
  std::vector<std::string> pieces(std::begin(kHarmless), std::end(kHarmless));
  pieces.insert(pieces.end(), std::begin(kHarmful), std::end(kHarmful));
  for (const char* piece : {"\\\n", "\"", "[core]", "\t", " ", "=", "\n", "\r\n", "#", ";", "\xef\xbb\xbf", "]",
                            "fsmonitor=x", "fsmonitor", "[", "\\", "\v", "\f", "\b"})
    pieces.emplace_back(piece);
  const auto one = [&](std::size_t size) { return std::uniform_int_distribution<std::size_t>(0, size - 1)(random); };
  int allowed = 0;
  for (int round = 0; round < 20000 && allowed < 300; ++round) {
    std::string text;
    for (std::size_t count = 1 + one(4); count-- > 0;) text.insert(one(text.size() + 1), pieces[one(pieces.size())]);
    if (text.empty() || git::objection(at("/r/.git/config"), text)) continue;
    ++allowed;
    tree.write("config", text);
    const auto listed = run({"git", "config", "--no-includes", "--file", tree.path("config"), "--list", "--name-only", "-z"});
    if (listed.status != 0) continue;   // git refuses the file as a whole
    for (std::size_t from = 0; from < listed.out.size();) {
      const std::size_t end = listed.out.find('\0', from);
      std::string key = listed.out.substr(from, end - from);
      from = end + 1;
      if (key == "core.worktree") continue;   // its value matters, and is looked at above
      const std::size_t first = key.find('.'), last = key.rfind('.');
      const std::string section = key.substr(0, first);
      const std::string name = last > first ? " \"" + key.substr(first + 1, last - first - 1) + "\"" : "";
      std::string value = key == "filter.lfs.clean" ? "git-lfs clean -- %f" : key == "filter.lfs.smudge" ? "git-lfs smudge -- %f"
                        : key == "filter.lfs.process" ? "git-lfs filter-process" : "rebase";
      EXPECT_EQ(git::objection(at("/r/.git/config"), "[" + section + name + "]\n" + key.substr(last + 1) + " = " + value + "\n"),
                std::nullopt)
          << key << " in:\n" << text;
    }
  }
  EXPECT_GE(allowed, 100);
}

// ---- through the file service ---------------------------------------------------------

struct OwnRepository : FilesSession {
  OwnRepository() : FilesSession(base_and_all()) {
    for (const char* made : {"/r", "/r/.git", "/r/.git/hooks"})
      EXPECT_TRUE(service->mkdir(caller, at(made), 0755)) << made;
  }
  // errno of creating it with that content, 0 = done
  int put(std::string_view path, std::string_view text, int flags = O_CREAT | O_WRONLY | O_TRUNC) {
    const auto handle = open(path, flags);
    if (!handle) return handle.error().value;
    const auto written = write(*handle, text);
    service->close(caller, *handle);
    return written ? 0 : written.error().value;
  }
  int rename(std::string_view from, std::string_view to) {
    return error_of(service->rename(caller, at(from), at(to), 0));
  }
  int mkdir(std::string_view path) { return error_of(service->mkdir(caller, at(path), 0755)); }
  int symlink(std::string_view target, std::string_view path) {
    return error_of(service->symlink(caller, target, at(path)));
  }
  int link(std::string_view from, std::string_view to) {
    return error_of(service->link(caller, {at(from), {}, 0}, at(to)));
  }
};

constexpr std::string_view kGood = "[core]\n\tbare = false\n";
constexpr std::string_view kEvil = "[core]\n\tfsmonitor = x\n";

TEST(FilesGit, ConfigurationIsLookedAtAsItIsWritten) {
  OwnRepository s;
  EXPECT_EQ(s.put("/r/.git/config", kGood), 0);
  EXPECT_EQ(s.put("/r/.git/config.lock", kGood), 0);
  EXPECT_EQ(s.rename("/r/.git/config.lock", "/r/.git/config"), 0);
  EXPECT_EQ(s.put("/r/.git/config", kEvil), EACCES);
  EXPECT_EQ(s.put("/r/.git/config.lock", kEvil), EACCES);
  EXPECT_EQ(s.put("/r/.git/config.lock", kEvil, O_CREAT | O_RDWR | O_APPEND), EACCES);
  EXPECT_EQ(s.tree.read("w/r/.git/config"), "");
  EXPECT_GE(s.refusals("write", "/r/.git/config", EACCES), 1u);
}

// ATTACK: each write is harmless by itself, the whole is not.
TEST(FilesGit, TheWholeFileIsLookedAtAndNotThePiece) {
  OwnRepository s;
  const auto handle = s.open("/r/.git/config", O_CREAT | O_RDWR);
  ASSERT_TRUE(handle);
  ASSERT_TRUE(s.write(*handle, "[core]\n\tbare = fsmonitor = x\n"));
  const std::string before = s.tree.read("w/r/.git/config");
  EXPECT_EQ(error_of(s.write(*handle, "\n", {.offset = 14})), EACCES);   // splits the line
  EXPECT_EQ(error_of(s.write(*handle, "pager", {.offset = 8})), EACCES);
  EXPECT_EQ(error_of(s.write(*handle, "x", {.offset = 100})), EACCES) << "zeros in between";
  EXPECT_EQ(error_of(s.write(*handle, "\thooksPath = x\n", {.append = true})), EACCES);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/r/.git/config"), {}, *handle}, 10)), EACCES);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/r/.git/config"), {}, 0}, 10)), EACCES);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/r/.git/config"), {}, 0}, 1 << 30)), EFBIG);
  EXPECT_EQ(s.tree.read("w/r/.git/config"), before);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/r/.git/config"), {}, *handle}, 7)), 0);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/r/.git/config"), {}, 0}, 0)), 0);
}

// ATTACK: write under another name, then give it the name that git reads.
TEST(FilesGit, NothingComesUnderTheNameUnseen) {
  OwnRepository s;
  ASSERT_EQ(s.put("/r/.git/config", kGood), 0);
  ASSERT_EQ(s.put("/r/.git/other", kEvil), 0);
  ASSERT_EQ(s.put("/r/x", kEvil), 0);
  for (const char* from : {"/r/.git/other", "/r/x"}) {
    EXPECT_EQ(s.rename(from, "/r/.git/config"), EXDEV) << from;
    EXPECT_EQ(s.link(from, "/r/.git/config.lock"), EPERM) << from;
    EXPECT_EQ(s.rename(from, "/r/.git/hooks/pre-commit"), EACCES) << from;
  }
  EXPECT_EQ(s.link("/r/.git/config", "/r/.git/twin"), EPERM) << "written by its other name";
  EXPECT_EQ(s.rename("/r/.git", "/r/dir"), EXDEV);
  EXPECT_EQ(s.symlink("other", "/r/.git/config.lock"), EPERM);
  EXPECT_EQ(s.rename("/r/.git/config", "/r/.git/config.worktree"), 0);
  const auto handle = s.open("/r/.git/config.worktree", O_RDWR);
  ASSERT_TRUE(handle);
  EXPECT_EQ(s.rename("/r/.git/config.worktree", "/r/.git/moved"), 0);
  EXPECT_EQ(s.rename("/r/.git/moved", "/r/.git/config"), EXDEV);
  // Content that suits one place does not suit another.
  ASSERT_EQ(s.mkdir("/r/.git/modules"), 0);
  ASSERT_EQ(s.mkdir("/r/.git/modules/m"), 0);
  ASSERT_EQ(s.mkdir("/r/.git/modules/m/n"), 0);
  ASSERT_EQ(s.put("/r/.git/modules/m/n/config", "[core]\n\tworktree = ../../../../n\n"), 0);
  EXPECT_EQ(s.rename("/r/.git/modules/m/n/config", "/r/.git/config.lock"), EXDEV);
  EXPECT_EQ(s.rename("/r/.git/modules/m/n", "/r/.git/modules/n"), EXDEV);
  EXPECT_EQ(s.rename("/r/.git/modules/m/n", "/r/.git/modules/m/o"), 0);
}

// ATTACK: fill a folder elsewhere and rename it to what git enters.
TEST(FilesGit, AFolderThatWasFilledElsewhereIsNoRepository) {
  OwnRepository s;
  for (const char* made : {"/evil", "/evil/hooks", "/evil/m", "/sub"}) ASSERT_EQ(s.mkdir(made), 0);
  ASSERT_EQ(s.put("/evil/config", kEvil), 0);
  EXPECT_EQ(s.rename("/evil", "/sub/.git"), EXDEV);
  EXPECT_EQ(s.rename("/evil", "/sub/bare.git"), EXDEV);
  EXPECT_EQ(s.rename("/evil", "/r/.git/modules"), EXDEV);
  ASSERT_EQ(s.mkdir("/r/.git/modules"), 0);
  EXPECT_EQ(s.rename("/evil", "/r/.git/modules/evil"), EXDEV);
  EXPECT_EQ(s.rename("/evil/hooks", "/r/.git/hooks"), EXDEV);
  EXPECT_EQ(s.symlink("../evil", "/sub/.git"), EPERM);
  EXPECT_EQ(s.symlink("evil", "/sub.git"), EPERM);
  EXPECT_EQ(s.symlink("../../../evil", "/r/.git/modules/m"), EPERM);
  ASSERT_EQ(s.symlink("../evil", "/sub/link"), 0);
  EXPECT_EQ(s.rename("/sub/link", "/sub/.git"), EXDEV);
  EXPECT_EQ(s.put("/sub/.git", "gitdir: ../evil\n"), EACCES);
  EXPECT_EQ(s.put("/sub/.git", "gitdir: ../r/.git\n"), 0);
  EXPECT_EQ(s.put("/r/.git/commondir", "../../evil\n"), EACCES);
  ASSERT_EQ(s.mkdir("/r/.git/worktrees"), 0);
  ASSERT_EQ(s.mkdir("/r/.git/worktrees/w"), 0);
  EXPECT_EQ(s.put("/r/.git/worktrees/w/commondir", "../../../../evil\n"), EACCES);
  EXPECT_EQ(s.put("/r/.git/worktrees/w/commondir", "../..\n"), 0);
}

// ATTACK: a worktree's folder without "commondir" is a repository of its own.
TEST(FilesGit, AWorktreesFolderHasNoHooksEither) {
  OwnRepository s;
  for (const char* made : {"/r/.git/worktrees", "/r/.git/worktrees/e", "/r/.git/worktrees/e/hooks",
                           "/r/.git/worktrees/f", "/hooks"})
    ASSERT_EQ(s.mkdir(made), 0);
  EXPECT_EQ(s.put("/r/.git/worktrees/e/hooks/post-index-change", "#!/bin/sh\n"), EACCES);
  EXPECT_EQ(s.put("/r/.git/worktrees/e/hooks/post-index-change.sample", "#!/bin/sh\n"), 0);
  EXPECT_EQ(s.put("/r/.git/worktrees/e/config", kEvil), EACCES);
  EXPECT_EQ(s.rename("/hooks", "/r/.git/worktrees/f/hooks"), EXDEV);
}

// ATTACK: break .git/HEAD, and git asks whether the folder around it is a
// repository: it is one by HEAD, objects and refs, and obeys its "config".
TEST(FilesGit, NoFolderIsMadeABareRepositoryUnlessItIsCalledSo) {
  OwnRepository s;
  EXPECT_EQ(s.put("/HEAD", "any words"), EACCES) << "the person's folder";
  ASSERT_EQ(s.mkdir("/d"), 0);
  EXPECT_EQ(s.put("/d/HEAD", "ref: refs/heads/main\n"), EACCES);
  EXPECT_EQ(s.put("/d/HEAD", "ref:\trefs/heads/main"), EACCES);
  EXPECT_EQ(s.put("/d/HEAD", std::string(40, 'a') + "\n"), EACCES);
  EXPECT_EQ(s.put("/d/HEAD", "# Heading\n"), 0);
  EXPECT_EQ(s.put("/d/words", "ref: refs/heads/main\n"), 0);
  EXPECT_EQ(s.rename("/d/words", "/d/HEAD"), EXDEV);
  ASSERT_EQ(s.mkdir("/e"), 0);
  EXPECT_EQ(s.link("/d/words", "/e/HEAD"), EPERM);
  EXPECT_EQ(s.symlink("refs/heads/main", "/e/HEAD"), EPERM);
  ASSERT_EQ(s.mkdir("/b.git"), 0);
  ASSERT_EQ(s.put("/b.git/HEAD", "ref: refs/heads/main\n"), 0);
  EXPECT_EQ(s.rename("/b.git/HEAD", "/e/HEAD"), EXDEV);
  EXPECT_EQ(s.link("/b.git/HEAD", "/e/HEAD"), EPERM);
  EXPECT_EQ(s.rename("/b.git", "/b"), EXDEV);
  ASSERT_EQ(s.mkdir("/b.git/c"), 0);
  EXPECT_EQ(s.rename("/b.git/c", "/c"), EXDEV);
  ASSERT_EQ(s.mkdir("/c"), 0);
  EXPECT_EQ(s.rename("/c", "/b.git/d"), EXDEV);
  EXPECT_EQ(s.rename("/b.git", "/c.git"), 0);
}

// ATTACK: "refs" holds names that people choose, so nobody looks; as a module
// it is a repository.
TEST(FilesGit, AFolderOfNamesIsNotRenamedToARepository) {
  OwnRepository s;
  for (const char* made : {"/r/.git/modules", "/r/.git/modules/refs", "/r/.git/worktrees", "/r/.git/worktrees/w",
                           "/r/.git/worktrees/w/refs", "/r/.git/modules/good"})
    ASSERT_EQ(s.mkdir(made), 0);
  ASSERT_EQ(s.put("/r/.git/modules/refs/config", kEvil), 0);
  EXPECT_EQ(s.rename("/r/.git/modules/refs", "/r/.git/modules/evil"), EXDEV);
  EXPECT_EQ(s.rename("/r/.git/worktrees/w/refs", "/r/.git/worktrees/w/modules"), EXDEV);
  EXPECT_EQ(s.rename("/r/.git/modules/good", "/r/.git/modules/better"), 0);
}

// ATTACK: core.worktree may lead through a link, and a checkout there writes hooks.
TEST(FilesGit, NoLinkLeadsIntoARepository) {
  OwnRepository s;
  for (const char* target : {".git/hooks", ".git", "r/.git", "./r/.git/", "x.git/hooks"})
    EXPECT_EQ(s.symlink(target, "/hk"), EPERM) << target;
  EXPECT_EQ(s.symlink("r", "/a"), 0);
  EXPECT_EQ(s.symlink(".github/x.gitignore", "/b"), 0);
}

TEST(FilesGit, HooksAreSamplesOnly) {
  OwnRepository s;
  EXPECT_EQ(s.put("/r/.git/hooks/pre-commit.sample", "#!/bin/sh\n"), 0);
  EXPECT_EQ(s.put("/r/.git/hooks/pre-commit", "#!/bin/sh\n"), EACCES);
  EXPECT_EQ(s.rename("/r/.git/hooks/pre-commit.sample", "/r/.git/hooks/pre-commit"), EACCES);
  EXPECT_EQ(s.link("/r/.git/hooks/pre-commit.sample", "/r/.git/hooks/pre-commit"), EACCES);
  EXPECT_EQ(s.mkdir("/s"), 0);
  EXPECT_EQ(s.mkdir("/s/.git"), 0);
  EXPECT_EQ(s.put("/s/.git/hooks", "x"), EACCES) << "a file in the folder's place";
  EXPECT_FALSE(s.tree.exists("w/s/.git/hooks"));
}

TEST(FilesGit, GitTriesOutLinksAndMayStill) {
  OwnRepository s;
  EXPECT_EQ(s.symlink("testing", "/r/.git/tAbC123"), 0);
  EXPECT_EQ(s.symlink("elsewhere", "/r/.git/tAbC124"), EPERM);
  EXPECT_EQ(s.symlink("testing", "/r/.git/modules"), EPERM);
  EXPECT_EQ(s.symlink("testing", "/r/.git/hooks/tAbC123"), EACCES);
}

TEST(FilesGit, WhoSwitchesTheGuardOffIsNotHeldUp) {
  FilesSession s({allow("write", {"/**"})});
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/.git"), 0755));
  const auto handle = s.open("/.git/config", O_CREAT | O_WRONLY);
  ASSERT_TRUE(handle);
  EXPECT_EQ(error_of(s.write(*handle, kEvil)), 0);
  EXPECT_EQ(error_of(s.service->symlink(s.caller, "x", at("/.git/modules"))), 0);
}

}  // namespace
}  // namespace fbroker::test
