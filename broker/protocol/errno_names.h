// errno numbers and their names: on the wire an error is a name ("ENOENT"),
// because the numbers differ between kernels.
#pragma once

#include <optional>
#include <string_view>

#include "policy/base/errno.h"

namespace fbroker::protocol {

// "EIO" for a number that has no name.
std::string_view name_of(Errno error) noexcept;
std::optional<Errno> errno_named(std::string_view name) noexcept;

}  // namespace fbroker::protocol
