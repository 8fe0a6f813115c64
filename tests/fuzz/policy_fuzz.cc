// Any text is a policy or a list of diagnostics; a policy compiles or says why.
#include <cstdlib>
#include <string_view>

#include "policy/lint.h"
#include "policy/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace fbroker::policy;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto policy = parse_policy(text, "fuzz", kMaxUserPolicyBytes);
  if (!policy) {
    if (policy.error().empty()) std::abort();  // refused without a reason
    for (const Diagnostic& d : policy.error())
      if (d.line < 1 || d.column < 1 || d.text().empty()) std::abort();
    return 0;
  }
  (void)lint(*policy);
  const auto snapshot = Snapshot::compile({policy->rules, {}, 1});
  if (snapshot) (void)(*snapshot)->decide(fbroker::WorkspacePath());
  return 0;
}
