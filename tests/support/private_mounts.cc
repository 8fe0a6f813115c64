#include "tests/support/private_mounts.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace fbroker::test {

namespace {

constexpr int kFailed = 1, kImpossible = 2;

bool write_map(const char* file, const std::string& text) {
  const int fd = ::open(file, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return written;
}

bool enter_private_mounts() {
  const auto uid = ::geteuid();
  const auto gid = ::getegid();
  if (uid != 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    if (!write_map("/proc/self/setgroups", "deny") ||
        !write_map("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1") ||
        !write_map("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1"))
      return false;
  } else if (::unshare(CLONE_NEWNS) != 0) {
    return false;
  }
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

}  // namespace

ChildResult in_private_mounts(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) return ChildResult::impossible;
  if (child == 0) {
    if (!enter_private_mounts()) ::_exit(kImpossible);
    body();
    std::fflush(nullptr);
    ::_exit(testing::Test::HasFailure() ? kFailed : 0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return ChildResult::passed;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kImpossible) return ChildResult::impossible;
  return ChildResult::failed;
}

}  // namespace fbroker::test
