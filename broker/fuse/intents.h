// Intents: what is being done for the kernel at this moment, in a mapped file,
// so that a killed process's successor knows what became of it.
//
// A slot per serving thread holds the request's `unique` from before it is
// looked at until its answer is with the kernel. Of a changing request it
// holds the answer too, stored before it is sent. The successor has the kernel
// send what is unanswered again (FUSE_NOTIFY_RESEND): a request whose slot
// holds the answer gets that; one that was begun may or may not have been
// carried out, and what operations.cc does with it must hold in both cases.
//
// The file also holds the kernel's INIT: it is sent once, and libfuse wants it
// in each process.
//
// INVARIANT: `state` is stored last; the rest of a slot is read only in the
//   states that say it is there.
// Threads: a slot belongs to the thread that has taken it; take() and
// give_back() from any thread.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "broker/protocol/file_service.h"

namespace fbroker::fuse {

// Set in `unique` of a request that the kernel sends again (Linux 6.9). The
// answer carries it, too.
inline constexpr std::uint64_t kSentAgain = 1ULL << 63;

struct IntentSlot {
  enum State : std::uint32_t { free = 0, begun = 1, done = 2 };
  static constexpr std::size_t kMaxReply = 208;   // CREATE's: header, entry, open = 160
  static constexpr std::uint64_t kNowhere = ~0ULL;

  std::uint32_t state = free;
  std::uint32_t opcode = 0;
  std::uint64_t unique = 0;               // without kSentAgain
  std::int64_t began_ns = 0;              // on the clock that gives files their birth time
  std::uint64_t appends_at = kNowhere;    // chosen by the service before the write
  std::uint64_t handle = 0;               // made for this request
  std::uint32_t made_something = 0;       // `made` is valid
  std::uint32_t reply_bytes = 0;
  protocol::FileIdentity made;
  std::uint64_t reply_sum = 0;
  std::array<std::byte, kMaxReply> reply{};

  // --- By the thread that has it
  void begin(std::uint64_t request, std::uint32_t code) noexcept;
  void note_made(const protocol::FileIdentity&) noexcept;
  // False: it does not fit, and is not kept.
  bool finish(std::span<const std::byte> answer) noexcept;
  void clear() noexcept;
};

class Intents {
 public:
  static constexpr std::size_t kSlots = 64;
  static constexpr std::size_t kMaxInit = 256;

  static Result<std::unique_ptr<Intents>> create(const std::string& path);
  // Refuses what is damaged. What an earlier process left is in left().
  static Result<std::unique_ptr<Intents>> load(const std::string& path);
  ~Intents();
  Intents(const Intents&) = delete;
  Intents& operator=(const Intents&) = delete;

  // Before the kernel is answered.
  void keep_init(std::span<const std::byte> request) noexcept;
  std::span<const std::byte> init() const noexcept;   // empty: none yet

  // A slot that nobody has, for a thread's time; nullptr: there is none.
  IntentSlot* take();
  void give_back(IntentSlot*);

  // What an earlier process left unanswered, perhaps.
  const std::vector<IntentSlot*>& left() const noexcept { return left_; }
  // The slot it left for this request; nullptr: it had not begun it. Once.
  IntentSlot* resume(std::uint64_t unique);
  // All requests are known that will be sent again; the others were answered.
  void drop_left_except(std::span<const std::uint64_t> uniques);

 private:
  struct File;
  Intents() = default;
  Result<void> map(const std::string& path, int fd);

  File* file_ = nullptr;
  std::mutex mutex_;   // guards what follows
  std::vector<IntentSlot*> free_;
  std::vector<IntentSlot*> left_;
};

// What the calling thread serves: its slot (nullptr: none are kept), and
// whether an earlier process had begun the same.
struct Serving {
  IntentSlot* slot = nullptr;
  bool begun_before = false;
  std::vector<std::byte>* swallow = nullptr;   // takes the answer; it is not sent
};
Serving& serving() noexcept;
// An answer is about to be sent: is stored where it belongs. Its length, if it is not to be sent.
std::optional<ssize_t> note_answer(const Serving&, std::span<const iovec> parts);

// Whether a request of this kind changes something.
bool changes_something(std::uint32_t opcode) noexcept;

}  // namespace fbroker::fuse
