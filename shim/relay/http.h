// How a conversation with an HTTP proxy may begin. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "policy/base/result.h"

namespace fbroker::relay {

inline constexpr std::size_t kMaxHead = 16 << 10;   // of a request line; of an answer's head

// A request's first line, without its end: `CONNECT host:port HTTP/1.1` or
// `METHOD SCHEME://… HTTP/1.1`. Only how it begins: the broker reads the whole
// line again, and decides.
// INVARIANT: the file protocol (`GET /v1/…`) is not spoken over TCP. A program
//   that is led to a loopback port by others (a browser by a web page) can
//   then do no more here than ask for a connection.
// Errors: the answer.
Result<void, std::string> check_request_line(std::string_view line);

// An answer that ends the connection. Precondition: text is one line of ours.
std::string http_answer(std::string_view status, std::string_view text);

}  // namespace fbroker::relay
