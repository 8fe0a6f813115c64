#include "broker/files/links_on_way.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "broker/files/file_stat.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

namespace {
constexpr int kMaxLinks = 40;   // as the kernel's own MAXSYMLINKS
}

std::optional<std::string> link_on_way(const std::string& host_path,
                                       const std::function<bool(const HostLocation&)>& agents_own) {
  constexpr int kDirectory = O_PATH | O_DIRECTORY | O_CLOEXEC;
  UniqueFd directory(::open("/", kDirectory));
  std::string rest = host_path;
  for (int links = 0; links <= kMaxLinks;) {
    const std::size_t begin = rest.find_first_not_of('/');
    if (begin == rest.npos || !directory) return std::nullopt;
    const std::size_t end = std::min(rest.find('/', begin), rest.size());
    const std::string name = rest.substr(begin, end - begin);
    rest.erase(0, end);
    UniqueFd next(::openat(directory.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    const auto stat = next ? stat_of(next.get()) : Errno::last();
    if (!stat) return std::nullopt;
    if (!stat->is_symlink()) {
      directory = std::move(next);
      continue;
    }
    const auto place = locate(directory.get());
    if (!place || agents_own(place->at(name))) return kernel_name(directory.get()) + "/" + name;
    char target[PATH_MAX];
    const ssize_t size = ::readlinkat(next.get(), "", target, sizeof target);
    if (size < 0) return std::nullopt;
    rest.insert(0, std::string(target, static_cast<std::size_t>(size)) + (rest.empty() ? "" : "/"));
    if (rest.starts_with('/')) directory = UniqueFd(::open("/", kDirectory));
    ++links;
  }
  return std::nullopt;
}

}  // namespace fbroker::broker
