#include "container/tools.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <string_view>

namespace fbroker::container {
namespace {

// Places inside that are the sandbox's own.
constexpr std::array<std::string_view, 8> kReserved{"/dev", "/etc", "/proc",  "/run",
                                                    "/sys", "/boot", "/workspace", "/home/agent"};

bool at_or_below(std::string_view path, std::string_view place) {
  if (place.empty() || !path.starts_with(place)) return false;
  return path.size() == place.size() || place == "/" || path[place.size()] == '/';
}

bool overlap(std::string_view a, std::string_view b) { return at_or_below(a, b) || at_or_below(b, a); }

}  // namespace

std::string why_not_shown(const std::string& path, const Forbidden& forbidden) {
  if (path == "/") return "would show the whole machine; name one toolchain";
  if (at_or_below(forbidden.home, path)) return "would show your home directory; name one toolchain in it";
  if (overlap(path, forbidden.workspace_root))
    return "overlaps the workspace, where the policy decides; export it there instead";
  for (const std::string& own : forbidden.own)
    if (overlap(path, own)) return "holds fbroker's own files";
  for (const std::string_view reserved : kReserved)
    if (at_or_below(path, reserved)) return "lies where the sandbox has its own " + std::string(reserved);
  return "";
}

Result<void> check_tool_path(const std::string& path, const Forbidden& forbidden) {
  if (std::string why = why_not_shown(path, forbidden); !why.empty()) return Error{"--tool " + path, std::move(why)};
  return ok;
}

Result<Tool> open_tool(const std::string& directory, const Forbidden& forbidden) {
  char canonical[PATH_MAX];
  if (::realpath(directory.c_str(), canonical) == nullptr)
    return Error{"--tool " + directory, std::strerror(errno)};
  FBROKER_TRY_VOID(check_tool_path(canonical, forbidden));
  UniqueFd fd(::open(canonical, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return Error{"--tool " + directory, std::strerror(errno)};
  struct stat bin {};
  const bool has_bin = ::fstatat(fd.get(), "bin", &bin, 0) == 0 && S_ISDIR(bin.st_mode);
  Mount mount{.source = canonical, .fd = fd.get(), .at = canonical};
  return Tool{std::move(mount), std::move(fd), std::string(canonical) + (has_bin ? "/bin" : "")};
}

}  // namespace fbroker::container
