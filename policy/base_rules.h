// The rules that are shipped: what is a secret, and what could make the
// person's own tools run the agent's code.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/model.h"

namespace fbroker::policy {

// One family of base rules, switched off or narrowed by its id.
struct BaseRule {
  std::string_view id;       // "env"; its rules are called "base:env"
  bool guard = false;        // write is denied to what the session did not create;
                             // otherwise everything is denied: a secret
  OperationSet operations;
  std::string_view because;
  std::vector<std::string> paths;
  std::vector<std::string> except;
};

// An id may stand more than once, where its parts have different exceptions.
const std::vector<BaseRule>& base_rules();

// The ids, each once.
std::vector<std::string_view> base_ids();

// The rule as a snapshot takes it, narrowed by more exceptions.
Rule to_rule(const BaseRule& base, std::span<const std::string> more_except = {});

}  // namespace fbroker::policy
