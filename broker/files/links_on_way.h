// The links on the way to a host path that a policy names.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "broker/files/host_location.h"

namespace fbroker::broker {

// The first symbolic link on the way to `host_path` (absolute) for whose place
// `agents_own` says yes; none: there is none such. A path that leads nowhere has
// none beyond where it ends.
std::optional<std::string> link_on_way(const std::string& host_path,
                                       const std::function<bool(const HostLocation&)>& agents_own);

}  // namespace fbroker::broker
