#include "broker/files/symlink_target.h"

namespace fbroker::broker {

bool target_stays(std::string_view target, std::size_t depth) noexcept {
  if (target.empty() || target.front() == '/') return false;
  bool named = false;
  std::size_t up = 0;
  while (!target.empty()) {
    const std::size_t end = target.find('/');
    const std::string_view part = target.substr(0, end);
    target = end == target.npos ? std::string_view() : target.substr(end + 1);
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      named = true;
      continue;
    }
    if (named || ++up > depth) return false;
  }
  return true;
}

}  // namespace fbroker::broker
