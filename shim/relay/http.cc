#include "shim/relay/http.h"

#include <algorithm>

namespace fbroker::relay {
namespace {

bool is_visible(char c) { return c > ' ' && c < 0x7f; }

// The broker takes http:// alone; its refusal of others is on the record.
bool is_absolute(std::string_view target) { return target.front() != '/' && target.find("://") != target.npos; }

std::string refusal() {
  return http_answer("400 Bad Request", "this is a proxy: CONNECT host:port, or METHOD http://host/…");
}

}  // namespace

Result<void, std::string> check_request_line(std::string_view line) {
  const std::size_t first = line.find(' ');
  const std::size_t last = line.rfind(' ');
  if (first == line.npos || first == 0 || last == first) return refusal();
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return refusal();
  if (!std::all_of(method.begin(), method.end(), is_visible)) return refusal();
  if (target.empty() || !std::all_of(target.begin(), target.end(), is_visible)) return refusal();
  if (method == "CONNECT" ? target.front() == '/' : !is_absolute(target)) return refusal();
  return ok;
}

std::string http_answer(std::string_view status, std::string_view text) {
  return "HTTP/1.1 " + std::string(status) + "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: " +
         std::to_string(text.size() + 1) + "\r\nConnection: close\r\n\r\n" + std::string(text) + "\n";
}

}  // namespace fbroker::relay
