#include "broker/audit/read.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "broker/audit/segments.h"

namespace fbroker::audit {

namespace {

constexpr std::size_t kChunk = 256u << 10;

Error failed(const std::string& where, const char* step) {
  return Error{where, std::string(step) + ": " + std::strerror(errno)};
}

std::optional<std::string> decode_base64(const std::string& text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes(text.size() / 4 * 3 + 1, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()),
                                   static_cast<int>(text.size()));
  if (size < 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  bytes.resize(static_cast<std::size_t>(size) - padding);
  return bytes;
}

std::optional<std::string> bytes_of(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object() || value.size() != 1) return std::nullopt;
  const auto b64 = value.find("b64");
  if (b64 == value.end() || !b64->is_string()) return std::nullopt;
  return decode_base64(b64->get_ref<const std::string&>());
}

// Every member of a record, and where it goes. Others are not ours.
struct TextMember {
  const char* name;
  std::string Record::*field;
};
constexpr TextMember kTexts[] = {
    {"session", &Record::session},     {"operation", &Record::operation},
    {"path", &Record::path},           {"requested", &Record::requested},
    {"target", &Record::target},       {"host_path", &Record::host_path},
    {"decision", &Record::decision},   {"reason", &Record::reason},
    {"host", &Record::host},           {"address", &Record::address},
    {"detail", &Record::detail},
};

bool take_number(Entry& entry, const std::string& name, std::uint64_t value) {
  Record& r = entry.record;
  if (name == "seq") entry.sequence = value;
  else if (name == "error") r.error = static_cast<int>(value);
  else if (name == "pid") r.pid = static_cast<std::uint32_t>(value);
  else if (name == "peer_pid") r.peer_pid = static_cast<std::uint32_t>(value);
  else if (name == "handle") r.handle = value;
  else if (name == "bytes_read") r.bytes_read = value;
  else if (name == "bytes_written") r.bytes_written = value;
  else if (name == "repeated") r.repeated = value;
  else if (name == "port") r.port = value;
  else if (name == "milliseconds") r.milliseconds = value;
  else return false;
  return true;
}

bool take_text(Entry& entry, const std::string& name, const nlohmann::json& value) {
  if (name == "prev" || name == "hash") return value.is_string();
  auto bytes = bytes_of(value);
  if (!bytes) return false;
  if (name == "time") return entry.time = std::move(*bytes), true;
  if (name == "since") return entry.since = std::move(*bytes), true;
  if (name == "signature") return entry.signature = std::move(*bytes), true;
  for (const TextMember& member : kTexts)
    if (name == member.name) return entry.record.*member.field = std::move(*bytes), true;
  return false;
}

bool path_matches(const std::string& wanted, const std::string& path) {
  if (path.empty()) return false;
  if (wanted.find_first_of("*?[") != wanted.npos) return ::fnmatch(wanted.c_str(), path.c_str(), 0) == 0;
  if (wanted == "/") return true;
  return path.starts_with(wanted) && (path.size() == wanted.size() || path[wanted.size()] == '/');
}

// A domain and all below it, as a glob where it has * ? or [.
bool host_matches(const std::string& wanted, const std::string& host) {
  if (wanted.find_first_of("*?[") != wanted.npos) return ::fnmatch(wanted.c_str(), host.c_str(), FNM_CASEFOLD) == 0;
  return host == wanted || host.ends_with("." + wanted);
}

}  // namespace

Result<LineReader> LineReader::open(const std::string& path) {
  UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return failed(path, "cannot be opened");
  LineReader reader(std::move(directory));
  FBROKER_TRY(reader.segments_, list_segments(reader.directory()));
  return reader;
}

Result<bool> LineReader::open_next_segment() {
  FBROKER_TRY(segments_, list_segments(directory()));
  const auto next = std::upper_bound(segments_.begin(), segments_.end(), current_);
  if (next == segments_.end()) return false;
  UniqueFd file(::openat(directory(), segment_name(*next).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return failed(segment_name(*next), "cannot be opened");
  file_ = std::move(file);
  current_ = *next;
  file_offset_ = line_ = 0;
  buffer_.clear();
  used_ = 0;
  return true;
}

// More bytes of this segment; false when there are none now.
Result<bool> LineReader::fill() {
  buffer_.erase(0, used_);
  used_ = 0;
  const std::size_t had = buffer_.size();
  buffer_.resize(had + kChunk);
  ssize_t got;
  do {
    got = ::pread(file_.get(), buffer_.data() + had, kChunk, static_cast<off_t>(file_offset_));
  } while (got < 0 && errno == EINTR);
  buffer_.resize(had + (got > 0 ? static_cast<std::size_t>(got) : 0));
  if (got < 0) return failed(segment_name(current_), "cannot be read");
  file_offset_ += static_cast<std::uint64_t>(got);
  return got > 0;
}

Result<std::optional<Line>> LineReader::next(bool even_unended) {
  const auto give = [&](std::size_t size, bool ended) {
    Line line{segment_name(current_), counts_lines_ ? ++line_ : 0, buffer_.substr(used_, size), ended};
    used_ += size + (ended ? 1 : 0);
    return std::optional<Line>(std::move(line));
  };
  std::size_t searched = 0;
  for (;;) {
    if (file_) {
      const std::size_t end = buffer_.find('\n', used_ + searched);
      if (end != buffer_.npos) return give(end - used_, true);
      searched = buffer_.size() - used_;
      if (searched > kMaxLineBytes) return give(searched, false);  // no line of ours
      FBROKER_TRY(const bool more, fill());
      if (more) continue;
      // A segment is finished when there is a later one; then what has no end never gets one.
      if (searched > 0 && even_unended) return give(searched, false);
      FBROKER_TRY(segments_, list_segments(directory()));
      if (segments_.empty() || segments_.back() <= current_) return std::optional<Line>();
      FBROKER_TRY(const bool late, fill());
      if (late) continue;
      if (searched > 0) return give(searched, false);
    }
    searched = 0;
    FBROKER_TRY(const bool opened, open_next_segment());
    if (!opened) return std::optional<Line>();
  }
}

Result<void> LineReader::seek_last(std::uint64_t count) {
  counts_lines_ = false;
  std::uint64_t missing = count;
  const std::vector<std::uint64_t> numbers = segments_;
  for (auto number = numbers.rbegin(); number != numbers.rend(); ++number) {
    current_ = *number - 1;
    FBROKER_TRY(const bool opened, open_next_segment());
    if (!opened) return ok;
    struct stat st {};
    if (::fstat(file_.get(), &st) != 0) return failed(segment_name(current_), "cannot be read");
    const auto size = static_cast<std::uint64_t>(st.st_size);
    if (count == 0) return file_offset_ = size, ok;   // only what comes from now on
    // Backwards in chunks: a '\n' that is not the file's last byte begins a line.
    std::string chunk;
    for (std::uint64_t end = size; end > 0;) {
      const std::uint64_t start = end > kChunk ? end - kChunk : 0;
      chunk.resize(static_cast<std::size_t>(end - start));
      if (::pread(file_.get(), chunk.data(), chunk.size(), static_cast<off_t>(start)) !=
          static_cast<ssize_t>(chunk.size()))
        return failed(segment_name(current_), "cannot be read");
      for (std::size_t i = chunk.size(); i-- > 0;) {
        if (chunk[i] != '\n' || start + i + 1 == size) continue;
        if (missing-- == 1) return file_offset_ = start + i + 1, ok;
      }
      end = start;
    }
    if (size > 0 && missing-- == 1) return ok;   // the first line of the file
  }
  current_ = 0;
  file_ = UniqueFd();
  return ok;
}

std::optional<Entry> parse_entry(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  Entry entry;
  for (const auto& [name, value] : json.items()) {
    const bool taken = value.is_number_unsigned() ? take_number(entry, name, value.get<std::uint64_t>())
                                                  : take_text(entry, name, value);
    if (!taken) return std::nullopt;
  }
  if (entry.sequence == 0 || entry.time.empty()) return std::nullopt;
  return entry;
}

bool Filter::matches(const Entry& entry) const {
  const Record& r = entry.record;
  if (!operation.empty() && r.operation != operation) return false;
  if (!decision.empty() && r.decision != decision) return false;
  if (!session.empty() && r.session != session) return false;
  if (!since.empty() && entry.time < since) return false;
  if (!host.empty() && !host_matches(host, r.host)) return false;
  return path.empty() || path_matches(path, r.path) || path_matches(path, r.requested) ||
         path_matches(path, r.target) || path_matches(path, r.host_path);
}

}  // namespace fbroker::audit
