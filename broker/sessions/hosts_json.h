// The hosts that a session may reach besides its policy's, as JSON: in
// sessions.json, and as the launcher asks for them on the control socket.
//   [{"id":"agent:claude","host":"api.anthropic.com","tls":"sni"}, {"id":…,"host":"llm.local:11434","instead":"127.0.0.1:11434"}]
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "broker/protocol/wire_json.h"
#include "policy/network.h"

namespace fbroker::broker {

inline constexpr std::size_t kMaxHosts = 1000;

void append_hosts(std::string& out, const std::vector<policy::HostRule>& hosts);
Result<std::vector<policy::HostRule>, protocol::WireError> read_hosts(const nlohmann::json& list,
                                                                      const std::string& prefix);

}  // namespace fbroker::broker
