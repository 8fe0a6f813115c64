// What is let into a repository's files names no way to run a program, however
// it is spelled. Input: a path, a newline, the content.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>
#include <string_view>

#include "broker/files/git_files.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  namespace git = fbroker::broker::git;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(input.find('\n'), input.size());
  const auto path = fbroker::WorkspacePath::parse(input.substr(0, end));
  const std::string_view content = input.substr(std::min(end + 1, input.size()));
  if (!path || git::objection(*path, content)) return 0;
  const git::Role role = git::role_of(*path);
  if (role == git::Role::closed || role == git::Role::hooks) std::abort();
  if (role == git::Role::head && content.starts_with("ref:")) std::abort();
  if (role != git::Role::config) return 0;
  // A key stands first in its line, or, to git, after its section's name.
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t newline = std::min(content.find('\n', at), content.size());
    std::string line(content.substr(at, newline - at));
    at = newline + 1;
    std::ranges::transform(line, line.begin(), [](unsigned char c) { return std::tolower(c); });
    const std::size_t first = line.find_first_not_of(" \t");
    if (first == line.npos || line[first] == '#' || line[first] == ';') continue;
    if (line.find_first_of("\\\r") != line.npos) std::abort();
    for (const std::string_view key : {"fsmonitor", "hookspath", "sshcommand", "path", "external", "program", "helper"})
      if (line.substr(first).starts_with(key)) std::abort();
  }
  return 0;
}
