#include "broker/http/problem.h"

#include <array>
#include <cstdlib>
#include <cstring>

#include "broker/protocol/errno_names.h"
#include "broker/protocol/wire_json.h"

namespace fbroker::broker {

namespace {

struct StatusOfErrno {
  int error;
  unsigned status;
};
// What is not listed is 500.
constexpr std::array kStatusOfErrno{
    StatusOfErrno{ENOENT, 404},   StatusOfErrno{EACCES, 403},     StatusOfErrno{EPERM, 403},
    StatusOfErrno{EROFS, 403},    StatusOfErrno{EINVAL, 400},     StatusOfErrno{ENAMETOOLONG, 400},
    StatusOfErrno{EBADF, 404},    StatusOfErrno{ESTALE, 410},     StatusOfErrno{EEXIST, 409},
    StatusOfErrno{ENOTDIR, 409},  StatusOfErrno{EISDIR, 409},     StatusOfErrno{ELOOP, 409},
    StatusOfErrno{ENOTEMPTY, 409}, StatusOfErrno{EXDEV, 409},     StatusOfErrno{EBUSY, 409},
    StatusOfErrno{ETXTBSY, 409},  StatusOfErrno{EMLINK, 409},     StatusOfErrno{EFBIG, 413},
    StatusOfErrno{ENOSPC, 507},   StatusOfErrno{EDQUOT, 507},     StatusOfErrno{EMFILE, 503},
    StatusOfErrno{ENFILE, 503},   StatusOfErrno{EAGAIN, 503},     StatusOfErrno{EOPNOTSUPP, 501},
    StatusOfErrno{ENOSYS, 501},
};

constexpr std::array<std::string_view, 25> kStatusLines{
    "100 Continue", "200 OK", "201 Created", "204 No Content", "206 Partial Content",
    "400 Bad Request", "403 Forbidden", "404 Not Found", "405 Method Not Allowed",
    "408 Request Timeout", "409 Conflict", "410 Gone", "411 Length Required",
    "413 Content Too Large", "414 URI Too Long", "415 Unsupported Media Type",
    "416 Range Not Satisfiable", "417 Expectation Failed",
    "431 Request Header Fields Too Large", "500 Internal Server Error", "501 Not Implemented",
    "502 Bad Gateway", "503 Service Unavailable", "505 HTTP Version Not Supported", "507 Insufficient Storage",
};

}  // namespace

std::string_view status_line_of(unsigned status) noexcept {
  for (const std::string_view line : kStatusLines)
    if (std::strtoul(line.data(), nullptr, 10) == status) return line;
  return "500 Internal Server Error";
}

Problem problem_of(Errno error) {
  Problem problem;
  for (const StatusOfErrno& known : kStatusOfErrno)
    if (known.error == error.value) problem.status = known.status;
  problem.error = protocol::name_of(error);
  const char* words = strerrordesc_np(error.value);
  problem.title = words != nullptr ? words : "Input/output error";
  return problem;
}

Problem bad_request(std::string detail) {
  Problem problem;
  problem.status = 400;
  problem.title = "Bad request";
  problem.detail = std::move(detail);
  return problem;
}

void append_problem(std::string& out, const Problem& problem) {
  const auto text = [&](std::string_view key, std::string_view value) {
    if (value.empty()) return;
    out += key;
    // Fields and details may quote what the client sent, which need not be text.
    protocol::append_bytes(out, value);
  };
  out += "{\"type\":\"about:blank\",\"status\":";
  protocol::append_number(out, problem.status);
  text(",\"title\":", problem.title);
  text(",\"detail\":", problem.detail);
  text(",\"errno\":", problem.error);
  text(",\"field\":", problem.field);
  text(",\"rule\":", problem.rule);
  if (problem.askable) out += *problem.askable ? ",\"askable\":true" : ",\"askable\":false";
  out += "}";
}

std::string problem_text(const Problem& problem) {
  std::string out;
  append_problem(out, problem);
  return out;
}

}  // namespace fbroker::broker
