#include "broker/audit/segments.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

namespace fbroker::audit {

namespace {

Error failed(const std::string& where, const char* step) {
  return Error{where, std::string(step) + ": " + std::strerror(errno)};
}

// The last `most` bytes of a file of `size` bytes.
Result<std::string> read_end(int file, std::uint64_t size, std::size_t most) {
  std::string bytes(std::min<std::uint64_t>(size, most), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::pread(file, bytes.data() + done, bytes.size() - done,
                                static_cast<off_t>(size - bytes.size() + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return failed("", "cannot be read");
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

}  // namespace

std::string segment_name(std::uint64_t number) {
  char name[32];
  std::snprintf(name, sizeof name, "%06llu.jsonl", static_cast<unsigned long long>(number));
  return name;
}

std::optional<std::uint64_t> segment_number(std::string_view name) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || number == 0 || name != segment_name(number)) return std::nullopt;
  return number;
}

Result<std::vector<std::uint64_t>> list_segments(int directory) {
  UniqueFd copy(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* const listing = copy ? ::fdopendir(copy.get()) : nullptr;
  if (listing == nullptr) return failed("", "the audit directory cannot be read");
  (void)copy.release();  // the listing's now
  std::vector<std::uint64_t> numbers;
  while (const dirent* entry = ::readdir(listing))
    if (const auto number = segment_number(entry->d_name)) numbers.push_back(*number);
  ::closedir(listing);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

Result<SegmentWriter> SegmentWriter::open(int directory, std::string path,
                                          std::uint64_t segment_bytes) {
  SegmentWriter writer(directory, std::move(path), segment_bytes);
  FBROKER_TRY(const auto numbers, list_segments(directory));
  // The head may be in an earlier one: a new segment that got no record yet.
  for (auto number = numbers.rbegin(); number != numbers.rend(); ++number) {
    FBROKER_TRY_VOID(writer.open_segment(*number));
    FBROKER_TRY_VOID(writer.find_end());
    if (writer.head_.sequence != 0) break;
  }
  if (!numbers.empty() && writer.number_ != numbers.back())
    FBROKER_TRY_VOID(writer.open_segment(numbers.back()));
  if (numbers.empty()) FBROKER_TRY_VOID(writer.open_segment(1));
  return writer;
}

Result<void> SegmentWriter::open_segment(std::uint64_t number) {
  const std::string name = segment_name(number);
  UniqueFd file(::openat(directory_, name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return failed(name, "cannot be opened");
  struct stat st {};
  if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) return failed(name, "is no regular file");
  if (::fsync(directory_) != 0) return failed(name, "its directory cannot be synchronised");
  file_ = std::move(file);
  name_ = name;
  number_ = number;
  size_ = static_cast<std::uint64_t>(st.st_size);
  device_ = st.st_dev;
  inode_ = st.st_ino;
  return ok;
}

// Where the chain stands. A last line without its '\n' was being written when
// the power or the process went: it is moved aside. A whole line that does not
// prove itself is evidence and stays; the chain goes on from the last that does.
Result<void> SegmentWriter::find_end() {
  FBROKER_TRY(const std::string end, read_end(file_.get(), size_, 4 * kMaxLineBytes));
  const std::size_t whole = end.rfind('\n') == end.npos ? 0 : end.rfind('\n') + 1;
  if (whole == 0 && size_ > end.size())
    return Error{name_, "ends in a line longer than any this log writes"};
  if (whole < end.size()) {
    FBROKER_TRY(torn_to_, keep_aside(directory_, std::string_view(end).substr(whole)));
    size_ -= end.size() - whole;
    if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0) return failed(name_, "cannot be cut");
  }
  for (std::size_t line_end = whole; line_end > 0;) {
    const std::size_t before = line_end < 2 ? end.npos : end.rfind('\n', line_end - 2);
    const std::size_t start = before == end.npos ? 0 : before + 1;
    if (const auto proven = prove(hasher_, std::string_view(end).substr(start, line_end - 1 - start))) {
      head_ = {proven->sequence, proven->hash};
      return ok;
    }
    line_end = start;
  }
  return ok;
}

Result<std::string> SegmentWriter::keep_aside(int directory, std::string_view bytes) {
  for (unsigned number = 1; number < 100'000; ++number) {
    const std::string name = "TORN." + std::to_string(number);
    const UniqueFd file(::openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file && errno == EEXIST) continue;
    if (!file) return failed(name, "cannot be made");
    while (!bytes.empty()) {
      const ssize_t put = ::write(file.get(), bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return failed(name, "cannot be written");
      bytes.remove_prefix(static_cast<std::size_t>(put));
    }
    if (::fsync(file.get()) != 0) return failed(name, "cannot be synchronised");
    return name;
  }
  return Error{"TORN", "there are too many of these; look at them and remove them"};
}

// A descriptor writes happily into a file that nobody can find any more.
Result<void> SegmentWriter::still_there() const {
  struct stat st {};
  const std::string path = path_ + "/" + name_;
  if (::stat(path.c_str(), &st) != 0) return failed(path, "is gone");
  if (st.st_dev != device_ || st.st_ino != inode_) return Error{path, "was replaced by another file"};
  if (static_cast<std::uint64_t>(st.st_size) < size_)
    return Error{path, "was cut short by somebody else"};
  return ok;
}

Result<void> SegmentWriter::write_all(std::string_view bytes) {
  std::uint64_t offset = size_;
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return failed(path_ + "/" + name_, "cannot be written");
    bytes.remove_prefix(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return ok;
}

// INVARIANT: size_ and head_ move only after fdatasync(2) has answered. After a
//   failed one the kernel may have dropped the pages and call them clean, so a
//   retry writes all of the batch again.
Result<void, Error> SegmentWriter::write(std::string_view lines, const ChainHead& head, bool may_end_here) {
  if (full() && may_end_here) {
    FBROKER_TRY_VOID(still_there());
    FBROKER_TRY_VOID(open_segment(number_ + 1));
  }
  FBROKER_TRY_VOID(still_there());
  if (auto written = write_all(lines); !written) {
    if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0) return written;  // tried
    return written;
  }
  if (::fdatasync(file_.get()) != 0) return failed(path_ + "/" + name_, "cannot be synchronised");
  FBROKER_TRY_VOID(still_there());
  size_ += lines.size();
  head_ = head;
  return ok;
}

}  // namespace fbroker::audit
