// A journal of the FUSE tables, whatever it holds, is refused or becomes a
// table that holds together. Input: its first byte says whether the rest is a
// window as it lies in a file, or records (kind, number of words, length of
// the text, words, text) that are written properly.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "broker/fuse/handle_table.h"
#include "broker/fuse/inode_table.h"

namespace {

using namespace fbroker::fuse;

std::string file_name() {
  static const std::string name = "/dev/shm/fuse_journal_fuzz." + std::to_string(::getpid());
  static const int registered = std::atexit([] { ::unlink(file_name().c_str()); });
  (void)registered;
  return name;
}

void write_records(Journal& journal, const unsigned char* data, std::size_t size) {
  while (size >= 3) {
    const std::uint8_t kind = data[0];
    const std::size_t words = std::min<std::size_t>(data[1] % (Journal::kMaxWords + 1), (size - 3) / 8);
    const std::size_t text = std::min<std::size_t>(data[2], size - 3 - words * 8);
    std::array<std::uint64_t, Journal::kMaxWords> w{};
    std::memcpy(w.data(), data + 3, words * 8);
    const std::string_view name(reinterpret_cast<const char*>(data) + 3 + words * 8, text);
    if (kind != 0 && kind != 255) {
      switch (words) {
        case 1: journal.append(kind, {w[0]}, name); break;
        case 2: journal.append(kind, {w[0], w[1]}, name); break;
        case 3: journal.append(kind, {w[0], w[1], w[2]}, name); break;
        case 6: journal.append(kind, {w[0], w[1], w[2], w[3], w[4], w[5]}, name); break;
        default: journal.append(kind, {}, name);
      }
    }
    data += 3 + words * 8 + text;
    size -= 3 + words * 8 + text;
  }
}

template <class Table>
void load(JournalOf of, const unsigned char* data, std::size_t size) {
  {
    auto journal = Journal::create(file_name(), of);
    if (!journal) std::abort();
    write_records(**journal, data, size);
  }
  Table table(64);
  const bool believed = table.resume(file_name()).has_value();
  if (!believed && table.size() > 1) std::abort();
  if (table.size() > 64) std::abort();
  if constexpr (std::is_same_v<Table, InodeTable>) {
    for (NodeId id = 1; id < 70; ++id)
      if (const auto view = table.view(id); view && !believed && id != kRootNode) std::abort();
    table.below({}, {}, true);
    (void)table.remember(kRootNode, "a", {}, fbroker::protocol::Lifetime::none);
    table.everything();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size == 0) return 0;
  const unsigned char how = data[0];
  ++data, --size;
  if (how % 3 == 0) {
    std::vector<std::byte> window(Journal::kWindow);
    std::memcpy(window.data(), data, std::min(size, window.size()));
    (void)read_window(window, 0, 0, [](const JournalRecord&) { return true; });
  } else if (how % 3 == 1) {
    load<InodeTable>(JournalOf::nodes, data, size);
  } else {
    load<HandleTable>(JournalOf::handles, data, size);
  }
  return 0;
}
