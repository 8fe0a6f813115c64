// Things that are no plain file, names that try to be more than names, and
// links that would lead the person's own tools astray.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "broker/files/owner.h"
#include "tests/broker/files_session.h"

namespace fbroker::test {
namespace {

using Names = std::vector<std::string>;

void make_socket(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
}

TEST(FilesSpecialAttack, FifosSocketsAndDevicesAreNotThereAndNeverOpened) {
  FilesSession s;
  ASSERT_EQ(::mkfifo(s.tree.path("w/fifo").c_str(), 0666), 0);
  make_socket(s.tree.path("w/socket"));
  std::vector<std::string> paths{"/fifo", "/socket"};
  if (::mknod(s.tree.path("w/zero").c_str(), S_IFCHR | 0666, makedev(1, 5)) == 0) paths.push_back("/zero");
  for (const std::string& path : paths) {
    EXPECT_FALSE(s.lookup(path)) << path;
    // Opening a FIFO for reading would wait for a writer: this returns.
    EXPECT_EQ(s.open_error(path, O_RDONLY), ENOENT) << path;
    EXPECT_EQ(s.open_error(path, O_RDWR), ENOENT) << path;
    EXPECT_NE(s.open_error(path, O_WRONLY | O_CREAT), 0) << path;
    EXPECT_NE(error_of(s.service->unlink(s.caller, at(path))), 0) << path;
    EXPECT_EQ(s.audit.count_if([&](const auto& r) { return r.path == path && r.reason == "special-file" && r.operation == "open"; }), 3u) << path;
  }
  EXPECT_EQ(s.names("/"), Names{});
  s.tree.write("w/f", "");
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/f"), at("/fifo"), 0)), EACCES);
}

TEST(FilesSpecialAttack, SetIdFilesAreNeverOpenedForWriting) {
  FilesSession s;
  s.tree.write("w/tool", "#!");
  ASSERT_EQ(::chmod(s.tree.path("w/tool").c_str(), 04755), 0);
  EXPECT_EQ(s.open_error("/tool"), 0);
  EXPECT_EQ(s.open_error("/tool", O_WRONLY), EACCES);
  EXPECT_EQ(s.open_error("/tool", O_RDONLY | O_TRUNC), EACCES);
  EXPECT_EQ(error_of(s.service->truncate(s.caller, {at("/tool"), {}, 0}, 0)), EACCES);
  EXPECT_EQ(error_of(s.service->chmod(s.caller, {at("/tool"), {}, 0}, 0777)), EPERM);
  EXPECT_EQ(error_of(s.service->link(s.caller, {at("/tool"), {}, 0}, at("/t2"))), EPERM);
  EXPECT_EQ(s.lookup("/tool")->permissions, 0755u) << "nor is the bit shown";
  EXPECT_EQ(s.tree.read("w/tool"), "#!");
}

TEST(FilesSpecialAttack, SetIdAndStickyBitsNeverReachTheHost) {
  FilesSession s;
  ASSERT_EQ(s.open_error("/f", O_CREAT | O_WRONLY, 07777), 0);
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/d"), 07777));
  for (const char* path : {"w/f", "w/d"}) {
    struct stat host {};
    ASSERT_EQ(::stat(s.tree.path(path).c_str(), &host), 0);
    EXPECT_EQ(host.st_mode & 07777u, 0777u) << path;
  }
}

// ATTACK: the rule for link targets counts directories; take the link elsewhere.
TEST(FilesSpecialAttack, ALinkDoesNotClimbOutByBeingMovedUp) {
  FilesSession s;
  s.tree.mkdir("w/a/b/c");
  ASSERT_TRUE(s.service->symlink(s.caller, "../../../x", at("/a/b/c/l")));
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/a/b/c/l"), at("/a/l"), 0)), EXDEV);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/a/b/c"), at("/c"), 0)), EXDEV);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/a/b"), at("/b"), 0)), EXDEV);
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/a/b/c"), at("/a/b/d"), 0)), 0);
  ASSERT_TRUE(s.service->unlink(s.caller, at("/a/b/d/l")));
  EXPECT_EQ(error_of(s.service->rename(s.caller, at("/a/b"), at("/b"), 0)), 0);
}

TEST(FilesSpecialAttack, NamesOfEveryByteMeetTheSameDecision) {
  for (int byte = 1; byte < 256; ++byte) {
    if (byte == '/') continue;
    static FilesSession s({allow("write", {"/**"}), deny("all", {"/**/*.pem"})});
    const std::string name = std::string("/k") + static_cast<char>(byte) + ".pem";
    s.tree.write("w" + name, "KEY");
    EXPECT_EQ(s.open_error(name), ENOENT) << "byte " << byte;
    EXPECT_EQ(s.open_error(name, O_CREAT | O_WRONLY), EACCES) << "byte " << byte;
    EXPECT_FALSE(s.lookup(name)) << "byte " << byte;
    EXPECT_EQ(s.names("/"), Names{}) << "byte " << byte;
  }
}

TEST(FilesSpecialAttack, HardLinksAreJudgedByTheNameThatIsUsed) {
  FilesSession s({allow("write", {"/**"}), deny("all", {"/hidden"})});
  s.tree.write("w/hidden/f", "x");
  ASSERT_EQ(::link(s.tree.path("w/hidden/f").c_str(), s.tree.path("w/shown").c_str()), 0);
  EXPECT_EQ(s.content("/shown"), "x") << "the person gave it an allowed name";
  EXPECT_EQ(s.open_error("/hidden/f"), ENOENT);
  const auto handle = s.open("/shown");
  ASSERT_TRUE(handle);
  s.set_rules({allow("write", {"/**"}), deny("all", {"/hidden", "/shown"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST(FilesSpecialAttack, HandlesAreJudgedByThePolicyAfterTheirFileWasUnlinked) {
  FilesSession s;
  s.tree.write("w/f", "text");
  const auto handle = s.open("/f");
  ASSERT_TRUE(handle);
  ASSERT_TRUE(s.service->unlink(s.caller, at("/f")));
  s.set_rules({allow("write", {"/**"}), deny("all", {"/other"})});
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
  s.set_rules({allow("write", {"/**"}), deny("all", {"/f"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST(FilesSpecialAttack, AHandleOfAnUnlinkedFileDoesNotFollowItsNamesake) {
  FilesSession s;
  s.tree.write("w/f", "old");
  const auto handle = s.open("/f");
  ASSERT_TRUE(handle);
  ASSERT_TRUE(s.service->unlink(s.caller, at("/f")));
  ASSERT_EQ(s.open_error("/f", O_CREAT | O_WRONLY), 0);
  ASSERT_TRUE(s.service->rename(s.caller, at("/f"), at("/g"), 0));
  s.set_rules({allow("write", {"/**"}), deny("all", {"/f"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

// --- A broker that runs as root

TEST(FilesSpecialAttack, RootActsAsTheOwnerOfTheExport) {
  if (::geteuid() != 0) GTEST_SKIP() << "only for root";
  constexpr uid_t kOwner = 12345;
  TempTree tree;
  ASSERT_EQ(::chmod(tree.path().c_str(), 0711), 0);
  tree.write("home/theirs", "x");
  tree.write("home/roots", "SECRET");
  ASSERT_EQ(::chmod(tree.path("home/roots").c_str(), 0600), 0);
  for (const char* path : {"home", "home/theirs"})
    ASSERT_EQ(::chown(tree.path(path).c_str(), kOwner, kOwner), 0);
  FilesSession s;
  s.set_exports({{.at = at("/"), .from = tree.path("home"), .submounts = false}});
  EXPECT_EQ(s.content("/theirs"), "x");
  EXPECT_EQ(s.open_error("/roots"), EACCES) << "the owner could not read it either";
  EXPECT_EQ(s.lookup("/roots")->permissions & 0444u, 0u);
  ASSERT_EQ(s.open_error("/new", O_CREAT | O_WRONLY), 0);
  ASSERT_TRUE(s.service->mkdir(s.caller, at("/dir"), 0755));
  ASSERT_TRUE(s.service->symlink(s.caller, "new", at("/link")));
  for (const char* path : {"home/new", "home/dir", "home/link"}) {
    struct stat made {};
    ASSERT_EQ(::lstat(tree.path(path).c_str(), &made), 0);
    EXPECT_EQ(made.st_uid, kOwner) << path;
    EXPECT_EQ(made.st_gid, kOwner) << path;
  }
  EXPECT_EQ(error_of(s.service->chmod(s.caller, {at("/roots"), {}, 0}, 0777)), EPERM);
  EXPECT_TRUE(s.service->chmod(s.caller, {at("/theirs"), {}, 0}, 0600));
}

TEST(FilesSpecialAttack, RootActsWithoutItsPowersOnItsOwnFilesAndGetsThemBack) {
  if (::geteuid() != 0) GTEST_SKIP() << "only for root";
  FilesSession s;
  s.tree.write("w/closed", "x");
  ASSERT_EQ(::chmod(s.tree.path("w/closed").c_str(), 0000), 0);
  s.tree.write("w/foreign", "x");
  ASSERT_EQ(::chown(s.tree.path("w/foreign").c_str(), 12345, 12345), 0);
  ASSERT_EQ(::chmod(s.tree.path("w/foreign").c_str(), 0600), 0);
  EXPECT_EQ(s.open_error("/closed"), EACCES);
  EXPECT_EQ(s.open_error("/foreign"), EACCES);
  EXPECT_EQ(s.tree.read("w/foreign"), "x") << "the thread is root again";
}

}  // namespace
}  // namespace fbroker::test
