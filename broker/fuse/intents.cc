#include "broker/fuse/intents.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>

namespace fbroker::fuse {

namespace {

constexpr std::uint64_t kMagicWord = 0x746e746e696b7266;
constexpr std::uint32_t kVersion = 1;

std::uint64_t sum_of(std::span<const std::byte> bytes, std::uint64_t sum) noexcept {
  for (const std::byte byte : bytes) sum = (sum ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3ULL;
  return sum;
}

void store(std::uint32_t& word, std::uint32_t value) noexcept {
  std::atomic_ref(word).store(value, std::memory_order_release);
}

}  // namespace

struct Intents::File {
  std::uint64_t magic = kMagicWord;
  std::uint32_t version = kVersion;
  std::uint32_t init_bytes = 0;
  std::uint64_t init_sum = 0;
  std::array<std::byte, kMaxInit> init{};
  std::array<IntentSlot, kSlots> slots{};
};

// ---- a slot

void IntentSlot::begin(std::uint64_t request, std::uint32_t code) noexcept {
  unique = request;
  opcode = code;
  appends_at = kNowhere;
  handle = 0;
  made_something = 0;
  if (changes_something(code)) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    began_ns = static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
  }
  store(state, begun);
}

void IntentSlot::note_made(const protocol::FileIdentity& identity) noexcept {
  made = identity;
  store(made_something, 1);
}

bool IntentSlot::finish(std::span<const std::byte> answer) noexcept {
  if (answer.size() > reply.size()) return false;
  std::memcpy(reply.data(), answer.data(), answer.size());
  reply_bytes = static_cast<std::uint32_t>(answer.size());
  reply_sum = sum_of(answer, unique);
  store(state, done);
  return true;
}

void IntentSlot::clear() noexcept { store(state, free); }

bool changes_something(std::uint32_t opcode) noexcept {
  switch (opcode) {
    case FUSE_SETATTR:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_OPEN:      // O_TRUNC, and a handle either way
    case FUSE_OPENDIR:
    case FUSE_CREATE:
    case FUSE_WRITE: return true;
    default: return false;
  }
}

Serving& serving() noexcept {
  thread_local Serving now;
  return now;
}

std::optional<ssize_t> note_answer(const Serving& now, std::span<const iovec> parts) {
  if (now.swallow != nullptr) {
    for (const iovec& part : parts) {
      const auto* bytes = static_cast<const std::byte*>(part.iov_base);
      now.swallow->insert(now.swallow->end(), bytes, bytes + part.iov_len);
    }
    return static_cast<ssize_t>(now.swallow->size());
  }
  if (!changes_something(now.slot->opcode)) return std::nullopt;
  std::array<std::byte, IntentSlot::kMaxReply> answer;
  std::size_t size = 0;
  for (const iovec& part : parts) {
    if (part.iov_len > answer.size() - size) return std::nullopt;
    if (part.iov_len != 0) std::memcpy(answer.data() + size, part.iov_base, part.iov_len);
    size += part.iov_len;
  }
  now.slot->finish(std::span(answer).first(size));
  return std::nullopt;
}

// ---- the file

Intents::~Intents() {
  if (file_ != nullptr) ::munmap(file_, sizeof(File));
}

Result<void> Intents::map(const std::string& path, int fd) {
  void* made = ::mmap(nullptr, sizeof(File), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (made == MAP_FAILED) return Error{path, std::string("cannot be mapped: ") + std::strerror(errno)};
  file_ = static_cast<File*>(made);
  return ok;
}

Result<std::unique_ptr<Intents>> Intents::create(const std::string& path) {
  // Complete under another name first: one good file is there, or none.
  const std::string beside = path + ".new";
  ::unlink(beside.c_str());
  const UniqueFd fd(::open(beside.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return Error{path, std::string("cannot be made: ") + std::strerror(errno)};
  if (const int error = ::posix_fallocate(fd.get(), 0, sizeof(File)); error != 0)
    return Error{path, std::string("cannot be written: ") + std::strerror(error)};
  std::unique_ptr<Intents> intents(new Intents);
  FBROKER_TRY_VOID(intents->map(path, fd.get()));
  *intents->file_ = File{};
  if (::rename(beside.c_str(), path.c_str()) != 0)
    return Error{path, std::string("cannot be made: ") + std::strerror(errno)};
  for (IntentSlot& slot : intents->file_->slots) intents->free_.push_back(&slot);
  return intents;
}

Result<std::unique_ptr<Intents>> Intents::load(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return Error{path, std::string("cannot be opened: ") + std::strerror(errno)};
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || static_cast<std::size_t>(st.st_size) != sizeof(File))
    return Error{path, "is damaged: its size is not that of such a file"};
  std::unique_ptr<Intents> intents(new Intents);
  FBROKER_TRY_VOID(intents->map(path, fd.get()));
  File& file = *intents->file_;
  if (file.magic != kMagicWord) return Error{path, "is damaged: it holds no intents"};
  if (file.version != kVersion)
    return Error{path, "is of version " + std::to_string(file.version) + ", known is " + std::to_string(kVersion)};
  if (file.init_bytes > file.init.size() ||
      (file.init_bytes != 0 && file.init_sum != sum_of(intents->init(), kMagicWord)))
    return Error{path, "is damaged: a wrong checksum of INIT"};
  for (IntentSlot& slot : file.slots) {
    const bool sound = slot.state == IntentSlot::free || slot.state == IntentSlot::begun ||
                       (slot.state == IntentSlot::done && slot.reply_bytes >= sizeof(fuse_out_header) &&
                        slot.reply_bytes <= slot.reply.size() &&
                        slot.reply_sum == sum_of(std::span(slot.reply).first(slot.reply_bytes), slot.unique));
    if (!sound) return Error{path, "is damaged: a slot that makes no sense"};
    (slot.state == IntentSlot::free ? intents->free_ : intents->left_).push_back(&slot);
  }
  return intents;
}

void Intents::keep_init(std::span<const std::byte> request) noexcept {
  if (request.size() > file_->init.size()) return;
  std::memcpy(file_->init.data(), request.data(), request.size());
  file_->init_sum = sum_of(request, kMagicWord);
  store(file_->init_bytes, static_cast<std::uint32_t>(request.size()));
}

std::span<const std::byte> Intents::init() const noexcept { return std::span(file_->init).first(file_->init_bytes); }

IntentSlot* Intents::take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    // Only where many processes died in a row and the kernel said nothing of
    // what they left: the oldest is the least likely to be asked for.
    if (left_.empty()) return nullptr;
    const auto oldest = std::ranges::min_element(left_, {}, &IntentSlot::unique);
    free_.push_back(*oldest);
    left_.erase(oldest);
  }
  IntentSlot* slot = free_.back();
  free_.pop_back();
  slot->clear();
  return slot;
}

void Intents::give_back(IntentSlot* slot) {
  slot->clear();
  const std::lock_guard lock(mutex_);
  free_.push_back(slot);
}

IntentSlot* Intents::resume(std::uint64_t unique) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(left_, unique, &IntentSlot::unique);
  if (found == left_.end()) return nullptr;
  IntentSlot* slot = *found;
  left_.erase(found);
  return slot;
}

void Intents::drop_left_except(std::span<const std::uint64_t> uniques) {
  const std::lock_guard lock(mutex_);
  std::erase_if(left_, [&](IntentSlot* slot) {
    if (std::ranges::find(uniques, slot->unique) != uniques.end()) return false;
    slot->clear();
    free_.push_back(slot);
    return true;
  });
}

}  // namespace fbroker::fuse
