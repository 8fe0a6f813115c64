#include "broker/http/router.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace fbroker::broker {

namespace {

struct Fixed {
  std::string_view target;
  Method method;
  RouteKind kind;
  Body body;
};
constexpr std::array kFixed{
    Fixed{"/v1/session", Method::get, RouteKind::session, Body::none},
    Fixed{"/v1/files", Method::get, RouteKind::file_read, Body::none},
    Fixed{"/v1/files", Method::put, RouteKind::file_write, Body::stream},
    Fixed{"/v1/list", Method::get, RouteKind::list, Body::none},
    Fixed{"/v1/events", Method::get, RouteKind::events, Body::none},
    Fixed{"/v1/events/ack", Method::post, RouteKind::event_ack, Body::json},
    Fixed{"/v1/device", Method::get, RouteKind::device, Body::none},
};

constexpr std::string_view kHandles = "/v1/handles/", kData = "/data", kVersion = "/v1/";
constexpr std::size_t kMaxParameters = 8;

Problem not_found() {
  Problem problem;
  problem.status = 404;
  problem.title = "No such route";
  return problem;
}

Problem wrong_method(std::string_view allowed) {
  Problem problem;
  problem.status = 405;
  problem.title = "Method not allowed";
  problem.detail = "expected " + std::string(allowed);
  return problem;
}

std::optional<unsigned> hex(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
  return std::nullopt;
}

std::optional<std::string> percent_decode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (text.size() - i < 3) return std::nullopt;
    const auto high = hex(text[i + 1]), low = hex(text[i + 2]);
    if (!high || !low) return std::nullopt;
    out += static_cast<char>(*high << 4 | *low);
    i += 2;
  }
  return out;
}

std::optional<std::uint64_t> decimal(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty() ||
      number > std::numeric_limits<std::int64_t>::max())
    return std::nullopt;
  return number;
}

Result<Route, Problem> handle_route(Method method, std::string_view path) {
  Route route;
  route.handle = path.substr(kHandles.size(), path.size() - kHandles.size() - kData.size());
  if (route.handle.find('/') != std::string::npos) return not_found();
  if (method == Method::get) return route.kind = RouteKind::handle_read, route;
  if (method != Method::put) return wrong_method("GET or PUT");
  route.kind = RouteKind::handle_write;
  route.body = Body::stream;
  return route;
}

Result<Route, Problem> path_route(Method method, std::string_view path) {
  std::string_view allowed;
  for (const Fixed& fixed : kFixed) {
    if (fixed.target != path) continue;
    if (fixed.method == method) {
      Route route;
      route.kind = fixed.kind;
      route.body = fixed.body;
      return route;
    }
    allowed = fixed.method == Method::get ? "GET" : "POST";
  }
  if (path == "/v1/files") allowed = "GET or PUT";
  if (!allowed.empty()) return wrong_method(allowed);
  if (path.starts_with(kHandles) && path.ends_with(kData) &&
      path.size() > kHandles.size() + kData.size())
    return handle_route(method, path);
  if (!path.starts_with(kVersion)) return not_found();
  const auto call = protocol::call_named(path.substr(kVersion.size()));
  if (!call) return not_found();
  if (method != Method::post) return wrong_method("POST");
  Route route;
  route.kind = RouteKind::call;
  route.body = Body::json;
  route.call = *call;
  return route;
}

Problem unsatisfiable() {
  Problem problem;
  problem.status = 416;
  problem.title = "Range not satisfiable";
  return problem;
}

}  // namespace

Result<Query, Problem> Query::parse(std::string_view text) {
  Query query;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find('&'));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    const std::size_t equals = std::min(part.find('='), part.size());
    auto name = percent_decode(part.substr(0, equals));
    auto value = percent_decode(part.substr(std::min(equals + 1, part.size())));
    if (!name || !value || name->empty()) return bad_request("malformed query");
    if (query.parameters_.size() == kMaxParameters) return bad_request("too many parameters");
    for (const auto& [known, ignored] : query.parameters_)
      if (known == *name) return bad_request("parameter given twice: " + *name);
    query.parameters_.emplace_back(std::move(*name), std::move(*value));
  }
  return query;
}

std::optional<std::string> Query::take(std::string_view name) {
  for (auto at = parameters_.begin(); at != parameters_.end(); ++at) {
    if (at->first != name) continue;
    std::string value = std::move(at->second);
    parameters_.erase(at);
    return value;
  }
  return std::nullopt;
}

Result<std::uint64_t, Problem> Query::number(std::string_view name, std::uint64_t missing) {
  const auto text = take(name);
  if (!text) return missing;
  if (const auto number = decimal(*text)) return *number;
  return bad_request("parameter " + std::string(name) + ": expected an integer from 0 to 2^63-1");
}

Result<void, Problem> Query::finish() const {
  if (parameters_.empty()) return ok;
  return bad_request("unknown parameter: " + parameters_.front().first);
}

Result<Route, Problem> route_of(Method method, std::string_view target) {
  const std::size_t mark = std::min(target.find('?'), target.size());
  FBROKER_TRY(Route route, path_route(method, target.substr(0, mark)));
  FBROKER_TRY(route.query, Query::parse(target.substr(std::min(mark + 1, target.size()))));
  return route;
}

Result<ByteRange, Problem> parse_range(std::string_view text, std::uint64_t size) {
  constexpr std::string_view kUnit = "bytes=";
  const std::size_t dash = text.find('-');
  if (!text.starts_with(kUnit) || dash == text.npos) return bad_request("Range: expected bytes=A-B");
  const std::string_view from = text.substr(kUnit.size(), dash - kUnit.size());
  const std::string_view until = text.substr(dash + 1);
  if (from.empty()) {  // the last N bytes
    const auto count = decimal(until);
    if (!count) return bad_request("Range: expected bytes=-N");
    if (*count == 0 || size == 0) return unsatisfiable();
    const std::uint64_t length = std::min(*count, size);
    return ByteRange{size - length, length};
  }
  const auto first = decimal(from);
  const auto last = until.empty() ? std::optional<std::uint64_t>(size) : decimal(until);
  if (!first || !last || (!until.empty() && *last < *first))
    return bad_request("Range: expected bytes=A-B");
  if (*first >= size) return unsatisfiable();
  return ByteRange{*first, std::min(*last, size - 1) - *first + 1};
}

}  // namespace fbroker::broker
