#include "broker/http/forward.h"

#include <algorithm>
#include <array>
#include <vector>

namespace fbroker::broker {
namespace {

constexpr std::string_view kHttp = "http://";

// What concerns one hop alone.
constexpr std::array<std::string_view, 8> kOneHop{"connection", "proxy-connection", "proxy-authorization",
                                                  "keep-alive", "te", "upgrade", "host", "proxy-authenticate"};

std::string lower_case(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
  return lower;
}

struct Field {
  std::string name;        // lower case
  std::string_view line;   // whole, without the end
  std::string_view value;
};

std::vector<Field> fields_of(std::string_view lines) {
  std::vector<Field> fields;
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find("\r\n"));
    lines.remove_prefix(std::min(lines.size(), line.size() + 2));
    const std::size_t colon = line.find(':');
    if (colon == line.npos) continue;
    fields.push_back({lower_case(line.substr(0, colon)), line, line.substr(colon + 1)});
  }
  return fields;
}

// The names that Connection fields say to be for this hop.
std::vector<std::string> named_by_connection(const std::vector<Field>& fields) {
  std::vector<std::string> names;
  for (const Field& field : fields) {
    if (field.name != "connection" && field.name != "proxy-connection") continue;
    std::string name;
    for (const char c : lower_case(field.value) + ",") {
      if (c == ',') names.push_back(std::exchange(name, {}));
      else if (c != ' ' && c != '\t') name += c;
    }
  }
  return names;
}

}  // namespace

bool is_absolute_form(std::string_view target) noexcept {
  return !target.starts_with('/') && target.find("://") != target.npos;
}

Result<AbsoluteTarget> parse_absolute_form(std::string_view target) {
  if (lower_case(target.substr(0, kHttp.size())) != kHttp)
    return Error{"target", "requests in absolute form are for http:// alone; other protocols use CONNECT host:port"};
  target.remove_prefix(kHttp.size());
  const std::size_t end = std::min(target.find_first_of("/?#"), target.size());
  AbsoluteTarget parsed{std::string(target.substr(0, end)), std::string(target.substr(end))};
  parsed.origin.resize(std::min(parsed.origin.find('#'), parsed.origin.size()));
  if (!parsed.origin.starts_with('/')) parsed.origin.insert(parsed.origin.begin(), '/');
  return parsed;
}

std::string forwarded_head(std::string_view head, const AbsoluteTarget& target) {
  const std::string_view method = head.substr(0, head.find(' '));
  const auto fields = fields_of(head.substr(head.find("\r\n") + 2));
  const auto ours = named_by_connection(fields);
  std::string out(method);
  out += " " + target.origin + " HTTP/1.1\r\nHost: " + target.authority + "\r\n";
  for (const Field& field : fields) {
    if (std::ranges::find(kOneHop, field.name) != kOneHop.end()) continue;
    // Framing is not this hop's alone, whatever Connection says of it.
    const bool frames = field.name == "content-length" || field.name == "transfer-encoding";
    if (!frames && std::ranges::find(ours, field.name) != ours.end()) continue;
    out += field.line;
    out += "\r\n";
  }
  return out + "Connection: close\r\n\r\n";
}

}  // namespace fbroker::broker
