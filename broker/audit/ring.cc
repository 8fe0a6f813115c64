#include "broker/audit/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <zlib.h>

#include <bit>
#include <cstring>
#include <new>
#include <type_traits>

namespace fbroker::audit {

namespace {

constexpr std::size_t kHeaderBytes = 4096;
constexpr std::size_t kEntriesAt = kHeaderBytes + kFoldSlots * sizeof(FoldSlot);
constexpr std::uint64_t kMagic = 0x3130676e69726266;   // "fbring01"
constexpr std::uint32_t kReady = 0x79646572;
constexpr std::uint32_t kReserved = 0x64767372;
constexpr std::uint32_t kSkip = 0x70696b73;   // nothing from here to the ring's end
constexpr std::uint32_t kInUse = 0x65737569;

struct Checkpoint {
  std::uint64_t sequence;
  HashText hash;
  std::uint32_t checksum;

  std::uint32_t expected() const {
    return checksum_of(std::string(text_of(hash)) + std::to_string(sequence));
  }
  bool valid() const { return checksum == expected() && parse_hash(text_of(hash)); }
};

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 7) & ~std::size_t{7}; }

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace

struct Ring::Header {
  std::atomic<std::uint64_t> magic;
  std::uint64_t bytes;
  std::atomic<std::uint64_t> head;
  std::atomic<std::uint64_t> tail;
  std::atomic<std::uint32_t> current;   // which of the checkpoints is whole
  std::atomic<std::uint32_t> in_use;    // 0 in a ring of before there was such a mark
  Checkpoint checkpoints[2];
};

struct Ring::EntryHeader {
  std::uint64_t sequence;
  std::uint32_t length;                 // of the bytes that follow
  std::uint32_t checksum;               // of all but state
  std::atomic<std::uint32_t> state;
  Kind kind;

  std::uint32_t sum() const noexcept {
    const std::uint64_t mixed = (sequence + static_cast<std::uint64_t>(kind)) * 0x9E3779B97F4A7C15u;
    return checksum_of(bytes()) ^ static_cast<std::uint32_t>(mixed >> 32);
  }
  std::string_view bytes() const noexcept { return {reinterpret_cast<const char*>(this + 1), length}; }
  char* begin() noexcept { return reinterpret_cast<char*>(this + 1); }
};

std::uint32_t checksum_of(std::string_view bytes) {
  return static_cast<std::uint32_t>(
      ::crc32_z(0, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

Result<std::unique_ptr<Ring>> Ring::open(int directory, const char* name, std::size_t bytes) {
  static_assert(sizeof(Header) <= kHeaderBytes && sizeof(EntryHeader) == 24);
  const auto failed = [&](const char* step) {
    return Error{name, std::string(step) + ": " + std::strerror(errno)};
  };
  if (!std::has_single_bit(bytes) || bytes < (64u << 10) || bytes > (1u << 30))
    return Error{name, "the ring's size must be a power of two from 64 KiB to 1 GiB"};
  UniqueFd file(::openat(directory, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return failed("cannot be opened");
  struct stat st {};
  if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) return failed("is not a regular file");

  // A predecessor may have been set up with another size: its file stays as it is.
  if (st.st_size > 0) {
    std::uint64_t words[2] = {};
    if (::pread(file.get(), words, sizeof words, 0) == sizeof words &&
        words[0] == kMagic && std::has_single_bit(words[1]) &&
        words[1] >= (64u << 10) && words[1] <= (1u << 30) &&
        static_cast<std::uint64_t>(st.st_size) == kEntriesAt + words[1])
      bytes = static_cast<std::size_t>(words[1]);
    else if (static_cast<std::size_t>(st.st_size) < sizeof words || words[0] != 0)
      return Error{name, "is not a ring of this version; move it away to start without it"};
  }
  const std::size_t map_bytes = kEntriesAt + bytes;
  if (const int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(map_bytes)); error != 0) {
    errno = error;
    return failed("no room on the disk");
  }
  void* const map =
      ::mmap(nullptr, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (map == MAP_FAILED) return failed("cannot be mapped");
  std::unique_ptr<Ring> ring(
      new Ring(std::move(file), static_cast<char*>(map), map_bytes, bytes));
  if (ring->header().magic.load() != kMagic) ring->reset({});
  return ring;
}

ChainHead Ring::read_checkpoint(int directory, const char* name) {
  const UniqueFd file(::openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  alignas(Header) char page[sizeof(Header)];
  // A live broker may be writing one of the two just now: look again.
  for (int attempt = 0; file && attempt < 8; ++attempt) {
    if (::pread(file.get(), page, sizeof page, 0) != static_cast<ssize_t>(sizeof page)) break;
    const auto& header = *reinterpret_cast<const Header*>(page);
    if (header.magic.load() != kMagic) break;
    const Checkpoint& checkpoint = header.checkpoints[header.current.load() & 1];
    if (checkpoint.valid()) return {checkpoint.sequence, checkpoint.hash};
  }
  return {};
}

Ring::Ring(UniqueFd file, char* map, std::size_t map_bytes, std::size_t bytes)
    : file_(std::move(file)), map_(map), map_bytes_(map_bytes), bytes_(bytes) {}

Ring::~Ring() { ::munmap(map_, map_bytes_); }

Ring::Header& Ring::header() const noexcept { return *reinterpret_cast<Header*>(map_); }

char* Ring::at(std::uint64_t position) const noexcept {
  return map_ + kEntriesAt + (position & (bytes_ - 1));
}

std::size_t Ring::room_to_end(std::uint64_t position) const noexcept {
  return bytes_ - static_cast<std::size_t>(position & (bytes_ - 1));
}

std::uint64_t Ring::head() const noexcept { return header().head.load(std::memory_order_acquire); }
std::uint64_t Ring::tail() const noexcept { return header().tail.load(std::memory_order_acquire); }

FoldSlot& Ring::fold(std::size_t index) noexcept {
  return reinterpret_cast<FoldSlot*>(map_ + kHeaderBytes)[index];
}

void Ring::reset(const ChainHead& checkpoint) {
  Header& h = header();
  if (!sane()) {
    h.tail.store(0);
    h.head.store(0);
  }
  release(h.tail.load(), checkpoint);
  for (std::size_t i = 0; i < kFoldSlots; ++i) fold(i).used.store(0);
  h.bytes = bytes_;
  h.magic.store(kMagic, std::memory_order_release);   // last: now it is a ring
}

bool Ring::in_use() const noexcept { return header().in_use.load() == kInUse; }
void Ring::set_in_use(bool in_use) noexcept { header().in_use.store(in_use ? kInUse : 0); }

// Where an entry of `need` bytes begins, and its position; nullptr: no room.
Ring::EntryHeader* Ring::place(std::size_t need, std::uint64_t& position) noexcept {
  position = tail();
  const std::size_t skip = need > room_to_end(position) ? room_to_end(position) : 0;
  if (used() + skip + need > bytes_) return nullptr;
  if (skip >= sizeof(EntryHeader))
    new (at(position)) EntryHeader{0, 0, 0, {kSkip}, Kind::fields};
  position += skip;
  return reinterpret_cast<EntryHeader*>(at(position));
}

// INVARIANT: the tail moves after the number and the length are there, and the
//   state last of all. So whatever lies before the tail can be walked, and who
//   is killed before the state has not answered anybody.
std::optional<Ring::Slot> Ring::reserve(std::uint64_t sequence, Kind kind, std::size_t size) {
  std::uint64_t position = 0;
  const std::size_t need = aligned(sizeof(EntryHeader) + size);
  EntryHeader* entry = place(need, position);
  if (entry == nullptr) return std::nullopt;
  entry = new (entry) EntryHeader{sequence, static_cast<std::uint32_t>(size), 0, {kReserved}, kind};
  header().tail.store(position + need, std::memory_order_release);
  return Slot{entry, entry->begin()};
}

void Ring::commit(const Slot& slot) noexcept {
  slot.entry->checksum = slot.entry->sum();
  slot.entry->state.store(kReady, std::memory_order_release);
}

bool Ring::push(std::uint64_t sequence, std::string_view fields) {
  std::uint64_t position = 0;
  const std::size_t need = aligned(sizeof(EntryHeader) + fields.size());
  EntryHeader* entry = place(need, position);
  if (entry == nullptr) return false;
  entry = new (entry)
      EntryHeader{sequence, static_cast<std::uint32_t>(fields.size()), 0, {kReserved}, Kind::fields};
  std::memcpy(entry->begin(), fields.data(), fields.size());
  commit({entry, entry->begin()});
  header().tail.store(position + need, std::memory_order_release);
  return true;
}

std::optional<Ring::Entry> Ring::next(std::uint64_t& position) const {
  std::uint64_t from = position;
  const auto state_at = [&] { return reinterpret_cast<const EntryHeader*>(at(from))->state.load(std::memory_order_acquire); };
  if (room_to_end(from) < sizeof(EntryHeader) || state_at() == kSkip) from += room_to_end(from);
  if (state_at() != kReady) return std::nullopt;
  const auto* const entry = reinterpret_cast<const EntryHeader*>(at(from));
  position = from + aligned(sizeof(EntryHeader) + entry->length);
  return Entry{entry->sequence, entry->kind, entry->bytes()};
}

void Ring::release(std::uint64_t position, const ChainHead& checkpoint) {
  Header& h = header();
  const std::uint32_t other = 1 - (h.current.load() & 1);
  Checkpoint& c = h.checkpoints[other];
  c = {checkpoint.sequence, checkpoint.hash, 0};
  c.checksum = c.expected();
  h.current.store(other, std::memory_order_release);
  h.head.store(position, std::memory_order_release);
}

Ring::Found Ring::find() const {
  Found found;
  const Header& h = header();
  if (const Checkpoint& c = h.checkpoints[h.current.load() & 1]; c.valid())
    found.checkpoint = {c.sequence, c.hash};
  find_entries(found);
  find_folds(found);
  return found;
}

// Whole, or reserved and never finished; nullptr: neither.
const Ring::EntryHeader* Ring::entry_at(std::uint64_t position, std::uint64_t tail) const {
  const std::uint64_t room = std::min<std::uint64_t>(room_to_end(position), tail - position);
  if (room < sizeof(EntryHeader)) return nullptr;
  const auto* const entry = reinterpret_cast<const EntryHeader*>(at(position));
  const std::uint32_t state = entry->state.load(std::memory_order_acquire);
  if (entry->length > room - sizeof(EntryHeader)) return nullptr;
  if (entry->kind != Kind::fields && entry->kind != Kind::packed) return nullptr;
  if (state == kReserved) return entry;
  return state == kReady && entry->checksum == entry->sum() ? entry : nullptr;
}

bool Ring::sane() const noexcept {
  return head() <= tail() && tail() - head() <= bytes_ && ((head() | tail()) & 7) == 0;
}

// After a power loss any page may be old. So no entry is believed without its
// checksum and a growing number, and none to be unfinished but where the next
// number is due; past a bad one we look on, word by word.
void Ring::find_entries(Found& found) const {
  std::uint64_t position = head();
  const std::uint64_t end = tail();
  if (!sane()) {
    found.torn.append(map_ + kEntriesAt, bytes_);
    ++found.torn_pieces;
    return;
  }
  std::uint64_t last = 0;
  bool in_torn_piece = false;
  const auto due = [&](std::uint64_t number) { return last == 0 ? number > 0 : number == last + 1; };
  while (position < end) {
    const EntryHeader* const entry = entry_at(position, end);
    const bool finished = entry && entry->state.load() == kReady;
    if (entry && (finished ? entry->sequence > last : !in_torn_piece && due(entry->sequence))) {
      last = entry->sequence;
      found.entries.push_back({last, entry->kind, finished ? std::string(entry->bytes()) : "", finished});
      position += aligned(sizeof(EntryHeader) + entry->length);
      in_torn_piece = false;
      continue;
    }
    const std::size_t room = room_to_end(position);
    const bool skip = room < sizeof(EntryHeader) ||
                      reinterpret_cast<const EntryHeader*>(at(position))->state.load() == kSkip;
    if (skip && !in_torn_piece) {
      position += room;
      continue;
    }
    if (!in_torn_piece) ++found.torn_pieces;
    in_torn_piece = true;
    found.torn.append(at(position), 8);
    position += 8;
  }
}

void Ring::find_folds(Found& found) const {
  for (std::size_t i = 0; i < kFoldSlots; ++i) {
    const FoldSlot& slot = const_cast<Ring*>(this)->fold(i);
    if (slot.used.load(std::memory_order_acquire) == 0 || slot.repeats.load() == 0) continue;
    const bool whole = slot.used.load() == kFoldUsed && slot.length <= kFoldMembers &&
                       slot.checksum == checksum_of(slot.text());
    if (whole) {
      found.folds.push_back({i, slot.repeats.load(), slot.written_as.load(), slot.first_ns,
                             slot.last_ns.load(), std::string(slot.text())});
    } else {
      found.torn.append(reinterpret_cast<const char*>(&slot), sizeof slot);
      ++found.torn_pieces;
    }
  }
}

}  // namespace fbroker::audit
