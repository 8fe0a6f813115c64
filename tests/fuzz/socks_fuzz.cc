// What a client may say to the relay: no bytes of its own reach the CONNECT line
// but a name's, and nothing is read beyond what is there.
#include <cstdlib>
#include <string>
#include <string_view>

#include "shim/relay/http.h"
#include "shim/relay/socks.h"

namespace {

constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-%";

void check(bool holds) {
  if (!holds) std::abort();
}

void check_authority(const std::string& authority) {
  const std::size_t colon = authority.rfind(':');
  check(colon != authority.npos && colon > 0);
  const std::string_view port = std::string_view(authority).substr(colon + 1);
  check(!port.empty() && port.size() <= 5 && port.find_first_not_of("0123456789") == port.npos);
  std::string_view host = std::string_view(authority).substr(0, colon);
  if (!host.starts_with('[')) return check(host.find_first_not_of(kPlain) == host.npos);
  check(host.ends_with(']'));
  host = host.substr(1, host.size() - 2);
  check(!host.empty() && host.find_first_not_of("0123456789abcdef:.") == host.npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace fbroker::relay;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto greeting = read_greeting(bytes); greeting && *greeting) check((*greeting)->size <= size);
  const auto request = read_request(bytes);
  if (request && !*request) check(size < kMaxSocksBytes);
  if (request && *request) {
    check((*request)->size <= size && (*request)->size <= kMaxSocksBytes);
    check_authority((*request)->authority);
  }
  (void)reply_for(bytes);
  if (check_request_line(bytes)) {
    check(bytes.find_first_of("\r\n") == bytes.npos && bytes.find('\0') == bytes.npos);
    check(bytes.starts_with("CONNECT ") || bytes.find("://") != bytes.npos);
  }
  return 0;
}
