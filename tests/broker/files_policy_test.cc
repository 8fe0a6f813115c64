// What a session may see and do: every permission with its refusal.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "tests/broker/files_session.h"

namespace fbroker::test {
namespace {

using policy::Effect;
using protocol::Lifetime;
using Names = std::vector<std::string>;

TEST(FilesPolicy, WhatIsAllowedIsReadAndWhatIsNotIsRefusedWithARecord) {
  FilesSession s({allow("read", {"/src"})});
  s.tree.write("w/src/a.c", "int a;");
  s.tree.write("w/other/b.c", "int b;");
  EXPECT_EQ(s.content("/src/a.c"), "int a;");
  EXPECT_EQ(s.content("/other/b.c"), "errno 2");
  EXPECT_EQ(s.open_error("/src/a.c", O_WRONLY), EACCES);
  EXPECT_EQ(s.refusals("open", "/src/a.c", EACCES), 1u);
  EXPECT_EQ(s.refusals("open", "/other/b.c", ENOENT), 1u);
}

TEST(FilesPolicy, ARecordNamesDecisionReasonAndBothPaths) {
  FilesSession s({allow("write", {"/**"}), deny("all", {"/.env"})});
  s.tree.write("w/f", "text");
  EXPECT_EQ(s.content("/f"), "text");
  EXPECT_EQ(s.open_error("/.env"), ENOENT);
  const auto records = s.audit.records();
  ASSERT_EQ(records.size(), 3u);   // open, close with its sum, refusal
  EXPECT_EQ(records[0].operation, "open");
  EXPECT_EQ(records[0].decision, "allow");
  EXPECT_EQ(records[0].reason, "test:allow-write");
  EXPECT_EQ(records[0].host_path, s.tree.path("w/f"));
  EXPECT_EQ(records[0].pid, 7u);
  EXPECT_NE(records[0].handle, 0u);
  EXPECT_EQ(records[1].operation, "close");
  EXPECT_EQ(records[1].bytes_read, 4u);
  EXPECT_EQ(records[1].handle, records[0].handle);
  EXPECT_EQ(records[2].decision, "deny");
  EXPECT_EQ(records[2].reason, "test:deny-all");
  EXPECT_EQ(records[2].error, ENOENT);
}

TEST(FilesPolicy, AFileThatLeadsNowhereDoesNotShowWhereDirectoriesDo) {
  FilesSession s({allow("read", {"**/*.md"})});
  s.tree.write("w/secret.txt", "x");
  s.tree.write("w/dir/a.md", "y");
  EXPECT_EQ(s.content("/dir/a.md"), "y");
  EXPECT_TRUE(s.service->lookup(s.caller, at("/dir"))->attributes);
  for (const char* path : {"/secret.txt", "/absent.txt"}) {
    const auto found = s.service->lookup(s.caller, at(path));
    ASSERT_TRUE(found) << path;
    EXPECT_FALSE(found->attributes) << path;
    EXPECT_EQ(found->lifetime, Lifetime::none) << path;
    EXPECT_EQ(s.open_error(path), EACCES) << path;   // the same, there or not
  }
}

TEST(FilesPolicy, AHiddenNameAnswersAsOneThatIsNotThere) {
  FilesSession s({allow("write", {"/**"}), deny("all", {"/.env", "/gone.env"})});
  s.tree.write("w/.env", "SECRET");
  for (const char* path : {"/.env", "/gone.env"}) {
    const auto found = s.service->lookup(s.caller, at(path));
    ASSERT_TRUE(found) << path;
    EXPECT_FALSE(found->attributes) << path;
    EXPECT_EQ(found->lifetime, Lifetime::none) << path;
    EXPECT_EQ(s.open_error(path), ENOENT) << path;
    EXPECT_EQ(s.open_error(path, O_WRONLY | O_CREAT), EACCES) << path;
    EXPECT_EQ(error_of(s.service->mkdir(s.caller, at(path), 0755)), EACCES) << path;
    EXPECT_EQ(error_of(s.service->unlink(s.caller, at(path))), ENOENT) << path;
    EXPECT_EQ(error_of(s.service->rename(s.caller, at(path), at("/x"), 0)), ENOENT) << path;
    EXPECT_EQ(error_of(s.service->stat(s.caller, {at(path), {}, 0})), ENOENT) << path;
    EXPECT_EQ(error_of(s.service->link(s.caller, {at(path), {}, 0}, at("/x"))), ENOENT) << path;
    EXPECT_EQ(s.refusals("lookup", path, ENOENT), 1u) << path;
  }
  EXPECT_EQ(s.names("/"), Names{});
  EXPECT_EQ(s.tree.read("w/.env"), "SECRET");
}

// ATTACK: a directory's link count tells how many directories are in it, and on
// some file systems its size how many names.
TEST(FilesPolicy, ADirectorysAttributesDoNotTellHowMuchIsHiddenInIt) {
  FilesSession s;
  s.tree.write("w/bare/f", "");
  s.tree.write("w/full/f", "");
  s.tree.write("w/full/.ssh/id_rsa", "SECRET");
  const auto bare = s.lookup("/bare"), full = s.lookup("/full");
  ASSERT_TRUE(bare && full);
  EXPECT_EQ(full->links, bare->links);
  EXPECT_EQ(full->size, bare->size);
  EXPECT_EQ(full->blocks, bare->blocks);
}

TEST(FilesPolicy, AVisibleNameThatIsAbsentMakesNoRecord) {
  FilesSession s;
  EXPECT_FALSE(s.lookup("/none"));
  EXPECT_EQ(s.audit.records().size(), 0u);
}

TEST(FilesPolicy, ListedButUnreadableIsEACCES) {
  FilesSession s({allow("list", {"/**"})});
  s.tree.write("w/f", "x");
  ASSERT_TRUE(s.lookup("/f"));
  EXPECT_EQ(s.lookup("/f")->permissions & 0666u, 0u);
  EXPECT_EQ(s.open_error("/f"), EACCES);
  EXPECT_EQ(s.refusals("open", "/f", EACCES), 1u);
}

TEST(FilesPolicy, AskIsRefusedAndTheRecordSaysThatItCouldBeAskedFor) {
  FilesSession s({allow("write", {"/**"}), ask("write", {"/package.json"})});
  s.tree.write("w/package.json", "{}");
  EXPECT_EQ(s.open_error("/package.json", O_WRONLY), EACCES);
  EXPECT_EQ(s.open_error("/package.json"), 0);
  EXPECT_EQ(s.audit.count_if([](const auto& r) { return r.decision == "ask" && r.error == EACCES; }), 1u);
}

TEST(FilesPolicy, DirectoriesThatLeadSomewhereShowOnlyThat) {
  FilesSession s({allow("read", {"/a/b/c.txt"})});
  s.tree.write("w/a/b/c.txt", "c");
  s.tree.write("w/a/b/other.txt", "o");
  s.tree.write("w/a/private.txt", "p");
  EXPECT_EQ(s.names("/"), Names{"a"});
  EXPECT_EQ(s.names("/a"), Names{"b"});
  EXPECT_EQ(s.names("/a/b"), Names{"c.txt"});
  EXPECT_EQ(s.content("/a/b/c.txt"), "c");
  EXPECT_FALSE(s.lookup("/a/private.txt"));
}

TEST(FilesPolicy, WithoutAnyRuleThereIsAnEmptyRootAndNothingElse) {
  FilesSession s(std::vector<policy::Rule>{});
  s.tree.write("w/f", "x");
  ASSERT_TRUE(s.lookup("/"));
  EXPECT_EQ(s.names("/"), Names{});
  EXPECT_EQ(s.open_error("/f"), ENOENT);
  EXPECT_EQ(s.open_error("/new", O_CREAT | O_WRONLY), EACCES);
}

TEST(FilesPolicy, ReadOnlyIsReadOnlyForEveryCall) {
  FilesSession s({allow("read", {"/**"})});
  s.tree.write("w/f", "x");
  s.tree.mkdir("w/d");
  EXPECT_EQ(s.open_error("/f", O_RDWR), EACCES);
  EXPECT_EQ(s.open_error("/f", O_RDONLY | O_TRUNC), EACCES) << "truncating is writing";
  EXPECT_EQ(s.open_error("/new", O_CREAT | O_RDONLY), EACCES);
  EXPECT_EQ(s.open_error("/f", O_CREAT | O_RDONLY), 0) << "nothing is created there";
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/f"), {}, 0}, 0)), EACCES);
  EXPECT_EQ(error_of(s.service->chmod(s.caller, {at("/f"), {}, 0}, 0777)), EACCES);
  EXPECT_EQ(error_of(s.service->utimens(s.caller, {at("/f"), {}, 0}, {})), EACCES);
  EXPECT_EQ(error_of(s.service->unlink(s.caller, at("/f"))), EACCES);
  EXPECT_EQ(error_of(s.service->rmdir(s.caller, at("/d"))), EACCES);
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/e"), 0755)), EACCES);
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/d"), 0755)), EEXIST) << "mkdir -p";
  EXPECT_EQ(error_of(s.service->symlink(s.caller, "f", at("/l"))), EACCES);
  EXPECT_EQ(error_of(s.service->link(s.caller, {at("/f"), {}, 0}, at("/l"))), EACCES);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/f"), at("/g"), 0)), EACCES);
  const auto handle = s.open("/f");
  ASSERT_TRUE(handle);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {{}, {}, *handle}, 0)), EACCES);
  EXPECT_EQ(error_of(s.service->chmod(s.caller, {{}, {}, *handle}, 0777)), EACCES);
  EXPECT_EQ(s.tree.read("w/f"), "x");
  EXPECT_EQ(s.names("/"), (Names{"d", "f"}));
}

TEST(FilesPolicy, PermissionBitsSayWhatTheSessionMayDo) {
  FilesSession s({allow("read", {"/**"}), allow("write", {"/out"})});
  s.tree.write("w/tool.sh", "#!/bin/sh");
  ::chmod(s.tree.path("w/tool.sh").c_str(), 0755);
  s.tree.write("w/out/x", "");
  ::chmod(s.tree.path("w/out/x").c_str(), 0644);
  EXPECT_EQ(s.lookup("/tool.sh")->permissions, 0555u);
  EXPECT_EQ(s.lookup("/out/x")->permissions, 0644u);
}

// The filter must not be written back into the person's file.
TEST(FilesPolicy, ChmodChangesOnlyTheBitsThatDifferFromThoseShown) {
  FilesSession s({allow("write", {"/**"}), deny("read", {"/blind"})});
  s.tree.write("w/blind", "");
  ::chmod(s.tree.path("w/blind").c_str(), 0644);
  const std::uint32_t shown = s.lookup("/blind")->permissions;
  EXPECT_EQ(shown, 0200u);
  ASSERT_TRUE(s.service->chmod(s.caller, {at("/blind"), {}, 0}, shown | 0111));
  struct stat host {};
  ASSERT_EQ(::stat(s.tree.path("w/blind").c_str(), &host), 0);
  EXPECT_EQ(host.st_mode & 07777u, 0755u);
}

TEST(FilesPolicy, ARenameThatWouldAllowMoreIsEXDEV) {
  FilesSession s({allow("write", {"/**"}), deny("read", {"/locked"}),
                  deny("all", {"/**/*.secret"})});
  s.tree.write("w/locked/f", "x");
  s.tree.write("w/d/inner.txt", "x");
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/locked/f"), at("/f"), 0)), EXDEV);
  EXPECT_EQ(error_of(s.service->link(s.caller, {at("/locked/f"), {}, 0}, at("/f"))), EXDEV);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/locked"), at("/free"), 0)), EXDEV);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/d"), at("/e"), 0)), 0);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/e/inner.txt"), at("/locked/i"), 0)), 0)
      << "a rename may narrow";
  EXPECT_TRUE(s.tree.exists("w/locked/f"));
  EXPECT_EQ(s.refusals("rename", "/locked/f", EXDEV), 1u);
}

TEST(FilesPolicy, ReplacingNeedsTheRightToTakeAwayWhatIsThere) {
  policy::Rule only_create = allow("write", {"/**"});
  policy::Rule keep;
  keep.id = "test:keep", keep.effect = Effect::deny, keep.paths = {"/keep"};
  keep.operations = {policy::Operation::delete_};
  FilesSession s({only_create, keep});
  s.tree.write("w/keep", "keep");
  s.tree.write("w/new", "new");
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/new"), at("/keep"), 0)), EACCES);
  EXPECT_EQ(s.tree.read("w/keep"), "keep");
}

TEST(FilesPolicy, GuardsHoldForThePersonsRepositoryAndNotForOnesTheSessionMade) {
  policy::Rule guard = deny("write", {"**/.git/hooks", "**/.git/config"});
  guard.unless_created = true;
  FilesSession s({allow("write", {"/**"}), guard});
  s.tree.write("w/repo/.git/config", "[core]");
  s.tree.mkdir("w/repo/.git/hooks");
  s.tree.mkdir("w/plain");

  EXPECT_EQ(s.open_error("/repo/.git/config", O_WRONLY), EACCES);
  EXPECT_EQ(s.open_error("/repo/.git/hooks/pre-commit", O_CREAT | O_WRONLY), EACCES);
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/plain/.git"), 0755)), 0);

  ASSERT_TRUE(s.service->mkdir(s.caller, at("/mine"), 0755));
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/mine/.git"), 0755));
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/mine/.git/hooks"), 0755));
  EXPECT_EQ(s.open_error("/mine/.git/hooks/pre-commit", O_CREAT | O_WRONLY), 0);
  EXPECT_EQ(s.open_error("/mine/.git/config", O_CREAT | O_WRONLY), 0);
  const auto guarded = s.service->created_guarded();
  EXPECT_EQ(guarded.size(), 3u);   // hooks, the hook, config

  // What the session made keeps its standing under another name.
  ASSERT_TRUE(s.service->rename(s.caller, at("/mine"), at("/ours"), 0));
  EXPECT_EQ(s.open_error("/ours/.git/config", O_WRONLY), 0);
}

// ATTACK: bring the person's repository below a directory of one's own.
TEST(FilesPolicy, MovingARepositoryIntoOnesOwnDirectoryLiftsNoGuard) {
  policy::Rule guard = deny("write", {"**/.git/hooks"});
  guard.unless_created = true;
  FilesSession s({allow("write", {"/**"}), guard});
  s.tree.mkdir("w/repo/.git/hooks");
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/mine"), 0755));
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/repo/.git"), at("/repo/x"), 0)), EXDEV);
  // Moved it may be (git mv), but it stays the person's, wherever it goes.
  const char* hook = "/.git/hooks/pre-commit";
  const auto rename = [&](const char* from, const char* to) {
    EXPECT_EQ(error_of(s.service->rename(s.caller, at(from), at(to), 0)), 0);
    EXPECT_EQ(s.open_error(to + std::string(hook), O_CREAT | O_WRONLY), EACCES) << to;
  };
  rename("/repo", "/mine/repo");
  rename("/mine/repo", "/mine/again");
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/mine/again/new"), 0755));
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/mine"), at("/ours"), 0)), 0);
  EXPECT_EQ(s.open_error("/ours/again/.git/hooks/pre-commit", O_CREAT | O_WRONLY), EACCES);
  rename("/ours/again", "/out");
  // What the session makes is its own, in there too.
  for (const char* made : {"/out/new/.git", "/out/new/.git/hooks"})
    ASSERT_TRUE(s.service->mkdir(s.caller, at(made), 0755)) << made;
  EXPECT_EQ(s.open_error("/out/new/.git/hooks/x", O_CREAT | O_WRONLY), 0);
}

// ATTACK: the person's tools know a guarded name in a folder of the person's;
// move that away, and make one's own.
TEST(FilesPolicy, WhereADirectoryOfThePersonsWasNoneCountsAsCreated) {
  policy::Rule guard = deny("write", {"**/.husky"});
  guard.unless_created = true;
  FilesSession s({allow("write", {"/**"}), guard});
  for (const char* made : {"w/web/app/.husky", "w/empty", "w/build/sub"}) s.tree.mkdir(made);
  const auto mkdir = [&](const char* path) { return error_of(s.service->mkdir(s.caller, at(path), 0755)); };
  const auto rename = [&](const char* from, const char* to) { return error_of(s.service->rename(s.caller, at(from), at(to), 0)); };
  ASSERT_EQ(rename("/web", "/w2"), 0);
  ASSERT_EQ(mkdir("/web"), 0);
  ASSERT_EQ(mkdir("/web/app"), 0);
  EXPECT_EQ(mkdir("/web/app/.husky"), EACCES);
  EXPECT_EQ(mkdir("/web/.husky"), EACCES);
  ASSERT_EQ(error_of(s.service->rmdir(s.caller, at("/web/app"))), 0);
  ASSERT_EQ(mkdir("/web/app"), 0);
  EXPECT_EQ(mkdir("/web/app/.husky"), EACCES) << "for ever";
  // One that was filled elsewhere does not get there, nor in the place of an empty one.
  for (const char* made : {"/mine", "/mine/.husky"}) ASSERT_EQ(mkdir(made), 0);
  ASSERT_EQ(error_of(s.service->rmdir(s.caller, at("/web/app"))), 0);
  EXPECT_EQ(rename("/mine", "/web/app"), EXDEV);
  EXPECT_EQ(rename("/mine", "/empty"), EXDEV);
  EXPECT_EQ(rename("/mine", "/yours"), 0);
  // Removed: that place alone, so that a build folder can be made anew.
  ASSERT_EQ(error_of(s.service->rmdir(s.caller, at("/build/sub"))), 0);
  ASSERT_EQ(error_of(s.service->rmdir(s.caller, at("/build"))), 0);
  for (const char* made : {"/build", "/build/sub", "/build/new", "/build/new/.husky"}) EXPECT_EQ(mkdir(made), 0) << made;
  EXPECT_EQ(mkdir("/build/.husky"), EACCES);
  EXPECT_EQ(mkdir("/build/sub/.husky"), EACCES);
  // Moved back it is what it was.
  ASSERT_EQ(error_of(s.service->rmdir(s.caller, at("/web"))), 0);
  EXPECT_EQ(rename("/w2", "/web"), 0);
  EXPECT_TRUE(s.tree.exists("w/web/app/.husky"));
}

// ATTACK: keep a claim on a name after somebody else made a new directory there.
TEST(FilesPolicy, ADirectoryThatTheHostMadeAnewIsNotTheSessions) {
  policy::Rule guard = deny("write", {"**/.git/hooks"});
  guard.unless_created = true;
  FilesSession s({allow("write", {"/**"}), guard});
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/r"), 0755));
  std::filesystem::remove_all(s.tree.path("w/r"));
  s.tree.mkdir("w/spare");   // so that the inode number is not simply used again
  s.tree.mkdir("w/r/.git/hooks");
  EXPECT_EQ(s.open_error("/r/.git/hooks/pre-commit", O_CREAT | O_WRONLY), EACCES);
}

TEST(FilesPolicy, NothingHappensThatCannotBeRecorded) {
  FilesSession s;
  s.tree.write("w/f", "old");
  const auto handle = s.open("/f", O_RDWR);
  ASSERT_TRUE(handle);
  s.audit.fail(true);
  EXPECT_EQ(s.open_error("/f"), EIO);
  EXPECT_EQ(s.open_error("/f", O_WRONLY | O_TRUNC), EIO);
  EXPECT_EQ(s.open_error("/new", O_CREAT | O_WRONLY), EIO);
  EXPECT_EQ(error_of(s.read(*handle)), EIO);
  EXPECT_EQ(error_of(s.write(*handle, "new")), EIO);
  EXPECT_EQ(error_of(s.service->unlink(s.caller, at("/f"))), EIO);
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/d"), 0755)), EIO);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/f"), at("/g"), 0)), EIO);
  EXPECT_EQ(error_of(s.service->chmod(s.caller, {at("/f"), {}, 0}, 0777)), EIO);
  EXPECT_EQ(error_of(s.service->open_directory(s.caller, {at("/"), {}, 0})), EIO);
  EXPECT_EQ(s.tree.read("w/f"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(s.tree.path("w")), {}), 1);
  s.audit.fail(false);
  EXPECT_EQ(s.read(*handle).value_or(""), "old");
}

// --- Grants, revokes, reloads

TEST(FilesPolicy, ARevokeEndsOpenHandlesForGood) {
  FilesSession s;
  s.tree.write("w/f", "text");
  s.tree.write("w/other", "text");
  const auto handle = s.open("/f", O_RDWR);
  const auto other = s.open("/other");
  ASSERT_TRUE(handle && other);
  ASSERT_TRUE(s.read(*handle));
  s.set_rules({allow("write", {"/**"}), deny("all", {"/f"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES) << "even before handles are marked";
  EXPECT_EQ(s.service->close_refused_handles(), 1u);
  EXPECT_EQ(s.service->close_refused_handles(), 0u);
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
  EXPECT_EQ(error_of(s.write(*handle, "x")), EACCES);
  EXPECT_EQ(error_of(s.service->stat(s.caller, {{}, {}, *handle})), EACCES);
  EXPECT_EQ(s.read(*other).value_or(""), "text");
  EXPECT_EQ(s.audit.count_if([](const auto& r) {
    return r.operation == "close" && r.path == "/f" && r.bytes_read == 4u && r.detail == "revoked";
  }), 1u);
  s.set_rules({allow("write", {"/**"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES) << "a revoked handle does not come back";
  EXPECT_EQ(s.content("/f"), "text");
}

TEST(FilesPolicy, LosingWriteKeepsRead) {
  FilesSession s;
  s.tree.write("w/f", "text");
  const auto handle = s.open("/f", O_RDWR);
  ASSERT_TRUE(handle);
  s.set_rules({allow("read", {"/**"})});
  EXPECT_EQ(s.service->close_refused_handles(), 1u);
  EXPECT_EQ(error_of(s.write(*handle, "x")), EACCES);
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
}

TEST(FilesPolicy, AHandleIsJudgedByWhereRenamesTookIt) {
  FilesSession s;
  s.tree.write("w/a/f", "text");
  const auto handle = s.open("/a/f");
  ASSERT_TRUE(handle);
  ASSERT_TRUE(s.service->rename(s.caller, at("/a"), at("/b"), 0));
  s.set_rules({allow("write", {"/**"}), deny("all", {"/a"})});
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
  s.set_rules({allow("write", {"/**"}), deny("all", {"/b"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST(FilesPolicy, AHandleIsJudgedByWhereTheHostMovedItsFile) {
  FilesSession s;
  s.tree.write("w/a/f", "text");
  const auto handle = s.open("/a/f");
  ASSERT_TRUE(handle);
  std::filesystem::rename(s.tree.path("w/a"), s.tree.path("w/b"));
  s.set_rules({allow("write", {"/**"}), deny("all", {"/b"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST(FilesPolicy, AnOpenDirectoryListsNothingThatWasRevoked) {
  FilesSession s;
  s.tree.write("w/d/x", "");
  s.tree.write("w/d/y", "");
  const auto opened = s.service->open_directory(s.caller, {at("/d"), {}, 0});
  ASSERT_TRUE(opened);
  s.set_rules({allow("write", {"/**"}), deny("all", {"/d/x"})});
  const auto page = s.service->read_directory(s.caller, opened->handle, 0, 10);
  ASSERT_TRUE(page);
  ASSERT_EQ(page->entries.size(), 1u);
  EXPECT_EQ(page->entries[0].name, "y");
  s.set_rules({allow("write", {"/**"}), deny("all", {"/d"})});
  EXPECT_EQ(error_of(s.service->read_directory(s.caller, opened->handle, 0, 10)), EACCES);
}

TEST(FilesPolicy, ADirectoryMovedAwayOnTheHostIsStale) {
  FilesSession s;
  s.tree.write("w/d/x", "");
  const auto opened = s.service->open_directory(s.caller, {at("/d"), {}, 0});
  ASSERT_TRUE(opened);
  std::filesystem::rename(s.tree.path("w/d"), s.tree.path("w/e"));
  EXPECT_EQ(error_of(s.service->read_directory(s.caller, opened->handle, 0, 10)), ESTALE);
}

policy::Grant once_grant(std::string_view path) {
  policy::Grant grant;
  grant.id = "g1";
  grant.path = at(path);
  grant.operations = policy::level_of(Effect::allow, "read").value();
  grant.order = 1;
  grant.once = true;
  return grant;
}

TEST(FilesPolicy, AGrantForOneOpenServesOneOpen) {
  std::vector<std::string> used;
  broker::LocalFileServiceOptions options;
  options.on_grant_used = [&](std::string_view id) { return used.emplace_back(id), true; };
  FilesSession s({}, options);
  s.tree.write("w/f", "text");
  s.set_grants({once_grant("/f")});
  EXPECT_EQ(s.open_error("/absent"), ENOENT);
  const auto handle = s.open("/f");
  ASSERT_TRUE(handle);
  EXPECT_EQ(used, std::vector<std::string>{"g1"});
  EXPECT_EQ(s.open_error("/f"), EACCES) << "used, though the store has not ended it yet";
  s.set_grants({});
  EXPECT_EQ(s.service->close_refused_handles(), 0u);
  EXPECT_EQ(s.read(*handle).value_or(""), "text") << "the open that used it lives on";
  EXPECT_EQ(s.open_error("/f"), ENOENT);
  EXPECT_EQ(s.service->close_refused_handles(at("/f")), 1u);
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST(FilesPolicy, AFailedOpenUsesNoGrant) {
  FilesSession s(std::vector<policy::Rule>{});
  s.set_grants({once_grant("/f")});
  EXPECT_EQ(s.open_error("/f"), ENOENT);
  s.tree.write("w/f", "text");
  EXPECT_EQ(s.content("/f"), "text");
}

policy::Grant once_write(std::string_view path) {
  policy::Grant grant = once_grant(path);
  grant.operations = policy::level_of(Effect::allow, "write").value();
  return grant;
}

TEST(FilesPolicy, AGrantForOneOpenServesOneChange) {
  std::vector<std::string> used;
  broker::LocalFileServiceOptions options;
  options.on_grant_used = [&](std::string_view id) { return used.emplace_back(id), true; };
  FilesSession s({allow("list", {"/"})}, options);
  s.tree.write("w/f", "text");
  const protocol::FileRef f{at("/f"), {}, 0};
  s.set_grants({once_write("/f")});
  EXPECT_EQ(error_of(s.service->truncate(s.caller, f, 3)), 0);
  EXPECT_EQ(used, std::vector<std::string>{"g1"});
  EXPECT_EQ(error_of(s.service->truncate(s.caller, f, 2)), EACCES);
  EXPECT_EQ(error_of(s.service->chmod(s.caller, f, 0600)), EACCES);
  EXPECT_EQ(error_of(s.service->unlink(s.caller, at("/f"))), EACCES);
  EXPECT_EQ(s.open_error("/f", O_RDWR), EACCES);
  EXPECT_EQ(s.tree.read("w/f"), "tex");
}

TEST(FilesPolicy, AChangeThatFailedUsesNoGrant) {
  FilesSession s({allow("list", {"/"})});
  s.tree.mkdir("w/d");
  s.tree.write("w/d/f", "text");
  s.set_grants({once_write("/d")});
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/d"), {}, 0}, 0)), EISDIR);
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/d/f"), 0755)), EEXIST);
  EXPECT_EQ(error_of(s.service->rmdir(s.caller, at("/d/f"))), ENOTDIR);
  const auto made = s.service->mkdir(s.caller, at("/d/new"), 0755);
  ASSERT_TRUE(made);
  EXPECT_TRUE(made->attributes) << "the call goes on by the grant that it used";
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/d/more"), 0755)), EACCES);
}

TEST(FilesPolicy, OfManyChangesAtOnceOneHasTheGrant) {
  for (int round = 0; round < 50; ++round) {
    FilesSession s({allow("list", {"/"})});
    s.tree.write("w/f", "text");
    s.set_grants({once_write("/f")});
    std::atomic<int> worked{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&, i] { worked += s.service->truncate(s.caller, {at("/f"), {}, 0}, static_cast<unsigned>(i)).has_value(); });
    for (auto& thread : threads) thread.join();
    ASSERT_EQ(worked, 1);
  }
}

TEST(FilesPolicy, AnOpenWhoseGrantCannotBeKeptAsUsedIsNotAnswered) {
  broker::LocalFileServiceOptions options;
  options.on_grant_used = [](std::string_view) { return false; };
  FilesSession s({}, options);
  s.tree.write("w/f", "text");
  s.set_grants({once_grant("/f")});
  EXPECT_EQ(s.open_error("/f"), EIO);
  EXPECT_EQ(s.open_error("/f"), EACCES) << "and the grant is used";
}

TEST(FilesPolicy, HandlesAreBounded) {
  broker::LocalFileServiceOptions options;
  options.max_handles = 3;
  FilesSession s({allow("write", {"/**"})}, options);
  s.tree.write("w/f", "");
  std::vector<protocol::HandleId> handles;
  for (int i = 0; i < 3; ++i) handles.push_back(s.open("/f").value());
  EXPECT_EQ(s.open_error("/f"), EMFILE);
  EXPECT_EQ(error_of(s.service->open_directory(s.caller, {at("/"), {}, 0})), EMFILE);
  s.service->close(s.caller, handles[0]);
  EXPECT_EQ(s.open_error("/f"), 0);
}

TEST(FilesPolicy, HandlesOfOneSessionAreNothingInAnother) {
  FilesSession a, b;
  a.tree.write("w/f", "x");
  b.tree.write("w/f", "y");
  const auto of_a = a.open("/f");
  const auto of_b = b.open("/f");
  ASSERT_TRUE(of_a && of_b);
  EXPECT_NE(*of_a, *of_b);
  EXPECT_EQ(error_of(b.read(*of_a)), EBADF);
}

TEST(FilesPolicy, TheEndOfASessionRecordsWhatWentThroughItsHandles) {
  FilesSession s;
  s.tree.write("w/f", "text");
  const auto handle = s.open("/f", O_RDWR);
  ASSERT_TRUE(handle && s.read(*handle) && s.write(*handle, "TEXT!"));
  s.service->close_all();
  EXPECT_EQ(s.service->open_handles(), 0u);
  EXPECT_EQ(s.audit.count_if([](const auto& r) {
    return r.operation == "close" && r.bytes_read == 4u && r.bytes_written == 5u;
  }), 1u);
}

// --- How long a client may keep an answer

TEST(FilesPolicy, WhatIsWatchedMayBeKeptUntilToldAndIsTold) {
  FilesSession s({allow("write", {"/**"})}, {}, true);
  s.tree.write("w/d/f", "x");
  const auto found = s.service->lookup(s.caller, at("/d/f"));
  const auto absent = s.service->lookup(s.caller, at("/d/none"));
  ASSERT_TRUE(found && absent);
  EXPECT_EQ(found->lifetime, Lifetime::until_told);
  EXPECT_EQ(absent->lifetime, Lifetime::until_told);
  const auto subscription = s.events.subscribe([] {});
  s.tree.write("w/d/none", "now there is");
  bool told = false;
  for (int wait = 0; wait < 10'000 && !told; ++wait) {
    for (const auto& event : subscription->take()) told = told || event.path == at("/d/none");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(told);
}

TEST(FilesPolicy, WithoutAWatchAnAnswerIsKeptForASecond) {
  FilesSession s;
  s.tree.write("w/f", "x");
  EXPECT_EQ(s.service->lookup(s.caller, at("/f"))->lifetime, Lifetime::one_second);
}

// --- Paths with links in them (HTTP clients)

TEST(FilesPolicy, ResolvingWalksLinksToTheirWorkspacePath) {
  FilesSession s;
  s.tree.write("w/real/f", "x");
  std::filesystem::create_symlink("real", s.tree.path("w/l"));
  std::filesystem::create_symlink("../real/f", s.tree.path("w/real/self"));
  std::filesystem::create_symlink("/etc", s.tree.path("w/abs"));
  std::filesystem::create_symlink("../../etc", s.tree.path("w/up"));
  std::filesystem::create_symlink("loop", s.tree.path("w/loop"));
  const auto resolve = [&](std::string_view raw, bool follow = true) {
    const auto path = s.service->resolve(s.caller, raw, follow);
    return path ? path->bytes() : "errno " + std::to_string(path.error().value);
  };
  EXPECT_EQ(resolve("/l/f"), "/real/f");
  EXPECT_EQ(resolve("/l/self"), "/real/f");
  EXPECT_EQ(resolve("/l", false), "/l");
  EXPECT_EQ(resolve("/l/new/deeper"), "/real/new/deeper");
  EXPECT_EQ(resolve("/abs/passwd"), "errno " + std::to_string(EACCES));
  EXPECT_EQ(resolve("/up/passwd"), "errno " + std::to_string(EACCES));
  EXPECT_EQ(resolve("/loop"), "errno " + std::to_string(ELOOP));
  EXPECT_EQ(resolve("/a/../b"), "errno " + std::to_string(EINVAL));
  EXPECT_EQ(s.refusals("lookup", "/abs", EACCES), 1u);
}

// ATTACK: a link of one's own to a hidden name would tell whether it exists.
TEST(FilesPolicy, ResolvingTellsNothingOfHiddenNames) {
  FilesSession s({allow("write", {"/**"}), deny("all", {"/secrets", "/absent"})});
  s.tree.write("w/secrets/key", "x");
  std::filesystem::create_symlink("../f", s.tree.path("w/secrets/link"));
  ASSERT_TRUE(s.service->symlink(s.caller, "secrets", at("/to-there")));
  ASSERT_TRUE(s.service->symlink(s.caller, "absent", at("/to-nothing")));
  const auto there = s.service->resolve(s.caller, "/to-there/key", true);
  const auto nothing = s.service->resolve(s.caller, "/to-nothing/key", true);
  ASSERT_TRUE(there && nothing);
  EXPECT_EQ(there->bytes(), "/secrets/key");
  EXPECT_EQ(nothing->bytes(), "/absent/key");
  EXPECT_EQ(s.service->resolve(s.caller, "/secrets/link", true)->bytes(), "/secrets/link")
      << "a hidden link is not followed";
  EXPECT_EQ(s.open_error(there->bytes()), ENOENT);
  EXPECT_EQ(s.open_error(nothing->bytes()), ENOENT);
}

}  // namespace
}  // namespace fbroker::test
