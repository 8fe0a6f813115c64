// One HTTP/1.1 message over a connected Unix socket, with a deadline: what both
// ends of the control socket are made of. Beast parses; nothing else of it is
// needed where each connection carries one request and belongs to one thread.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::control {

using Deadline = std::chrono::steady_clock::time_point;

inline constexpr std::size_t kMaxHeaderBytes = 16 * 1024;
inline constexpr std::size_t kMaxRequestBytes = 1 << 20;
inline constexpr std::size_t kMaxResponseBytes = 16 << 20;

struct Request {
  std::string method, target, content_type, body;
  std::string origin, host;   // what a browser would send
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
};

// Why no message came. `status` is what a server answers it with; 0 = nobody
// is there to be answered.
struct ExchangeError {
  int status = 0;
  std::string what;
};

// The socket is put into non-blocking mode by both.
Result<Request, ExchangeError> read_request(int socket, Deadline until);
Result<Response, ExchangeError> read_response(int socket, Deadline until);

bool write_request(int socket, const Request&, Deadline until);
bool write_response(int socket, const Response&, Deadline until);

// Connects to the socket at `path`. Errors: connect(2)'s; ENAMETOOLONG.
Result<UniqueFd, Errno> connect_to(const std::string& path);

}  // namespace fbroker::control
