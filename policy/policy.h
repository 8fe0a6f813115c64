// A policy file (p.json): text -> checked data -> the input of a snapshot.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "policy/model.h"
#include "policy/network.h"
#include "policy/snapshot.h"

namespace fbroker::policy {

// What is wrong with a policy text, and where.
struct Diagnostic {
  std::string file;
  std::string pointer;     // RFC 6901 JSON pointer, "" = the whole text
  int line = 0;            // from 1; 0 = unknown
  int column = 0;          // from 1, in bytes
  std::string message;     // what was found and what was expected
  std::string suggestion;  // the nearest valid word, "" = none

  std::string text() const;  // "p.json:4:17: /rules/0/alow: unknown key; did you mean \"allow\"?"
};

struct Policy {
  std::vector<Export> exports;
  std::vector<Rule> rules;      // the file's rules and the base rules that are on
  std::vector<HostRule> network;   // what may be reached; empty = nothing
  Durability durability = Durability::normal;   // of the audit log, for this session
  std::string source;           // file name, "" = built in
};

// The compiled-in default for a run without a policy: the current directory at
// "/" for reading and writing, under the base rules.
Policy default_policy();

// A person's own file, and one that comes out of the tree the agent writes to.
inline constexpr std::size_t kMaxPolicyBytes = 4 << 20;
inline constexpr std::size_t kMaxUserPolicyBytes = 64 << 10;

// Every problem that can be found at once, not only the first.
Result<Policy, std::vector<Diagnostic>> parse_policy(std::string_view text, std::string file,
                                                     std::size_t max_bytes = kMaxPolicyBytes);

// The schema's text (JSON Schema draft 7), as `fbroker policy schema` prints it.
std::string_view policy_schema();

}  // namespace fbroker::policy
