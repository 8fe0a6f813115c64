// SegmentWriter: the log's files, 000001.jsonl and on, written by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/audit/chain.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::audit {

inline constexpr std::size_t kMaxLineBytes = 1u << 20;  // of a line that a reader accepts

std::string segment_name(std::uint64_t number);                          // "000042.jsonl"
std::optional<std::uint64_t> segment_number(std::string_view file_name);

// Threads: one at a time.
class SegmentWriter {
 public:
  // Continues the last segment in `directory` (a descriptor, borrowed; `path`
  // names it). A torn last line is moved to a file of its own.
  static Result<SegmentWriter> open(int directory, std::string path, std::uint64_t segment_bytes);

  const ChainHead& head() const noexcept { return head_; }
  const std::string& name() const noexcept { return name_; }
  const std::string& torn_to() const noexcept { return torn_to_; }   // "" = nothing was torn

  // The chain goes on from here: a file at hand says that more had been written.
  void continue_from(const ChainHead& head) { head_ = head; }

  // Writes whole lines and waits until they are on disk; `head` is where the
  // chain stands after them. On an error nothing of them counts: the next call
  // overwrites what had been written of them. A full segment is followed by the
  // next before they are written, if it may end here.
  Result<void, Error> write(std::string_view lines, const ChainHead& head, bool may_end_here = true);
  bool full() const noexcept { return size_ >= segment_bytes_; }

  // Moves bytes that are no records into a new file TORN.N; its name.
  static Result<std::string> keep_aside(int directory, std::string_view bytes);

 private:
  SegmentWriter(int directory, std::string path, std::uint64_t segment_bytes)
      : directory_(directory), path_(std::move(path)), segment_bytes_(segment_bytes) {}
  Result<void> open_segment(std::uint64_t number);
  Result<void> find_end();
  Result<void> still_there() const;
  Result<void> write_all(std::string_view bytes);

  int directory_;
  std::string path_;
  std::uint64_t segment_bytes_;
  std::uint64_t number_ = 0;
  std::string name_;
  UniqueFd file_;
  std::uint64_t size_ = 0;       // of what counts
  std::uint64_t device_ = 0, inode_ = 0;
  ChainHead head_;
  std::string torn_to_;
  Hasher hasher_;
};

// The numbers of the segments in a directory, ascending.
Result<std::vector<std::uint64_t>> list_segments(int directory);

}  // namespace fbroker::audit
