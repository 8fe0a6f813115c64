#include "container/git_tracked.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "container/preconditions.h"
#include "policy/base/unique_fd.h"

namespace fbroker::container {
namespace {

constexpr std::size_t kMostBytes = 64 << 20;

// All of it; what is beyond the bound is read and dropped.
std::string read_to_end(int fd) {
  std::string text;
  std::array<char, 1 << 16> piece;
  for (;;) {
    const ssize_t got = ::read(fd, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    if (text.size() < kMostBytes) text.append(piece.data(), static_cast<std::size_t>(got));
  }
}

// Starts git without a shell; its answer, or nothing where it has none.
std::string ls_files(const std::string& directory) {
  const std::string git = system_program("git");
  if (git.empty()) return "";
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return "";
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  // ATTACK: a repository's configuration can name a program to run as its
  //   file system monitor; looking must start nothing.
  std::array<std::string, 7> words{"git", "-c", "core.fsmonitor=false", "-C", directory, "ls-files", "-z"};
  std::array<char*, 8> argv{};
  std::ranges::transform(words, argv.begin(), [](std::string& word) { return word.data(); });
  pid_t child = 0;
  const int failed = ::posix_spawn(&child, git.c_str(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return "";
  in = UniqueFd();
  std::string text = read_to_end(out.get());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  return status == 0 ? text : "";
}

}  // namespace

std::vector<std::string> git_tracked(const std::string& directory) {
  const std::string text = ls_files(directory);
  std::vector<std::string> names;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    names.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

}  // namespace fbroker::container
