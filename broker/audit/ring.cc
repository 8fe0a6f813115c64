#include "broker/audit/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <boost/crc.hpp>
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
constexpr std::uint32_t kSkip = 0x70696b73;   // nothing from here to the ring's end


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
  std::uint32_t reserved;
  Checkpoint checkpoints[2];
};

struct Ring::EntryHeader {
  std::uint64_t sequence;
  std::uint32_t length;                 // of the fields that follow
  std::uint32_t checksum;               // of sequence and fields
  std::atomic<std::uint32_t> state;
  std::uint32_t reserved;

  static std::uint32_t sum(std::uint64_t sequence, std::string_view fields) {
    return checksum_of(fields) ^ static_cast<std::uint32_t>(sequence * 0x9E3779B97F4A7C15u >> 32);
  }
  std::string_view fields() const { return {reinterpret_cast<const char*>(this + 1), length}; }
};

std::uint32_t checksum_of(std::string_view bytes) {
  boost::crc_32_type crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return crc.checksum();
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

// INVARIANT: the tail moves last. Whoever is killed before that has not
//   answered anybody; whoever is killed after has left a whole entry.
bool Ring::push(std::uint64_t sequence, std::string_view fields) {
  const std::size_t need = aligned(sizeof(EntryHeader) + fields.size());
  std::uint64_t position = tail();
  const std::size_t skip = need > room_to_end(position) ? room_to_end(position) : 0;
  if (used() + skip + need > bytes_) return false;
  if (skip >= sizeof(EntryHeader))
    new (at(position)) EntryHeader{0, 0, 0, {kSkip}, 0};
  position += skip;
  auto* const entry = new (at(position)) EntryHeader{
      sequence, static_cast<std::uint32_t>(fields.size()), EntryHeader::sum(sequence, fields), {0}, 0};
  std::memcpy(at(position) + sizeof(EntryHeader), fields.data(), fields.size());
  entry->state.store(kReady, std::memory_order_release);
  header().tail.store(position + need, std::memory_order_release);
  return true;
}

Ring::Entry Ring::next(std::uint64_t& position) const {
  const auto skipped = [&] {
    return room_to_end(position) < sizeof(EntryHeader) ||
           reinterpret_cast<const EntryHeader*>(at(position))->state.load() == kSkip;
  };
  if (skipped()) position += room_to_end(position);
  const auto* const entry = reinterpret_cast<const EntryHeader*>(at(position));
  position += aligned(sizeof(EntryHeader) + entry->length);
  return {entry->sequence, entry->fields()};
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

const Ring::EntryHeader* Ring::valid_entry(std::uint64_t position, std::uint64_t tail) const {
  const std::uint64_t room = std::min<std::uint64_t>(room_to_end(position), tail - position);
  if (room < sizeof(EntryHeader)) return nullptr;
  const auto* const entry = reinterpret_cast<const EntryHeader*>(at(position));
  if (entry->state.load(std::memory_order_acquire) != kReady) return nullptr;
  if (entry->length > room - sizeof(EntryHeader)) return nullptr;
  if (entry->checksum != EntryHeader::sum(entry->sequence, entry->fields())) return nullptr;
  return entry;
}

bool Ring::sane() const noexcept {
  return head() <= tail() && tail() - head() <= bytes_ && ((head() | tail()) & 7) == 0;
}

// After a power loss any page may be old. So no entry is believed without its
// checksum and a growing number; past a bad one we look on, word by word.
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
  while (position < end) {
    if (const EntryHeader* entry = valid_entry(position, end); entry && entry->sequence > last) {
      last = entry->sequence;
      found.entries.emplace_back(last, std::string(entry->fields()));
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
