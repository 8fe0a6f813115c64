// Reading a log: lines over all segments, records, filters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/audit/record.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::audit {

struct Line {
  std::string file;            // segment's name
  std::uint64_t number = 0;    // in that file, from 1; 0 = not counted (tail)
  std::string text;            // without '\n'; cut at kMaxLineBytes
  bool ended = true;           // false: no '\n' (yet)
};

// Threads: one at a time.
class LineReader {
 public:
  static Result<LineReader> open(const std::string& directory);

  // Starts before the last `count` lines instead of the first line.
  Result<void> seek_last(std::uint64_t count);

  // The next line; none when there is no more *now*: a later call sees what was
  // written since. A line without '\n' is given only with `even_unended`.
  Result<std::optional<Line>> next(bool even_unended = false);

  int directory() const noexcept { return directory_.get(); }
  // Before the first line: numbers of the segments at hand, ascending.
  const std::vector<std::uint64_t>& segments() const noexcept { return segments_; }

 private:
  explicit LineReader(UniqueFd directory) : directory_(std::move(directory)) {}
  Result<bool> open_next_segment();
  Result<bool> fill();

  UniqueFd directory_;
  std::vector<std::uint64_t> segments_;
  std::uint64_t current_ = 0;      // segment being read
  UniqueFd file_;
  std::uint64_t file_offset_ = 0;  // of the end of buffer_
  std::uint64_t line_ = 0;
  bool counts_lines_ = true;
  std::string buffer_;
  std::size_t used_ = 0;           // of buffer_, given out already
};

// One record as it was written.
struct Entry {
  std::uint64_t sequence = 0;
  std::string time;            // RFC 3339, UTC
  std::string since;           // of the first repeat, where some are folded
  std::string signature;       // of a checkpoint
  Record record;
};
// None: not a record of this format (verify says what is wrong with it).
std::optional<Entry> parse_entry(std::string_view line);

struct Filter {
  std::string path;            // glob where it has * ? or [, else this path and all below; any of the record's paths
  std::string host;            // a domain and all below it, or a glob; connections alone
  std::string operation;
  std::string decision;
  std::string session;
  std::string since;           // RFC 3339, or a shorter beginning of one
  bool matches(const Entry& entry) const;
};

}  // namespace fbroker::audit
