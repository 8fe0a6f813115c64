// The proxy inside, as programs are told of it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fbroker::container {

inline constexpr char kProxy[] = "127.0.0.1:3128";
inline constexpr std::uint16_t kProxyPort = 3128;

// What makes curl, Python, Go, Node, git and what is built on them go through `proxy`.
std::vector<std::pair<std::string, std::string>> proxy_environment(const std::string& proxy);

}  // namespace fbroker::container
