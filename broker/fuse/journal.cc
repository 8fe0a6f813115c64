#include "broker/fuse/journal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace fbroker::fuse {

namespace {

// Words of the header.
enum : std::size_t { kMagic, kVersionAndKind, kSalt, kHeaderSum, kEnd, kGivenUp, kHeaderWords };
constexpr std::size_t kHeaderBytes = 64;
static_assert(kHeaderWords * sizeof(std::uint64_t) <= kHeaderBytes);
constexpr std::size_t kPage = 4096;

constexpr std::uint64_t kMagicWord = 0x6c6e726a6b726266;   // "fbrkjrnl"
constexpr std::uint64_t kVersion = 1;
constexpr std::uint8_t kSkip = 255;   // the window's rest is unused
constexpr std::uint64_t kSlack = 1024 * 1024;

constexpr std::uint64_t mix(std::uint64_t sum, std::uint64_t word) noexcept {
  sum = (sum ^ word) * 0x9e3779b97f4a7c15ULL;
  return sum ^ (sum >> 29);
}

// The head word: kind, number of words, length of the text, checksum.
constexpr std::uint64_t head_of(std::uint8_t kind, std::size_t words, std::size_t text) noexcept {
  return std::uint64_t{kind} | std::uint64_t{words} << 8 | std::uint64_t{text} << 16;
}

constexpr std::size_t words_of(std::size_t text) noexcept { return (text + 7) / 8; }

// Over the head, the body, and where in which file it stands. Never all zero.
std::uint64_t sealed(std::uint64_t head, const std::uint64_t* body, std::size_t count, std::uint64_t position,
                     std::uint64_t salt) noexcept {
  std::uint64_t sum = mix(salt ^ position, head);
  for (std::size_t i = 0; i < count; ++i) sum = mix(sum, body[i]);
  return head | (sum >> 32) << 32;
}

std::uint64_t header_sum(const std::uint64_t* header) noexcept {
  std::uint64_t sum = kMagicWord;
  for (std::size_t i = 0; i < kHeaderSum; ++i) sum = mix(sum, header[i]);
  return sum;
}

std::uint64_t kind_word(JournalOf of) noexcept { return kVersion << 32 | static_cast<std::uint64_t>(of); }

std::uint64_t random_word() noexcept {
  std::uint64_t word = 0;
  if (::getrandom(&word, sizeof word, 0) != sizeof word) word = static_cast<std::uint64_t>(::time(nullptr));
  return word;
}

Error failed(const std::string& path, const char* what) {
  return Error{path, std::string(what) + ": " + std::strerror(errno)};
}

Error damaged(const std::string& path, const std::string& what) {
  return Error{path, "is damaged: " + what};
}

void store(std::uint64_t& word, std::uint64_t value) noexcept {
  std::atomic_ref(word).store(value, std::memory_order_release);
}

std::uint64_t load_word(const std::byte* at) noexcept {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

}  // namespace

Journal::~Journal() {
  if (window_ != nullptr) ::munmap(window_, kWindow);
  if (header_ != nullptr) ::munmap(header_, kPage);
}

// ---- writing

bool Journal::map_window(std::uint64_t start) {
  // Allocated, not only sized: a store to a page that the disk has no room for is SIGBUS.
  int error;
  do error = ::posix_fallocate(file_.get(), static_cast<off_t>(start), kWindow);
  while (error == EINTR);
  if (error != 0) return errno = error, false;
  void* made = ::mmap(nullptr, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), static_cast<off_t>(start));
  if (made == MAP_FAILED) return false;
  if (window_ != nullptr) ::munmap(window_, kWindow);
  window_ = static_cast<std::byte*>(made);
  window_start_ = start;
  return true;
}

Result<void> Journal::start(const std::string& path) {
  ::unlink(path.c_str());
  file_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file_) return failed(path, "cannot be made");
  if (!map_window(0)) return failed(path, "cannot be written");
  void* page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (page == MAP_FAILED) return failed(path, "cannot be mapped");
  header_ = static_cast<std::uint64_t*>(page);
  salt_ = random_word();
  position_ = kHeaderBytes;
  header_[kVersionAndKind] = kind_word(of_);
  header_[kSalt] = salt_;
  header_[kEnd] = position_;
  header_[kMagic] = kMagicWord;
  store(header_[kHeaderSum], header_sum(header_));
  compact_at_ = kSlack;
  return ok;
}

Result<std::unique_ptr<Journal>> Journal::create(const std::string& path, JournalOf of) {
  std::unique_ptr<Journal> journal(new Journal(path, of));
  FBROKER_TRY_VOID(journal->start(path));
  return journal;
}

void Journal::give_up() noexcept {
  given_up_ = true;
  if (header_ != nullptr) store(header_[kGivenUp], 1);
}

void Journal::append(std::uint8_t kind, std::initializer_list<std::uint64_t> words, std::string_view text) noexcept {
  if (given_up_) return;
  const std::size_t count = words.size() + words_of(text.size());
  const std::size_t bytes = (1 + count) * sizeof(std::uint64_t);
  if (position_ + bytes > window_start_ + kWindow) {
    const std::uint64_t next = window_start_ + kWindow;
    if (position_ < next) {
      auto* rest = reinterpret_cast<std::uint64_t*>(window_ + (position_ - window_start_));
      store(*rest, sealed(head_of(kSkip, 0, 0), nullptr, 0, position_, salt_));
    }
    if (!map_window(next)) return give_up();
    position_ = next;
  }
  auto* record = reinterpret_cast<std::uint64_t*>(window_ + (position_ - window_start_));
  std::uint64_t* body = record + 1;
  for (const std::uint64_t word : words) *body++ = word;
  if (!text.empty()) {
    record[count] = 0;   // what pads the text's last word
    std::memcpy(body, text.data(), text.size());
  }
  store(*record, sealed(head_of(kind, words.size(), text.size()), record + 1, count, position_, salt_));
  position_ += bytes;
  store(header_[kEnd], position_);
}

void Journal::compact(const std::function<void(Journal&)>& write_live) {
  Journal fresh(path_, of_);
  const std::string beside = path_ + ".new";
  const auto grown = [&] { compact_at_ = position_ * 2; };   // tried again when there is more to gain
  if (!fresh.start(beside)) return grown();
  write_live(fresh);
  if (fresh.given_up_ || ::rename(beside.c_str(), path_.c_str()) != 0) {
    ::unlink(beside.c_str());
    return grown();
  }
  std::swap(file_, fresh.file_);
  std::swap(header_, fresh.header_);
  std::swap(window_, fresh.window_);
  window_start_ = fresh.window_start_;
  position_ = fresh.position_;
  salt_ = fresh.salt_;
  compact_at_ = 2 * position_ + kSlack;
}

// ---- reading

Result<WindowEnd> read_window(std::span<const std::byte> bytes, std::uint64_t position, std::uint64_t salt,
                              const Journal::Replay& replay) {
  const std::uint64_t start = position - position % Journal::kWindow;
  const auto wrong = [&](const char* what) {
    return Error{"", std::string(what) + " at byte " + std::to_string(position)};
  };
  std::uint64_t body[Journal::kMaxWords + words_of(Journal::kMaxText)];
  for (;;) {
    const std::uint64_t at = position - start;
    if (at == bytes.size()) return WindowEnd{position, true};
    if (at + sizeof(std::uint64_t) > bytes.size()) return wrong("half a record");
    const std::uint64_t head = load_word(bytes.data() + at);
    if (head == 0) return WindowEnd{position, false};
    const auto kind = static_cast<std::uint8_t>(head);
    const std::size_t words = head >> 8 & 0xff, text = head >> 16 & 0xffff;
    const std::size_t count = words + words_of(text);
    if (kind == 0 || words > Journal::kMaxWords || text > Journal::kMaxText) return wrong("no record");
    if (at + (1 + count) * sizeof(std::uint64_t) > bytes.size()) return wrong("a record that is too long");
    std::memcpy(body, bytes.data() + at + sizeof head, count * sizeof(std::uint64_t));
    if (sealed(head & 0xffffffff, body, count, position, salt) != head) return wrong("a wrong checksum");
    if (kind == kSkip) return WindowEnd{start + bytes.size(), true};
    const std::string_view name(reinterpret_cast<const char*>(body + words), text);
    if (!replay({kind, {body, words}, name})) return wrong("a record that makes no sense");
    position += (1 + count) * sizeof(std::uint64_t);
  }
}

Result<void> Journal::read(const Replay& replay) {
  struct stat st{};
  if (::fstat(file_.get(), &st) != 0) return failed(path_, "cannot be read");
  if (!S_ISREG(st.st_mode)) return damaged(path_, "it is no file");
  const auto size = static_cast<std::uint64_t>(st.st_size);
  if (size == 0 || size % kWindow != 0 || size > kMaxFile) return damaged(path_, "it was cut");
  void* page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (page == MAP_FAILED) return failed(path_, "cannot be mapped");
  header_ = static_cast<std::uint64_t*>(page);
  if (header_[kMagic] != kMagicWord) return damaged(path_, "it is no journal");
  if (header_[kVersionAndKind] >> 32 != kVersion)
    return Error{path_, "is of version " + std::to_string(header_[kVersionAndKind] >> 32) + ", known is " +
                            std::to_string(kVersion)};
  if (header_[kVersionAndKind] != kind_word(of_)) return damaged(path_, "it is another table's");
  if (header_[kHeaderSum] != header_sum(header_)) return damaged(path_, "a wrong checksum of the header");
  if (header_[kGivenUp] != 0) return Error{path_, "was given up when there was no space left"};
  salt_ = header_[kSalt];

  position_ = kHeaderBytes;
  for (;;) {
    const std::uint64_t window = position_ - position_ % kWindow;
    if (window >= size) break;
    void* made = ::mmap(nullptr, kWindow, PROT_READ, MAP_SHARED, file_.get(), static_cast<off_t>(window));
    if (made == MAP_FAILED) return failed(path_, "cannot be mapped");
    const auto end = read_window({static_cast<const std::byte*>(made), kWindow}, position_, salt_, replay);
    ::munmap(made, kWindow);
    if (!end) return damaged(path_, end.error().what);
    position_ = end->position;
    if (!end->goes_on) break;
  }
  if (position_ < header_[kEnd])
    return damaged(path_, "its records end at byte " + std::to_string(position_) + " of " +
                              std::to_string(header_[kEnd]));
  return ok;
}

Result<std::unique_ptr<Journal>> Journal::load(const std::string& path, JournalOf of, const Replay& replay) {
  std::unique_ptr<Journal> journal(new Journal(path, of));
  journal->file_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!journal->file_) return failed(path, "cannot be opened");
  FBROKER_TRY_VOID(journal->read(replay));
  // What a killed append left behind the last record must not look like one
  // when a shorter record ends there.
  const std::uint64_t start = journal->position_ - journal->position_ % kWindow;
  if (!journal->map_window(start)) return failed(path, "cannot be written");
  const std::uint64_t used = journal->position_ - start;
  std::memset(journal->window_ + used, 0, kWindow - used);
  store(journal->header_[kEnd], journal->position_);
  // The live part is not known; this keeps the file from growing without end.
  journal->compact_at_ = journal->position_ + journal->position_ / 2 + kSlack;
  return journal;
}

}  // namespace fbroker::fuse
