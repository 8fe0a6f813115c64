// "PATTERN\nPATH": the trie and a walk over the components agree, whatever both hold.
#include <algorithm>
#include <cstdlib>
#include <span>
#include <string_view>

#include "policy/glob.h"
#include "policy/snapshot.h"

namespace {
using namespace fbroker::policy;

// Bounded by the caller: both lists are short.
bool matches(std::span<const GlobComponent> glob, std::string_view path) {
  if (glob.empty()) return true;
  const std::size_t end = std::min(path.find('/'), path.size());
  const std::string_view rest = end < path.size() ? path.substr(end + 1) : "";
  if (glob[0].kind == GlobComponent::Kind::tree)
    return matches(glob.subspan(1), path) || (!path.empty() && matches(glob, rest));
  return !path.empty() && glob[0].matches(path.substr(0, end)) && matches(glob.subspan(1), rest);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), std::min<std::size_t>(size, 512));
  const std::size_t newline = text.find('\n');
  const std::string_view pattern = text.substr(0, newline);
  const auto glob = parse_glob(pattern);
  if (!glob) return 0;
  const auto path = fbroker::WorkspacePath::parse(newline == text.npos ? "/" : text.substr(newline + 1));
  if (!path || glob->components.size() > 8 || std::ranges::count(path->bytes(), '/') > 12) return 0;
  Rule rule;
  rule.id = "r";
  rule.effect = Effect::allow;
  rule.operations = OperationSet::all();
  rule.paths = {std::string(pattern)};
  const auto snapshot = Snapshot::compile({{rule}, {}, 1});
  if (!snapshot) std::abort();  // parse_glob took it
  const bool expected = matches(glob->components, std::string_view(path->bytes()).substr(1));
  if ((*snapshot)->decide(*path).allows(Operation::read) != expected) std::abort();
  return 0;
}
