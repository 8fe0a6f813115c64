// Journal: what a table holds, in a file, so that the process can be killed at
// any moment and its successor has the table again.
//
// Append-only, in a shared mapping: an append costs about a memcpy, and what
// is in the mapping survives SIGKILL (a power loss would end the kernel's
// state as well, so nothing is synced). The file is allocated in windows and
// only the one being written is mapped, so it takes no memory of the process.
//
// Layout, in 64-bit words of this machine: a header, then records. A record is
// its head word, up to eight words, and a text padded with zeros; it lies in
// one window.
//
// INVARIANT: a record's head word is stored last. A process killed in the
//   middle of an append leaves a zero there, and the tail is no record.
// INVARIANT: the header says how far the records go, stored after each one. A
//   file that ends earlier was cut or edited, and is refused.
// INVARIANT: one good file is under the name at any moment. compact() writes
//   another one beside it and renames it over the first.
// Threads: the owner's lock guards all members.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::fuse {

// Which table a file is of. A file of one kind is refused by the other.
enum class JournalOf : std::uint32_t { nodes = 1, handles = 2 };

// What a kind means is its table's business. 0 and 255 are the journal's own.
struct JournalRecord {
  std::uint8_t kind = 0;
  std::span<const std::uint64_t> words;
  std::string_view text;
};

class Journal {
 public:
  static constexpr std::size_t kWindow = 256 * 1024;
  static constexpr std::size_t kMaxWords = 8;
  static constexpr std::size_t kMaxText = 8 * 1024;
  static constexpr std::uint64_t kMaxFile = 64ULL << 30;   // refused when larger

  // False: the record makes no sense to the table.
  using Replay = std::function<bool(const JournalRecord&)>;

  // A new file, mode 0600, in place of one that may be there.
  static Result<std::unique_ptr<Journal>> create(const std::string& path, JournalOf of);
  // Reads all records to `replay` and goes on behind the last one. Errors say
  // what is wrong with the file.
  static Result<std::unique_ptr<Journal>> load(const std::string& path, JournalOf of, const Replay& replay);

  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // Precondition: the limits above. Where no space is left the file is marked
  // as given up, and a successor refuses it.
  void append(std::uint8_t kind, std::initializer_list<std::uint64_t> words, std::string_view text = {}) noexcept;

  // More than about twice what is live.
  bool wants_compaction() const noexcept { return position_ > compact_at_ && !given_up_; }
  // `write_live` appends all that is live to the journal that it is given.
  void compact(const std::function<void(Journal&)>& write_live);

  bool given_up() const noexcept { return given_up_; }
  std::uint64_t bytes() const noexcept { return position_; }

 private:
  Journal(std::string path, JournalOf of) : path_(std::move(path)), of_(of) {}
  Result<void> start(const std::string& path);
  Result<void> read(const Replay& replay);
  bool map_window(std::uint64_t start);
  void give_up() noexcept;

  std::string path_;
  JournalOf of_;
  UniqueFd file_;
  std::uint64_t* header_ = nullptr;   // the first page
  std::byte* window_ = nullptr;       // what is written to now
  std::uint64_t window_start_ = 0;
  std::uint64_t position_ = 0;        // where the next record goes
  std::uint64_t compact_at_ = 0;
  std::uint64_t salt_ = 0;            // of this file: a record of another one does not fit in
  bool given_up_ = false;
};

// One window's records, from `position` (a position in the file) on. Returns
// where they end: inside it, or at its end where the next window goes on.
// `bytes` is the whole window. Safe for any bytes.
struct WindowEnd {
  std::uint64_t position = 0;
  bool goes_on = false;
};
Result<WindowEnd> read_window(std::span<const std::byte> bytes, std::uint64_t position, std::uint64_t salt,
                              const Journal::Replay& replay);

}  // namespace fbroker::fuse
