#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "broker/sessions/runtime_dir.h"

namespace fbroker::broker {
namespace {

TEST(SessionPlaces, ASessionsNameIsADirectorysName) {
  for (const char* good : {"default", "web-1", "A.b_c", "x"}) EXPECT_TRUE(is_session_name(good)) << good;
  for (const char* bad : {"", ".", "..", ".x", "-x", "a/b", "a b", "control", "a\n", "\xc3\xa4"})
    EXPECT_FALSE(is_session_name(bad)) << bad;
  EXPECT_FALSE(is_session_name(std::string(65, 'a')));
}

class SessionPlacesOnDisk : public testing::Test {
 protected:
  SessionPlacesOnDisk() {
    std::string name = "/tmp/fbroker-places-XXXXXX";
    dir = ::mkdtemp(name.data());
  }
  ~SessionPlacesOnDisk() override { std::filesystem::remove_all(dir); }
  std::string dir;
};

TEST_F(SessionPlacesOnDisk, APrivateDirectoryIsMadeForItsOwnerAlone) {
  ASSERT_TRUE(private_directory(dir + "/a/b"));
  struct stat info{};
  ASSERT_EQ(::stat((dir + "/a/b").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
}

TEST_F(SessionPlacesOnDisk, ASymlinkInItsPlaceIsRefused) {
  std::filesystem::create_directory(dir + "/elsewhere");
  std::filesystem::create_directory_symlink(dir + "/elsewhere", dir + "/link");
  EXPECT_FALSE(private_directory(dir + "/link"));
}

TEST_F(SessionPlacesOnDisk, ADirectoryOfSomebodyElseIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs another user";
  std::filesystem::create_directory(dir + "/theirs");
  ASSERT_EQ(::chown((dir + "/theirs").c_str(), 12345, 12345), 0);
  const auto opened = private_directory(dir + "/theirs");
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().text().find("12345"), std::string::npos);
}

TEST_F(SessionPlacesOnDisk, ARuntimeDirectoryOfAnotherUserDoesNotCount) {
  ::setenv("XDG_RUNTIME_DIR", dir.c_str(), 1);
  EXPECT_EQ(runtime_path(), dir + "/fbroker");
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(dir.c_str(), 12345, 12345), 0);
  EXPECT_EQ(runtime_path(), "/tmp/fbroker-0");
}

}  // namespace
}  // namespace fbroker::broker
