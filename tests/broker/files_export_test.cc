// Exports: what is placed where, and that nothing else is reached.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "tests/broker/files_session.h"
#include "tests/support/private_mounts.h"

namespace fbroker::test {
namespace {

using broker::ExportTable;
using broker::ExportTableInput;
using Names = std::vector<std::string>;

policy::Export exported(std::string_view path, std::string from, bool submounts = false) {
  return {.at = at(path), .from = std::move(from), .submounts = submounts};
}

TEST(FilesExport, TheLongestPlaceWins) {
  FilesSession s;
  s.tree.write("w/docs/here.txt", "shadowed");
  s.tree.write("specs/there.txt", "shown");
  s.set_exports({exported("/", "."), exported("/docs", s.tree.path("specs"))});
  EXPECT_EQ(s.names("/docs"), Names{"there.txt"});
  EXPECT_EQ(s.names("/"), Names{"docs"});
  EXPECT_EQ(s.content("/docs/there.txt"), "shown");
  EXPECT_EQ(s.content("/docs/here.txt"), "errno 2");
}

TEST(FilesExport, FromIsRelativeToTheRunsRootOrTheHomeOrAbsolute) {
  TempTree tree;
  tree.write("run/sub/f", "");
  tree.write("home/specs/f", "");
  tree.write("abs/f", "");
  const auto table = ExportTable::build({tree.path("run"), tree.path("home"),
                                         {exported("/a", "sub"), exported("/b", "~/specs"),
                                          exported("/c", tree.path("abs/")), exported("/d", ".")},
                                         {}});
  ASSERT_TRUE(table);
  EXPECT_EQ((*table)->host_path(at("/a/f")), tree.path("run/sub/f"));
  EXPECT_EQ((*table)->host_path(at("/b/f")), tree.path("home/specs/f"));
  EXPECT_EQ((*table)->host_path(at("/c/f")), tree.path("abs/f"));
  EXPECT_EQ((*table)->host_path(at("/d/f")), tree.path("run/f"));
  EXPECT_EQ((*table)->host_path(at("/e")), "");
}

TEST(FilesExport, WhatCannotBeExportedIsAnErrorThatNamesIt) {
  TempTree tree;
  tree.write("f", "");
  ::mkfifo(tree.path("fifo").c_str(), 0600);
  for (const char* from : {"missing", "fifo", "f/below"}) {
    const auto table = ExportTable::build({tree.path(), tree.path(), {exported("/x", from)}, {}});
    ASSERT_FALSE(table) << from;
    EXPECT_EQ(table.error().where, "export at /x");
    EXPECT_NE(table.error().what.find(from), std::string::npos) << table.error().what;
  }
  EXPECT_FALSE(ExportTable::build({tree.path(), tree.path(), {exported("/x", "."), exported("/x", "f")}, {}}));
}

TEST(FilesExport, AGrantedFileThatIsGoneIsLeftOutAndNothingElse) {
  TempTree tree;
  tree.write("f", "");
  const auto table = ExportTable::build({tree.path(), tree.path(), {exported("/", ".")},
                                         {exported("/.fbroker/granted/gone", tree.path("gone")),
                                          exported("/.fbroker/granted/f", tree.path("f"))}});
  ASSERT_TRUE(table);
  EXPECT_EQ((*table)->exports().size(), 2u);
  ASSERT_EQ((*table)->unavailable().size(), 1u);
  EXPECT_EQ((*table)->unavailable()[0].where, "export at /.fbroker/granted/gone");
}

TEST(FilesExport, AnUnchangedExportKeepsItsDescriptor) {
  TempTree tree;
  tree.mkdir("a");
  tree.mkdir("b");
  const ExportTableInput first{tree.path(), tree.path(), {exported("/", "a")}, {}};
  const auto before = ExportTable::build(first).value();
  ExportTableInput second = first;
  second.temporary.push_back(exported("/.fbroker/granted/b", tree.path("b")));
  const auto after = ExportTable::build(second, before.get()).value();
  EXPECT_EQ(before->find(at("/x")), after->find(at("/x")));
  EXPECT_EQ(after->exports().size(), 2u);
  const auto changed = ExportTable::build({tree.path(), tree.path(), {exported("/", "b")}, {}}, after.get());
  EXPECT_NE((*changed)->find(at("/x")), after->find(at("/x")));
}

TEST(FilesExport, DirectoriesAboveAnExportAreSyntheticAndReadOnly) {
  FilesSession s;
  s.tree.write("granted/photo.png", "png");
  s.set_exports({exported("/", "."),
                 exported("/.fbroker/granted/photo.png", s.tree.path("granted/photo.png"))});
  EXPECT_EQ(s.names("/"), Names{".fbroker"});
  EXPECT_EQ(s.names("/.fbroker"), Names{"granted"});
  EXPECT_EQ(s.names("/.fbroker/granted"), Names{"photo.png"});
  EXPECT_EQ(s.content("/.fbroker/granted/photo.png"), "png");
  EXPECT_EQ(s.lookup("/.fbroker")->permissions, 0555u);
  EXPECT_FALSE(s.lookup("/.fbroker/granted/other.png"));
  EXPECT_EQ(s.open_error("/.fbroker/granted/other.png"), ENOENT);
  EXPECT_NE(s.open_error("/.fbroker/granted/new", O_CREAT | O_WRONLY), 0);
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/.fbroker"), 0755)), EEXIST);
  EXPECT_EQ(error_of(s.service->rmdir(s.caller, at("/.fbroker"))), EBUSY);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/.fbroker"), at("/x"), 0)), ENOENT);
  EXPECT_FALSE(s.tree.exists("w/.fbroker"));
}

TEST(FilesExport, OnlyExportsWithoutARootExport) {
  FilesSession s;
  s.tree.write("one/f", "1");
  s.set_exports({exported("/projects/one", s.tree.path("one"))});
  EXPECT_EQ(s.names("/"), Names{"projects"});
  EXPECT_EQ(s.names("/projects"), Names{"one"});
  EXPECT_EQ(s.content("/projects/one/f"), "1");
  EXPECT_EQ(s.open_error("/f", O_CREAT | O_WRONLY), EROFS);
  EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/projects/two"), 0755)), EROFS);
}

TEST(FilesExport, AnExportItselfIsNeitherRemovedNorReplaced) {
  FilesSession s;
  s.tree.write("w/f", "");
  s.tree.mkdir("docs");
  s.tree.write("one.txt", "1");
  s.set_exports({exported("/", "."), exported("/docs", s.tree.path("docs")),
                 exported("/one.txt", s.tree.path("one.txt"))});
  EXPECT_EQ(error_of(s.service->rmdir(s.caller, at("/docs"))), EBUSY);
  EXPECT_EQ(error_of(s.service->unlink(s.caller, at("/one.txt"))), EBUSY);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/docs"), at("/d2"), 0)), EBUSY);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/f"), at("/one.txt"), 0)), EBUSY);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/f"), at("/docs/f"), 0)), EXDEV);
  EXPECT_TRUE(s.tree.exists("docs") && s.tree.exists("one.txt"));
}

TEST(FilesExport, AnExportOfOneFileShowsWhatReplacedItAndNothingBeside) {
  FilesSession s;
  s.tree.write("home/report.txt", "one");
  s.tree.write("home/private.txt", "private");
  s.set_exports({exported("/report.txt", s.tree.path("home/report.txt"))});
  EXPECT_EQ(s.content("/report.txt"), "one");
  s.tree.write("home/new", "two");
  std::filesystem::rename(s.tree.path("home/new"), s.tree.path("home/report.txt"));
  EXPECT_EQ(s.content("/report.txt"), "two");
  EXPECT_EQ(s.open_error("/private.txt"), ENOENT);
  EXPECT_EQ(s.open_error("/report.txt/private.txt"), ENOTDIR);
  std::filesystem::remove(s.tree.path("home/report.txt"));
  std::filesystem::create_symlink("private.txt", s.tree.path("home/report.txt"));
  EXPECT_EQ(s.open_error("/report.txt"), ELOOP);
}

TEST(FilesExport, ADirectoryNamedAlikeIsNotBelow) {
  FilesSession s({allow("write", {"/ws"})});
  s.tree.write("w/ws/f", "in");
  s.tree.write("w/ws-evil/f", "out");
  EXPECT_EQ(s.content("/ws/f"), "in");
  EXPECT_EQ(s.content("/ws-evil/f"), "errno 2");
  EXPECT_EQ(s.names("/"), Names{"ws"});
}

TEST(FilesExport, AChangeUnderOneNameIsToldForTheOtherNamesOfThePlace) {
  FilesSession s;
  s.tree.mkdir("w/sub");
  s.set_exports({exported("/", "."), exported("/again", s.tree.path("w/sub"))});
  const auto subscription = s.events.subscribe([] {});
  ASSERT_EQ(s.open_error("/sub/f", O_CREAT | O_WRONLY), 0);
  bool told = false;
  for (const auto& event : subscription->take())
    told = told || (event.kind == protocol::EventKind::entry && event.path == at("/again/f"));
  EXPECT_TRUE(told);
  EXPECT_EQ(s.names("/again"), Names{"f"});
}

TEST(FilesExport, AMountBelowAnExportIsNotThere) {
  const auto result = in_private_mounts([] {
    FilesSession s;
    s.tree.mkdir("w/plain");
    s.tree.mkdir("w/mounted");
    ASSERT_EQ(::mount("none", s.tree.path("w/mounted").c_str(), "tmpfs", 0, nullptr), 0);
    s.tree.write("w/mounted/f", "other file system");
    EXPECT_EQ(s.content("/mounted/f"), "errno 2");
    EXPECT_EQ(s.names("/"), Names{"plain"});
    EXPECT_FALSE(s.lookup("/mounted"));
    EXPECT_EQ(s.names("/mounted"), Names{"errno 2"});
    EXPECT_EQ(error_of(s.service->mkdir(s.caller, at("/mounted/d"), 0755)), EXDEV);
    EXPECT_GT(s.audit.count_if([](const auto& r) { return r.reason == "submount"; }), 0u);

    s.set_exports({exported("/", ".", true)});
    EXPECT_EQ(s.content("/mounted/f"), "other file system");
    EXPECT_EQ(s.names("/"), (Names{"mounted", "plain"}));
    ::umount(s.tree.path("w/mounted").c_str());
  });
  if (result == ChildResult::impossible) GTEST_SKIP() << "no mount namespace for this user";
  EXPECT_EQ(result, ChildResult::passed);
}

}  // namespace
}  // namespace fbroker::test
