#include "broker/sessions/canonical_path.h"

#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstring>
#include <deque>
#include <optional>

namespace fbroker::broker {

namespace {

constexpr std::size_t kMaxLinks = 40;   // path_resolution(7)

void put_in_front(std::deque<std::string>& parts, const std::string& path) {
  std::deque<std::string> more;
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    if (slash > at) more.push_back(path.substr(at, slash - at));
    at = slash + 1;
  }
  parts.insert(parts.begin(), more.begin(), more.end());
}

std::optional<std::string> target_of(const std::string& link) {
  char target[PATH_MAX];
  const ssize_t size = ::readlink(link.c_str(), target, sizeof target);
  if (size < 0) return std::nullopt;
  return std::string(target, static_cast<std::size_t>(size));
}

}  // namespace

Result<CanonicalPath> canonical_path(const std::string& path) {
  CanonicalPath found;
  std::deque<std::string> parts;
  put_in_front(parts, path);
  while (!parts.empty()) {
    const std::string part = parts.front();
    parts.pop_front();
    if (part == ".") continue;
    if (part == "..") {
      found.path.resize(std::min(found.path.rfind('/'), found.path.size()));
      continue;
    }
    const std::string next = found.path + "/" + part;
    struct stat info{};
    if (::lstat(next.c_str(), &info) != 0) return Error{path, std::strerror(errno)};
    if (!S_ISLNK(info.st_mode)) {
      if (!S_ISDIR(info.st_mode) && !parts.empty()) return Error{path, std::strerror(ENOTDIR)};
      found.path = next;
      continue;
    }
    found.links.push_back(next);
    const auto target = target_of(next);
    if (!target) return Error{path, std::strerror(errno)};
    if (found.links.size() > kMaxLinks) return Error{path, std::strerror(ELOOP)};
    if (target->starts_with('/')) found.path.clear();
    put_in_front(parts, *target);
  }
  if (found.path.empty()) found.path.push_back('/');   // GCC 12 warns of = "/" here
  return found;
}

}  // namespace fbroker::broker
