// A request in absolute form ("GET http://host/path"), as a proxy sends it on:
// in origin form, with a Host of our own and without what was meant for us
// (RFC 9112 section 3.2.2, RFC 9110 section 7.6.1). Pure.
#pragma once

#include <string>
#include <string_view>

#include "policy/base/result.h"

namespace fbroker::broker {

struct AbsoluteTarget {
  std::string authority;   // "host" or "host:port"
  std::string origin;      // "/path?query"
};

bool is_absolute_form(std::string_view target) noexcept;

// Errors: another scheme than http. The authority is the gate's to judge.
Result<AbsoluteTarget> parse_absolute_form(std::string_view target);

// `head` is a whole request head that find_head and RequestParser took.
// One request for each connection: the server is asked to close it.
std::string forwarded_head(std::string_view head, const AbsoluteTarget& target);

}  // namespace fbroker::broker
