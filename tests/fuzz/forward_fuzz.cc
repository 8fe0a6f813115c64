// A proxied request's head: what is sent on has one Host, ours, and no line
// that the client did not write.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "broker/http/forward.h"
#include "broker/http/request_parser.h"

using namespace fbroker::broker;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto found = find_head(bytes);
  if (!found || !*found) return 0;
  RequestParser parser;
  const auto head = parser.parse_head(bytes.substr(0, **found));
  if (!head || !is_absolute_form(head->target)) return 0;
  const auto target = parse_absolute_form(head->target);
  if (!target) return 0;
  const std::string sent = forwarded_head(bytes.substr(0, **found), *target);
  const auto again = find_head(sent);
  if (!again || !*again || **again != sent.size()) std::abort();
  RequestParser strict;
  const auto read = strict.parse_head(sent);
  // A target with a space or the like is the server's to refuse, not to split.
  if (read && (read->target != target->origin || read->framing != head->framing || read->length != head->length)) std::abort();
  return 0;
}
