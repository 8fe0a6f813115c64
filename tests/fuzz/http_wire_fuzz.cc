// The messages of the protocol, as both sides read them.
#include <cstdint>
#include <string>
#include <string_view>

#include "broker/http/router.h"
#include "broker/protocol/wire.h"
#include "broker/protocol/wire_json.h"

using namespace fbroker;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto call = static_cast<protocol::Call>(data[0] % protocol::kCalls);
  if (const auto request = protocol::decode_request(call, text)) {
    // What was understood is written and understood again.
    std::string again;
    protocol::encode_request(again, call, *request);
    const auto back = protocol::decode_request(call, again);
    if (!back || back->file.path != request->file.path || back->to != request->to ||
        back->flags != request->flags || back->target != request->target)
      __builtin_trap();
  }
  (void)protocol::decode_page(text);
  (void)protocol::decode_opened(text);
  (void)protocol::decode_line(text);
  (void)protocol::decode_problem(text);
  (void)broker::find_head(text);
  (void)broker::route_of(broker::Method::get, text);
  (void)broker::parse_range(text, 1000);
  return 0;
}
