// Each file operation through a real mount over a real session.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "tests/shim/fuse_mounted.h"

namespace fbroker::test {
namespace {

using Names = std::vector<std::string>;

struct FuseFiles : testing::Test {
  FuseMounted m;
};

TEST_F(FuseFiles, AFileOfTheHostIsReadThroughTheMount) {
  m.write_host("a", "hello");
  EXPECT_EQ(slurp(m.inside("a")), "hello");
}

TEST_F(FuseFiles, AFileWrittenInTheMountIsOnTheHost) {
  EXPECT_EQ(spill(m.inside("a"), "text"), 0);
  EXPECT_EQ(m.session.tree.read("w/a"), "text");
}

TEST_F(FuseFiles, LargeContentCrossesRequestBordersUnharmed) {
  std::string big(5 * 1024 * 1024 + 123, 'x');
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 7 + (i >> 11));
  ASSERT_EQ(spill(m.inside("big"), big), 0);
  EXPECT_EQ(m.session.tree.read("w/big"), big);
  m.write_host("other", big);
  EXPECT_EQ(slurp(m.inside("other")), big);
}

TEST_F(FuseFiles, ExclusiveCreationRefusesWhatIsThere) {
  EXPECT_EQ(spill(m.inside("a"), "1", O_WRONLY | O_CREAT | O_EXCL), 0);
  EXPECT_EQ(spill(m.inside("a"), "2", O_WRONLY | O_CREAT | O_EXCL), EEXIST);
  EXPECT_EQ(m.session.tree.read("w/a"), "1");
}

TEST_F(FuseFiles, TruncationAtOpenIsOneRequest) {
  m.write_host("a", "long text");
  ASSERT_EQ(stat_error(m.inside("a")), 0);
  m.counting.reset();
  EXPECT_EQ(spill(m.inside("a"), "x", O_WRONLY | O_TRUNC), 0);
  EXPECT_EQ(m.session.tree.read("w/a"), "x");
  EXPECT_EQ(m.counting.of("truncate"), 0);
  EXPECT_EQ(m.counting.of("open"), 1);
}

TEST_F(FuseFiles, AppendingGoesToTheEndThatTheHostHas) {
  m.write_host("log", "1");
  const UniqueFd fd(::open(m.inside("log").c_str(), O_WRONLY | O_APPEND));
  ASSERT_TRUE(fd);
  ASSERT_EQ(::write(fd.get(), "2", 1), 1);
  {
    const UniqueFd host(::open(m.host("log").c_str(), O_WRONLY | O_APPEND));
    ASSERT_EQ(::write(host.get(), "3", 1), 1);
  }
  ASSERT_EQ(::write(fd.get(), "4", 1), 1);
  EXPECT_EQ(m.session.tree.read("w/log"), "1234");
}

TEST_F(FuseFiles, UmaskIsTheCallersAndApplied) {
  const mode_t before = ::umask(027);
  const UniqueFd fd(::open(m.inside("a").c_str(), O_WRONLY | O_CREAT, 0666));
  ::umask(before);
  struct stat st;
  ASSERT_EQ(::stat(m.host("a").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0640u);
}

TEST_F(FuseFiles, AttributesAreTheFilesOwn) {
  m.write_host("a", "12345");
  struct stat host, seen;
  ASSERT_EQ(::stat(m.host("a").c_str(), &host), 0);
  ASSERT_EQ(::stat(m.inside("a").c_str(), &seen), 0);
  EXPECT_EQ(seen.st_ino, host.st_ino);
  EXPECT_EQ(seen.st_size, host.st_size);
  EXPECT_EQ(seen.st_mtim.tv_sec, host.st_mtim.tv_sec);
  EXPECT_EQ(seen.st_mtim.tv_nsec, host.st_mtim.tv_nsec);
  EXPECT_EQ(seen.st_uid, ::geteuid());
}

TEST_F(FuseFiles, DirectoriesAreMadeListedAndRemoved) {
  ASSERT_EQ(::mkdir(m.inside("d").c_str(), 0755), 0);
  ASSERT_EQ(spill(m.inside("d/b"), ""), 0);
  ASSERT_EQ(::mkdir(m.inside("d/a").c_str(), 0755), 0);
  EXPECT_EQ(listed(m.inside("d")), (Names{"a", "b"}));
  EXPECT_EQ(::rmdir(m.inside("d").c_str()), -1);
  EXPECT_EQ(errno, ENOTEMPTY);
  ASSERT_EQ(::unlink(m.inside("d/b").c_str()), 0);
  ASSERT_EQ(::rmdir(m.inside("d/a").c_str()), 0);
  ASSERT_EQ(::rmdir(m.inside("d").c_str()), 0);
  EXPECT_FALSE(m.session.tree.exists("w/d"));
  EXPECT_EQ(stat_error(m.inside("d")), ENOENT);
}

TEST_F(FuseFiles, RenameMovesADirectoryWithEverythingInIt) {
  m.write_host("d/e/f", "text");
  ASSERT_EQ(slurp(m.inside("d/e/f")), "text");
  m.session.tree.mkdir("w/to");
  ASSERT_EQ(::rename(m.inside("d").c_str(), m.inside("to/d2").c_str()), 0);
  EXPECT_EQ(slurp(m.inside("to/d2/e/f")), "text");
  EXPECT_EQ(spill(m.inside("to/d2/e/g"), "new"), 0);
  EXPECT_EQ(m.session.tree.read("w/to/d2/e/g"), "new");
  EXPECT_EQ(stat_error(m.inside("d/e/f")), ENOENT);
}

TEST_F(FuseFiles, RenameOverAnOpenFileLeavesTheOpenOneReadable) {
  m.write_host("a", "old");
  m.write_host("b", "new!");
  const UniqueFd fd(::open(m.inside("a").c_str(), O_RDONLY));
  ASSERT_TRUE(fd);
  ASSERT_EQ(::rename(m.inside("b").c_str(), m.inside("a").c_str()), 0);
  char text[8] = {};
  EXPECT_EQ(::read(fd.get(), text, sizeof text), 3);
  EXPECT_STREQ(text, "old");
  EXPECT_EQ(slurp(m.inside("a")), "new!");
}

TEST_F(FuseFiles, RenameWithoutReplacingRefusesWhatIsThere) {
  m.write_host("a", "1");
  m.write_host("b", "2");
  EXPECT_EQ(::renameat2(AT_FDCWD, m.inside("a").c_str(), AT_FDCWD, m.inside("b").c_str(),
                        RENAME_NOREPLACE), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(::renameat2(AT_FDCWD, m.inside("a").c_str(), AT_FDCWD, m.inside("c").c_str(),
                        RENAME_NOREPLACE), 0);
  EXPECT_EQ(slurp(m.inside("c")), "1");
}

TEST_F(FuseFiles, ExchangingTwoNamesIsRefused) {
  m.write_host("a", "1");
  m.write_host("b", "2");
  EXPECT_EQ(::renameat2(AT_FDCWD, m.inside("a").c_str(), AT_FDCWD, m.inside("b").c_str(),
                        RENAME_EXCHANGE), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(slurp(m.inside("a")), "1");
}

TEST_F(FuseFiles, HardLinksShareOneNode) {
  m.write_host("a", "text");
  ASSERT_EQ(::link(m.inside("a").c_str(), m.inside("b").c_str()), 0);
  const std::size_t nodes = m.front->nodes();
  EXPECT_EQ(nodes, 2u) << "the root and one file";
  ASSERT_EQ(spill(m.inside("b"), "changed"), 0);
  EXPECT_EQ(slurp(m.inside("a")), "changed");
  ASSERT_EQ(::unlink(m.inside("a").c_str()), 0);
  EXPECT_EQ(slurp(m.inside("b")), "changed");
}

TEST_F(FuseFiles, SymlinksAreReadAndWalked) {
  m.write_host("d/a", "text");
  ASSERT_EQ(::symlink("d/a", m.inside("l").c_str()), 0);
  char target[16] = {};
  ASSERT_EQ(::readlink(m.inside("l").c_str(), target, sizeof target - 1), 3);
  EXPECT_STREQ(target, "d/a");
  EXPECT_EQ(slurp(m.inside("l")), "text");
}

TEST_F(FuseFiles, AnUnlinkedOpenFileLivesUntilItIsClosed) {
  const UniqueFd fd(::open(m.inside("t").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  ASSERT_TRUE(fd);
  ASSERT_EQ(::unlink(m.inside("t").c_str()), 0);
  ASSERT_EQ(::write(fd.get(), "text", 4), 4);
  char text[8] = {};
  EXPECT_EQ(::pread(fd.get(), text, sizeof text, 0), 4);
  struct stat st;
  EXPECT_EQ(::fstat(fd.get(), &st), 0);
  EXPECT_EQ(st.st_size, 4);
  EXPECT_EQ(st.st_nlink, 0u);
  EXPECT_EQ(::ftruncate(fd.get(), 2), 0);
  EXPECT_EQ(::fchmod(fd.get(), 0640), 0);
  EXPECT_EQ(stat_error(m.inside("t")), ENOENT);
}

TEST_F(FuseFiles, SizeModeAndTimesAreSet) {
  m.write_host("a", "12345");
  ASSERT_EQ(::truncate(m.inside("a").c_str(), 2), 0);
  EXPECT_EQ(m.session.tree.read("w/a"), "12");
  ASSERT_EQ(::chmod(m.inside("a").c_str(), 0755), 0);
  const timespec times[2] = {{1000, 5}, {2000, 7}};
  ASSERT_EQ(::utimensat(AT_FDCWD, m.inside("a").c_str(), times, 0), 0);
  struct stat st;
  ASSERT_EQ(::stat(m.host("a").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0755u);
  EXPECT_EQ(st.st_atim.tv_sec, 1000);
  EXPECT_EQ(st.st_mtim.tv_sec, 2000);
  EXPECT_EQ(st.st_mtim.tv_nsec, 7);
}

TEST_F(FuseFiles, TheOwnerCanBeSetToItselfAndToNobodyElse) {
  m.write_host("a", "");
  EXPECT_EQ(::chown(m.inside("a").c_str(), ::geteuid(), ::getegid()), 0);
  EXPECT_EQ(::chown(m.inside("a").c_str(), ::geteuid() + 1, ::getegid()), -1);
  EXPECT_EQ(errno, EPERM);
}

TEST_F(FuseFiles, OnlyRegularFilesAreMadeByMknod) {
  EXPECT_EQ(::mknod(m.inside("r").c_str(), S_IFREG | 0600, 0), 0);
  EXPECT_EQ(::mknod(m.inside("p").c_str(), S_IFIFO | 0600, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::mknod(m.inside("c").c_str(), S_IFCHR | 0600, 0x0103), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(listed(m.inside()), Names{"r"});
}

TEST_F(FuseFiles, SyncAndStatfsReachTheHost) {
  m.session.tree.mkdir("w/d");
  const UniqueFd fd(::open(m.inside("a").c_str(), O_RDWR | O_CREAT, 0600));
  EXPECT_EQ(::fsync(fd.get()), 0);
  EXPECT_EQ(::fdatasync(fd.get()), 0);
  EXPECT_EQ(m.counting.of("fsync"), 2);
  const UniqueFd directory(::open(m.inside("d").c_str(), O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(::fsync(directory.get()), 0);
  struct statvfs host, seen;
  ASSERT_EQ(::statvfs(m.host("").c_str(), &host), 0);
  ASSERT_EQ(::statvfs(m.inside().c_str(), &seen), 0);
  EXPECT_EQ(seen.f_blocks * seen.f_frsize, host.f_blocks * host.f_frsize);
}

TEST_F(FuseFiles, WhatIsNotOfferedFallsBackInTheKernel) {
  m.write_host("a", "text");
  EXPECT_EQ(::setxattr(m.inside("a").c_str(), "user.x", "1", 1, 0), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  const UniqueFd fd(::open(m.inside("a").c_str(), O_RDWR));
  EXPECT_EQ(::fallocate(fd.get(), 0, 0, 4096), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_END), 4);
  struct flock lock{};
  lock.l_type = F_WRLCK;
  EXPECT_EQ(::fcntl(fd.get(), F_SETLK, &lock), 0);
}

TEST_F(FuseFiles, TenThousandFilesInADirectoryAreEachListedOnce) {
  Names names;
  m.session.tree.mkdir("w/many");
  for (int i = 0; i < 10'000; ++i) {
    names.push_back("file-" + std::to_string(i));
    m.write_host("many/" + names.back(), "");
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(listed(m.inside("many")), names);
  EXPECT_EQ(listed(m.inside("many")), names);
}

TEST_F(FuseFiles, AListingCanBeReadFromTheMiddleAgain) {
  for (int i = 0; i < 3000; ++i) m.write_host("d/" + std::to_string(i), "");
  DIR* directory = ::opendir(m.inside("d").c_str());
  ASSERT_NE(directory, nullptr);
  long middle = 0;
  Names rest, again;
  for (int i = 0; const dirent* entry = ::readdir(directory); ++i) {
    if (i >= 1500) rest.push_back(entry->d_name);
    if (i == 1499) middle = ::telldir(directory);
  }
  ::seekdir(directory, middle);
  while (const dirent* entry = ::readdir(directory)) again.push_back(entry->d_name);
  ::closedir(directory);
  EXPECT_EQ(rest.size(), 3002u - 1500u);
  EXPECT_EQ(again, rest);
}

TEST_F(FuseFiles, ASharedWritableMappingReachesTheHost) {
  m.write_host("a", std::string(8192, '.'));
  EXPECT_EQ(in_child([&] {
              const int fd = ::open(m.inside("a").c_str(), O_RDWR);
              void* memory = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
              if (memory == MAP_FAILED) return 1;
              std::memcpy(static_cast<char*>(memory) + 4090, "mapping", 7);
              return ::msync(memory, 8192, MS_SYNC) == 0 ? 0 : 2;
            }),
            0);
  EXPECT_EQ(m.session.tree.read("w/a").substr(4088, 11), "..mapping..");
}

TEST_F(FuseFiles, NamesMayHoldEveryByte) {
  std::string odd = "n\n\xff\x01\"\\ *";
  ASSERT_EQ(spill(m.inside(odd), "text"), 0);
  EXPECT_EQ(listed(m.inside()), Names{odd});
  EXPECT_EQ(m.session.tree.read("w/" + odd), "text");
  EXPECT_EQ(stat_error(m.inside(std::string(256, 'n'))), ENAMETOOLONG);
}

TEST_F(FuseFiles, AccessIsAnsweredFromTheBitsShown) {
  m.write_host("a", "");
  ::chmod(m.host("a").c_str(), 0644);
  EXPECT_EQ(::access(m.inside("a").c_str(), R_OK | W_OK), 0);
  EXPECT_EQ(::access(m.inside("a").c_str(), X_OK), -1);
  EXPECT_EQ(errno, EACCES);
}

TEST_F(FuseFiles, EveryHandleIsClosedAtTheServiceInTheEnd) {
  m.write_host("a", "");
  {
    const UniqueFd a(::open(m.inside("a").c_str(), O_RDONLY));
    const UniqueFd b(::open(m.inside("").c_str(), O_RDONLY | O_DIRECTORY));
    EXPECT_EQ(m.front->open_handles(), 2u);
    EXPECT_TRUE(m.unmount() || true);
  }
  EXPECT_EQ(m.session.service->open_handles(), 0u);
}

TEST(FuseEnd, UnmountingEndsTheFrontWithoutAnError) {
  FuseMounted m;
  EXPECT_EQ(stat_error(m.inside("none")), ENOENT);
  EXPECT_TRUE(m.unmount());
}

TEST(FuseRefusals, WhatTheServiceRefusesIsRefusedAndRecorded) {
  FuseMounted m({allow("write", {"/**"}), deny("write", {"/kept"}), deny("read", {"/closed"})});
  m.write_host("kept", "text");
  m.write_host("closed", "text");
  EXPECT_EQ(slurp(m.inside("kept")), "text");
  EXPECT_EQ(spill(m.inside("kept"), "x"), EACCES);
  EXPECT_EQ(slurp(m.inside("closed")), "errno " + std::to_string(EACCES));
  EXPECT_GE(m.session.audit.count_if([](const audit::Record& r) { return r.path == "/closed" && r.error == EACCES; }), 1u);
  EXPECT_EQ(::access(m.inside("kept").c_str(), W_OK), -1);
}

TEST(FuseRefusals, AFileIsOpenedUnderTheNameThatIsAllowed) {
  FuseMounted m({allow("write", {"/**"}), deny("read", {"/closed"})});
  m.write_host("open", "text");
  ASSERT_EQ(::link(m.host("open").c_str(), m.host("closed").c_str()), 0);
  EXPECT_EQ(stat_error(m.inside("closed")), 0);
  EXPECT_EQ(stat_error(m.inside("open")), 0);
  EXPECT_EQ(slurp(m.inside("open")), "text");
}

}  // namespace
}  // namespace fbroker::test
