// Problem: an error as HTTP tells it, application/problem+json (RFC 9457).
//
// What a client is told never holds a host path, and for a name that it may
// not see never a rule: a hidden name's answer is, byte for byte, that of a
// name which does not exist.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "policy/base/errno.h"

namespace fbroker::broker {

struct Problem {
  unsigned status = 500;        // of the reply
  std::string title;            // in a few words
  std::string detail;           // what was found and expected, "" = none
  std::string error;            // errno's name, "" = none
  std::string field;            // the request's field at fault, "" = none
  std::string rule;             // the deciding rule, "" = none or not to be told
  std::optional<bool> askable;  // whether a person could be asked for it
};

inline constexpr std::string_view kProblemType = "application/problem+json";

// What an errno is over HTTP: its status, title and name.
Problem problem_of(Errno error);
// A request that is wrong in itself.
Problem bad_request(std::string detail);

// {"type","title","status",…}; empty members are left out.
void append_problem(std::string& out, const Problem& problem);
std::string problem_text(const Problem& problem);

// "404 Not Found", for the status line. "500 …" for a number we do not use.
std::string_view status_line_of(unsigned status) noexcept;

}  // namespace fbroker::broker
