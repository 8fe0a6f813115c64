#include "container/agents/walk.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>

namespace fbroker::container::agents {
namespace {

constexpr std::size_t kMostLinks = 40;

// Before what is still to be walked.
void prepend(std::deque<std::string>& ahead, std::string_view path) {
  std::vector<std::string> pieces;
  while (!path.empty()) {
    const std::string_view one = path.substr(0, path.find('/'));
    if (!one.empty() && one != ".") pieces.emplace_back(one);
    path.remove_prefix(std::min(path.size(), one.size() + 1));
  }
  ahead.insert(ahead.begin(), pieces.begin(), pieces.end());
}

Result<std::string> target_of(const std::string& link) {
  std::string target(PATH_MAX, '\0');
  const ssize_t size = ::readlink(link.c_str(), target.data(), target.size());
  if (size <= 0 || static_cast<std::size_t>(size) == target.size()) return Error{link, "cannot be read as a link"};
  target.resize(static_cast<std::size_t>(size));
  return target;
}

}  // namespace

Result<Walk> walk(const std::string& path) {
  Walk walked;
  std::deque<std::string> ahead;
  prepend(ahead, path);
  while (!ahead.empty()) {
    const std::string piece = ahead.front();
    ahead.pop_front();
    if (piece == "..") {
      walked.real.resize(walked.real.empty() ? 0 : walked.real.rfind('/'));
      continue;
    }
    const std::string next = walked.real + "/" + piece;
    struct stat found {};
    if (::lstat(next.c_str(), &found) < 0) return Error{next, std::strerror(errno)};
    if (!S_ISLNK(found.st_mode)) {
      walked.real = next;
      continue;
    }
    FBROKER_TRY(const std::string target, target_of(next));
    if (walked.links.size() == kMostLinks) return Error{path, std::strerror(ELOOP)};
    walked.links.push_back({.target = target, .at = next});
    if (target.starts_with('/')) walked.real.clear();
    prepend(ahead, target);
  }
  if (walked.real.empty()) walked.real = "/";
  return walked;
}

bool at_or_below(std::string_view path, std::string_view place) {
  if (place.empty() || !path.starts_with(place)) return false;
  return path.size() == place.size() || place == "/" || path[place.size()] == '/';
}

bool system_shows(std::string_view path) {
  // As host_root.cc shows them.
  constexpr std::array<std::string_view, 8> kShown{"/usr",   "/bin",   "/sbin",   "/lib",
                                                   "/lib32", "/lib64", "/libx32", "/etc/alternatives"};
  return std::any_of(kShown.begin(), kShown.end(), [&](const auto place) { return at_or_below(path, place); });
}

std::string shortened(const std::string& path, const std::string& home) {
  if (home.size() > 1 && at_or_below(path, home)) return "~" + path.substr(home.size());
  return path;
}

}  // namespace fbroker::container::agents
