// What WorkspacePath accepts keeps its shape, through parent and child too.
#include <cstdlib>
#include <string_view>

#include "policy/base/workspace_path.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using fbroker::WorkspacePath;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto path = WorkspacePath::parse(bytes);
  if (!path) return 0;
  const std::string& text = path->bytes();
  if (text != bytes || text.front() != '/' || text.find('\0') != text.npos) std::abort();
  if (text.find("//") != text.npos || text.size() > fbroker::kMaxPathBytes) std::abort();
  if (("/" + text + "/").find("/../") != text.npos || (text + "/").find("/./") != text.npos) std::abort();
  if (path->is_root()) return 0;
  const auto again = path->parent().child(path->name());
  if (!again || *again != *path || !path->is_at_or_below(path->parent())) std::abort();
  return 0;
}
