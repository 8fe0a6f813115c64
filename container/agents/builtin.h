// The profiles that are shipped, as texts: container/agents/*.json, built into
// the program so that it needs no file beside it.
#pragma once

#include <span>
#include <string_view>

namespace fbroker::container::agents {

struct Builtin {
  std::string_view name;
  std::string_view text;
};

std::span<const Builtin> builtin_profiles();   // by name
std::string_view agent_schema();               // JSON Schema, draft 7

}  // namespace fbroker::container::agents
