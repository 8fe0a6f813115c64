// Router: which route a request means. Pure: text in, a Route or a Problem out.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/http/problem.h"
#include "broker/http/request_parser.h"
#include "broker/protocol/wire.h"

namespace fbroker::broker {

// The part of a target behind '?', decoded. Each parameter is taken by name;
// what nobody took is refused, as is one that is given twice.
class Query {
 public:
  static Result<Query, Problem> parse(std::string_view text);

  std::optional<std::string> take(std::string_view name);
  // A decimal number; `missing` when it is not there.
  Result<std::uint64_t, Problem> number(std::string_view name, std::uint64_t missing);
  Result<void, Problem> finish() const;

 private:
  std::vector<std::pair<std::string, std::string>> parameters_;
};

enum class RouteKind : std::uint8_t {
  session,       // GET  /v1/session
  call,          // POST /v1/NAME
  handle_read,   // GET  /v1/handles/ID/data
  handle_write,  // PUT  /v1/handles/ID/data
  file_read,     // GET  /v1/files?path=
  file_write,    // PUT  /v1/files?path=
  list,          // GET  /v1/list?path=
  events,        // GET  /v1/events
  event_ack,     // POST /v1/events/ack
  device,        // GET  /v1/device, an upgrade
};

// What may follow the head.
enum class Body : std::uint8_t { none, json, stream };

struct Route {
  RouteKind kind = RouteKind::session;
  Body body = Body::none;
  protocol::Call call = protocol::Call::lookup;   // of RouteKind::call
  std::string handle;                             // of handle_*: as text
  Query query;
};

// Errors: 404 for an unknown target, 405 for another method on a known one.
Result<Route, Problem> route_of(Method method, std::string_view target);

// "bytes=A-B", "bytes=A-" or "bytes=-N" (RFC 9110 section 14.1.2); one range.
struct ByteRange {
  std::uint64_t first = 0;
  std::uint64_t length = 0;
};
// Errors: 416 when nothing of it lies within `size`; 400 for another shape.
Result<ByteRange, Problem> parse_range(std::string_view text, std::uint64_t size);

}  // namespace fbroker::broker
