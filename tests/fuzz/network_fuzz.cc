// Host names, endpoints and patterns from an agent's bytes: what is taken has
// one spelling, which reads back as itself.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "policy/network.h"

using namespace fbroker::policy;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto host = Host::parse(text)) {
    const auto again = Host::parse(host->text());
    if (!again || !(*again == *host)) std::abort();
    if (host->is_name() && host->text().find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-") != std::string::npos) std::abort();
  }
  if (const auto endpoint = Endpoint::parse(text)) {
    const auto again = Endpoint::parse(endpoint->text());
    if (!again || !(*again == *endpoint)) std::abort();
  }
  if (const auto pattern = HostPattern::parse(text)) {
    const auto again = HostPattern::parse(pattern->text());
    if (!again || !(*again == *pattern) || !pattern->covers(*again) || !pattern->meets(*again)) std::abort();
    if (pattern->host.address() && !pattern->host.address()->is_public()) std::abort();
  }
  return 0;
}
