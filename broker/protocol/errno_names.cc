#include "broker/protocol/errno_names.h"

#include <cstring>

namespace fbroker::protocol {

std::string_view name_of(Errno error) noexcept {
  const char* name = error.value > 0 ? strerrorname_np(error.value) : nullptr;
  return name != nullptr ? name : "EIO";
}

std::optional<Errno> errno_named(std::string_view name) noexcept {
  constexpr int kLast = EHWPOISON;  // errno(3): the highest number Linux has
  for (int value = 1; value <= kLast; ++value) {
    const char* known = strerrorname_np(value);
    if (known != nullptr && name == known) return Errno{value};
  }
  return std::nullopt;
}

}  // namespace fbroker::protocol
