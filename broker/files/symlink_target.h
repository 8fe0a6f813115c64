// Which symlinks a session may make. The host's own tools will follow them.
#pragma once

#include <cstddef>
#include <string_view>

namespace fbroker::broker {

// Whether a link that lies `depth` directories below its export's root stays
// within the export: relative, and ".." only at its beginning, at most `depth`
// times. ".." after a name is refused because that name may be a link, now or
// later, and then leads somewhere else than counting says.
bool target_stays(std::string_view target, std::size_t depth) noexcept;

}  // namespace fbroker::broker
