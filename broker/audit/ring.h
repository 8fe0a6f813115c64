// Ring: records that were taken over and are not in the log yet, in a mapped
// file. Memory of a file outlives the process that wrote it, so whatever a
// killed broker had taken over its successor finds here. (Not so a power loss:
// nobody waits for these pages to reach the disk.)
//
// The file: one page of header, the fold slots, the ring of entries.
// Invariants
// - head <= tail; both count bytes since the file was made, modulo the ring's
//   size gives the place. [head, tail) is what the log does not hold yet.
// - An entry, a fold slot and a checkpoint become valid by one store that
//   comes last; a process can be killed between any two stores.
// - Whoever reserved an entry fills it without a lock. Until then it stands in
//   the ring with its number and its length: the writer waits for it, and a
//   successor knows it for one whose process was killed before it answered.
// - Space is allocated when the file is made: a full disk cannot turn a store
//   into a SIGBUS.
// Threads: reserve(), push() and fold() are called under one mutex of the
// caller's. Without it: commit(), by whoever reserved; next() and release(), by
// the one writer; what only looks at head and tail, by anybody.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/audit/chain.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::audit {

inline constexpr std::size_t kFoldSlots = 256;
inline constexpr std::size_t kFoldMembers = 2048 - 64;  // bytes of members a slot can hold
inline constexpr std::uint32_t kFoldUsed = 0x646c6f66;

// One refusal that may repeat. In the mapped file: lock-free atomics only.
struct FoldSlot {
  std::atomic<std::uint32_t> used;
  std::uint32_t length;
  std::uint32_t checksum;               // of the members
  std::uint32_t reserved;
  std::atomic<std::uint64_t> repeats;   // not in any record yet
  std::atomic<std::uint64_t> written_as;  // the record that holds them, while it is being made
  std::int64_t first_ns;                // of these repeats, since 1970
  std::atomic<std::int64_t> last_ns;
  std::byte padding[16];
  char members[kFoldMembers];

  std::string_view text() const { return {members, length}; }
};
static_assert(sizeof(FoldSlot) == 2048);

class Ring {
  struct EntryHeader;

 public:
  // What an entry's bytes are: members of a line, or a packed record (encode.h).
  enum class Kind : std::uint32_t { fields = 0, packed = 1 };
  struct Entry {
    std::uint64_t sequence = 0;
    Kind kind = Kind::fields;
    std::string_view bytes;    // in the mapping; valid until release() passes it
  };
  // A reserved entry. Its bytes are the caller's to fill, all of them.
  struct Slot {
    EntryHeader* entry;
    char* bytes;
  };
  struct Pending {             // a repeat that its process could not write any more
    std::size_t slot;
    std::uint64_t repeats, written_as;
    std::int64_t first_ns, last_ns;
    std::string members;
  };
  struct FoundEntry {
    std::uint64_t sequence;
    Kind kind;
    std::string bytes;
    bool finished;             // false: reserved, and its process was killed before commit()
  };
  struct Found {
    std::vector<FoundEntry> entries;
    std::vector<Pending> folds;
    std::string torn;          // bytes that should have been entries or slots and are not
    std::uint64_t torn_pieces = 0;
    ChainHead checkpoint;
  };

  // Opens or makes the file `name` in the directory. Existing contents stay
  // until reset(). Errors: cannot be made, or its size is another's.
  static Result<std::unique_ptr<Ring>> open(int directory, const char* name, std::size_t bytes);
  // What the file at `directory`/`name` says of its chain, without mapping it;
  // sequence 0 when there is no such file or no valid checkpoint.
  static ChainHead read_checkpoint(int directory, const char* name);

  ~Ring();

  // Whatever is there, damaged or not. Never trusts a length.
  Found find() const;
  // Empty, with this checkpoint.
  void reset(const ChainHead& checkpoint);

  // The next entry, to be filled and then committed; none: no room now.
  // Precondition: size <= max_bytes().
  std::optional<Slot> reserve(std::uint64_t sequence, Kind kind, std::size_t size);
  static void commit(const Slot& slot) noexcept;
  // Both at once, of members; nobody ever finds it unfinished. False: no room now.
  bool push(std::uint64_t sequence, std::string_view fields);
  std::size_t max_bytes() const noexcept { return bytes_ / 4; }

  // Whether a broker runs on this ring, or was killed while it did.
  bool in_use() const noexcept;
  void set_in_use(bool in_use) noexcept;

  std::uint64_t head() const noexcept;
  std::uint64_t tail() const noexcept;
  std::size_t used() const noexcept { return static_cast<std::size_t>(tail() - head()); }
  std::size_t capacity() const noexcept { return bytes_; }

  // The entry at `position` and, in `position`, where the next begins; none (and
  // `position` stays): it is not committed yet.
  // Precondition: head() <= position < tail(); reserved or pushed by this object.
  std::optional<Entry> next(std::uint64_t& position) const;
  // Everything before `position` is in the log, which stands at `checkpoint`.
  void release(std::uint64_t position, const ChainHead& checkpoint);

  FoldSlot& fold(std::size_t index) noexcept;

 private:
  struct Header;
  EntryHeader* place(std::size_t need, std::uint64_t& position) noexcept;
  Ring(UniqueFd file, char* map, std::size_t map_bytes, std::size_t bytes);
  Header& header() const noexcept;
  bool sane() const noexcept;
  char* at(std::uint64_t position) const noexcept;
  std::size_t room_to_end(std::uint64_t position) const noexcept;
  const EntryHeader* entry_at(std::uint64_t position, std::uint64_t tail) const;
  void find_entries(Found& found) const;
  void find_folds(Found& found) const;

  UniqueFd file_;
  char* map_;
  std::size_t map_bytes_;
  std::size_t bytes_;
};

std::uint32_t checksum_of(std::string_view bytes);

}  // namespace fbroker::audit
