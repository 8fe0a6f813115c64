#include "tests/support/folding_mount.h"

#include <fuse3/fuse.h>
#include <strings.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

namespace fbroker::test {

namespace {

constexpr std::array<const char*, 2> kFiles{"/.env", "/readme"};
constexpr long kFuse = 0x65735546;
bool g_folds = false;   // in the child alone

int get_attributes(const char* path, struct stat* stat, fuse_file_info*) {
  std::memset(stat, 0, sizeof *stat);
  stat->st_uid = ::getuid();
  stat->st_gid = ::getgid();
  if (std::strcmp(path, "/") == 0) {
    stat->st_mode = S_IFDIR | 0755;
    stat->st_nlink = 2;
    return 0;
  }
  for (const char* file : kFiles)
    if ((g_folds ? ::strcasecmp(path, file) : std::strcmp(path, file)) == 0) {
      stat->st_mode = S_IFREG | 0644;
      stat->st_nlink = 1;
      return 0;
    }
  return -ENOENT;
}

int list(const char*, void* buffer, fuse_fill_dir_t fill, off_t, fuse_file_info*, fuse_readdir_flags) {
  for (const char* name : {".", "..", ".env", "readme"}) fill(buffer, name, nullptr, 0, fuse_fill_dir_flags{});
  return 0;
}

bool is_mounted(const std::string& directory) {
  struct statfs status {};
  return ::statfs(directory.c_str(), &status) == 0 && status.f_type == kFuse;
}

[[noreturn]] void serve(const std::string& directory, bool folds) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  g_folds = folds;
  fuse_operations operations{};
  operations.getattr = get_attributes;
  operations.readdir = list;
  std::string program = "folding", foreground = "-f", single = "-s", at = directory;
  std::array<char*, 4> arguments{program.data(), foreground.data(), single.data(), at.data()};
  ::_exit(fuse_main(static_cast<int>(arguments.size()), arguments.data(), &operations, nullptr));
}

}  // namespace

std::unique_ptr<FoldingMount> FoldingMount::at(const std::string& directory, bool folds) {
  const pid_t server = ::fork();
  if (server == 0) serve(directory, folds);
  std::unique_ptr<FoldingMount> made(new FoldingMount(directory, server));
  for (int waited = 0; waited < 200; ++waited) {
    if (is_mounted(directory)) return made;
    if (::waitpid(server, nullptr, WNOHANG) == server) {
      made->server_ = -1;
      return nullptr;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return nullptr;
}

FoldingMount::~FoldingMount() {
  if (server_ < 0) return;
  if (::umount2(directory_.c_str(), MNT_DETACH) != 0) {
    const pid_t helper = ::fork();
    if (helper == 0) {
      ::execlp("fusermount3", "fusermount3", "-uz", directory_.c_str(), nullptr);
      ::_exit(127);
    }
    ::waitpid(helper, nullptr, 0);
  }
  ::kill(server_, SIGTERM);
  ::waitpid(server_, nullptr, 0);
}

}  // namespace fbroker::test
