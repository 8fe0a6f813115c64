// The broker's own files, sought under every name an export could give them.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include "tests/broker/files_session.h"
#include "tests/support/private_mounts.h"

namespace fbroker::test {
namespace {

using Names = std::vector<std::string>;

policy::Export exported(std::string_view path, std::string from, bool submounts = false) {
  return {.at = at(path), .from = std::move(from), .submounts = submounts};
}

void expect_unseen(FilesSession& s, const std::string& path) {
  EXPECT_FALSE(s.lookup(path)) << path;
  EXPECT_EQ(s.open_error(path), ENOENT) << path;
  EXPECT_EQ(s.open_error(path, O_RDWR), ENOENT) << path;
  EXPECT_NE(s.open_error(path, O_WRONLY | O_CREAT | O_TRUNC), 0) << path;
  EXPECT_NE(error_of(s.service->unlink(s.caller, at(path))), 0) << path;
  EXPECT_NE(error_of(s.service->rename(s.caller, at(path), at("/stolen"), 0)), 0) << path;
  EXPECT_NE(error_of(s.service->rename(s.caller, at("/bait"), at(path), 0)), 0) << path;
  EXPECT_NE(error_of(s.service->link(s.caller, {at(path), {}, 0}, at("/stolen"))), 0) << path;
  EXPECT_NE(error_of(s.service->truncate(s.caller, {at(path), {}, 0}, 0)), 0) << path;
  EXPECT_NE(error_of(s.service->chmod(s.caller, {at(path), {}, 0}, 0777)), 0) << path;
}

TEST(FilesOwnAttack, ByTheirOwnNames) {
  FilesSession s;
  s.tree.write("w/bait", "");
  s.tree.write("w/conf/p.json", "{policy}");
  s.tree.write("w/state/grants.json", "{grants}");
  s.own.add_file(s.tree.path("w/conf/p.json"));
  s.own.add_directory(s.tree.path("w/state"));
  expect_unseen(s, "/conf/p.json");
  expect_unseen(s, "/state");
  expect_unseen(s, "/state/grants.json");
  expect_unseen(s, "/state/not-yet-there");
  EXPECT_EQ(s.names("/"), (Names{"bait", "conf"}));
  EXPECT_EQ(s.names("/conf"), Names{});
  EXPECT_EQ(s.tree.read("w/conf/p.json"), "{policy}");
  EXPECT_EQ(s.tree.read("w/state/grants.json"), "{grants}");
  EXPECT_GT(s.audit.count_if([](const auto& r) { return r.reason == "own-files"; }), 0u);
}

// Inode numbers are used again: a file that replaces one of theirs frees the
// old number, and the next file anybody makes may have it.
TEST(FilesOwnAttack, WhatWasTheirsAndIsNoMoreIsServed) {
  FilesSession s;
  s.tree.write("w/state/grants.json", "{old}");
  s.own.add_directory(s.tree.path("w/state"));
  std::filesystem::rename(s.tree.path("w/state/grants.json"), s.tree.path("w/mine"));
  s.tree.write("w/state/grants.json", "{new}");
  EXPECT_EQ(s.open_error("/mine", O_RDONLY | O_CREAT), 0);
  expect_unseen(s, "/state/grants.json");
}

TEST(FilesOwnAttack, OnesThatDoNotExistYet) {
  FilesSession s;
  s.own.add_directory(s.tree.path("w/later/state"));
  EXPECT_NE(error_of(s.service->mkdir(s.caller, at("/later/state"), 0755)), 0);
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/later"), 0755));
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/later/state"), 0755)), EACCES);
  EXPECT_EQ(error_of(s.service->symlink(s.caller, "x", at("/later/state"))), EACCES);
}

// A directory above them cannot be moved, or they would get a name not known for them.
TEST(FilesOwnAttack, ByRenamingADirectoryAboveThem) {
  FilesSession s;
  s.tree.write("w/a/b/p.json", "{policy}");
  s.own.add_file(s.tree.path("w/a/b/p.json"));
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/a"), at("/c"), 0)), EBUSY);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/a/b"), at("/c"), 0)), EBUSY);
  EXPECT_EQ(s.tree.read("w/a/b/p.json"), "{policy}");
}

TEST(FilesOwnAttack, ByAHardLink) {
  FilesSession s;
  s.tree.write("w/bait", "");
  s.tree.write("state/audit/000001.jsonl", "{}");
  s.own.add_directory(s.tree.path("state"));
  ASSERT_EQ(::link(s.tree.path("state/audit/000001.jsonl").c_str(), s.tree.path("w/innocent").c_str()), 0);
  expect_unseen(s, "/innocent");
  // One that came to be after the broker looked for the last time.
  s.tree.write("state/audit/000002.jsonl", "{}");
  ASSERT_EQ(::link(s.tree.path("state/audit/000002.jsonl").c_str(), s.tree.path("w/second").c_str()), 0);
  expect_unseen(s, "/second");
  EXPECT_EQ(s.names("/"), Names{"bait"});
}

TEST(FilesOwnAttack, ByASymlinkInThePersonsTree) {
  FilesSession s;
  s.tree.write("state/grants.json", "{}");
  s.own.add_directory(s.tree.path("state"));
  std::filesystem::create_symlink(s.tree.path("state"), s.tree.path("w/l"));
  EXPECT_EQ(s.open_error("/l/grants.json"), ELOOP);
}

TEST(FilesOwnAttack, ByAnExportThatBeginsInsideThem) {
  FilesSession s;
  s.tree.write("state/audit/000001.jsonl", "{}");
  s.own.add_directory(s.tree.path("state"));
  s.set_exports({exported("/", "."), exported("/log", s.tree.path("state/audit"))});
  EXPECT_EQ(s.names("/log"), Names{"errno 2"});
  EXPECT_EQ(s.open_error("/log/000001.jsonl"), ENOENT);
  EXPECT_EQ(s.names("/"), Names{});
}

TEST(FilesOwnAttack, ByABindMountWithAnotherName) {
  const auto result = in_private_mounts([] {
    FilesSession s;
    s.tree.write("w/bait", "");
    s.tree.write("home/state/grants.json", "{}");
    s.tree.write("home/notes.txt", "notes");
    s.tree.mkdir("mnt");
    s.own.add_directory(s.tree.path("home/state"));
    ASSERT_EQ(::mount(s.tree.path("home").c_str(), s.tree.path("mnt").c_str(), nullptr, MS_BIND, nullptr), 0);
    s.set_exports({exported("/", "."), exported("/m", s.tree.path("mnt"))});
    EXPECT_EQ(s.content("/m/notes.txt"), "notes");
    EXPECT_EQ(s.names("/m"), Names{"notes.txt"});
    expect_unseen(s, "/m/state");
    expect_unseen(s, "/m/state/grants.json");

    // And as a submount that the export shows.
    s.tree.mkdir("w/inner");
    s.tree.write("home/state/deep/more.json", "{}");
    ASSERT_EQ(::mount(s.tree.path("home/state/deep").c_str(), s.tree.path("w/inner").c_str(), nullptr, MS_BIND, nullptr), 0);
    s.set_exports({exported("/", ".", true)});
    expect_unseen(s, "/inner/more.json");
    EXPECT_NE(s.open_error("/inner/planted.json", O_CREAT | O_WRONLY), 0);
    EXPECT_NE(error_of(s.service->mkdir(s.caller, at("/inner/planted"), 0755)), 0);
    EXPECT_EQ(s.names("/inner"), Names{"errno 2"});
    ::umount(s.tree.path("w/inner").c_str());
    ::umount(s.tree.path("mnt").c_str());
  });
  if (result == ChildResult::impossible) GTEST_SKIP() << "no mount namespace for this user";
  EXPECT_EQ(result, ChildResult::passed);
}

}  // namespace
}  // namespace fbroker::test
