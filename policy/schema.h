// The policy's JSON Schema (draft 7) and the check against it.
#pragma once

#include <string_view>

#include "policy/json_text.h"

namespace fbroker::policy {

// Adds what the schema finds wrong. Second line behind the reader in parse.cc,
// whose words are better: a text that only the schema refuses is refused.
void check_schema(std::string_view text, const JsonValue& root, Findings& findings);

}  // namespace fbroker::policy
