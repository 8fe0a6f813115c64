#include "broker/audit/verify.h"

#include <fcntl.h>

#include "broker/audit/layout.h"
#include "broker/audit/read.h"
#include "broker/audit/ring.h"
#include "broker/audit/segments.h"

namespace fbroker::audit {

namespace {

bool broker_is_writing(int directory) {
  const UniqueFd file(::openat(directory, kLockName, O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  struct flock whole {};
  whole.l_type = F_WRLCK;
  return file && ::fcntl(file.get(), F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

std::string number(std::uint64_t n) { return std::to_string(n); }

std::string range(std::uint64_t first, std::uint64_t last) {
  return first == last ? "record " + number(first) : "records " + number(first) + " to " + number(last);
}

// What a line is not, when it should be the record after `head`.
std::string fault(const std::optional<ProvenLine>& line, const ChainHead& head) {
  const std::uint64_t expected = head.sequence + 1;
  if (!line) return "was changed: its hash does not fit (this should be record " + number(expected) + ")";
  if (line->sequence > expected)
    return range(expected, line->sequence - 1) + (line->sequence - expected == 1 ? " is" : " are") +
           " missing before it";
  if (line->sequence < expected)
    return "stands in the wrong place or twice: record " + number(expected) + " should be here";
  if (line->prev != head.hash)
    return "does not follow the record before it: that one, or all before this, were written anew";
  return {};
}

// A place where head must have been seen with this hash, or be seen yet.
struct Note {
  ChainHead head;
  const char* whose;
  bool met = false;
};

std::optional<Verdict::Bad> check_note(Note& note, const ChainHead& head, const std::string& file,
                                       std::uint64_t line) {
  if (note.head.sequence != head.sequence) return std::nullopt;
  note.met = true;
  if (note.head.hash == head.hash) return std::nullopt;
  return Verdict::Bad{file, line, head.sequence,
                      std::string("is not the record that ") + note.whose + " names: it, or one before it, was written anew"};
}

constexpr char kNotSigned[] =
    "is a checkpoint that this key did not sign: it is forged, or another broker's, or all before it was written anew";

// None: the record is no checkpoint. "" where it lacks its signature.
std::optional<std::string> checkpoint_signature(const std::string& line) {
  if (line.find("\"checkpoint\"") == line.npos) return std::nullopt;   // most lines
  const auto entry = parse_entry(line);
  if (!entry || entry->record.operation != "checkpoint") return std::nullopt;
  return entry->signature;
}

}  // namespace

Result<Verdict> verify(const std::string& directory, const Known& known) {
  FBROKER_TRY(LineReader reader, LineReader::open(directory));
  Verdict verdict;
  verdict.live = broker_is_writing(reader.directory());
  // Read before the log: a live broker's note is never ahead of its log.
  Note notes[] = {{Ring::read_checkpoint(reader.directory(), kRingName), "the broker's own note"},
                  {known.noted.value_or(ChainHead{}), "the noted head"},
                  {known.signed_head.value_or(ChainHead{}), "the signed head"}};
  Hasher hasher;
  std::uint64_t segment = 0;
  std::string file;
  std::uint64_t line_number = 0;
  for (;;) {
    FBROKER_TRY(const std::optional<Line> line, reader.next(true));
    if (!line) break;
    const bool last_of_all =
        !reader.segments().empty() && segment_name(reader.segments().back()) == line->file;
    if (!line->ended && last_of_all && verdict.live) break;  // being written just now
    const std::uint64_t expected = verdict.head.sequence + 1;
    if (line->file != file) {
      const std::uint64_t at = segment_number(line->file).value_or(0);
      if (at != segment + 1 && !verdict.bad)
        verdict.bad = {segment_name(segment + 1), 0, expected, "this file is missing, with the records from " + number(expected) + " on"};
      segment = at;
      file = line->file;
    }
    if (verdict.bad) return verdict;
    line_number = line->number;
    if (!line->ended) {
      verdict.bad = {file, line_number, expected, "is cut off in the middle"};
      return verdict;
    }
    const auto proven = prove(hasher, line->text);
    if (std::string what = fault(proven, verdict.head); !what.empty()) {
      verdict.bad = {file, line_number, proven ? proven->sequence : expected, std::move(what)};
      return verdict;
    }
    const auto signature = checkpoint_signature(line->text);
    if (signature && known.key && !known.key->has_signed(Statement::checkpoint, verdict.head, *signature)) {
      verdict.bad = {file, line_number, expected, kNotSigned};
      return verdict;
    }
    verdict.head = {proven->sequence, proven->hash};
    ++verdict.records;
    verdict.checkpoints += signature ? 1 : 0;
    verdict.after_checkpoint = signature ? 0 : verdict.after_checkpoint + 1;
    for (Note& note : notes)
      if (auto bad = check_note(note, verdict.head, file, line_number)) {
        verdict.bad = std::move(bad);
        return verdict;
      }
  }
  for (const Note& note : notes)
    if (note.head.sequence > verdict.head.sequence) {
      verdict.bad = {file, line_number + 1, verdict.head.sequence + 1,
                     range(verdict.head.sequence + 1, note.head.sequence) + " at the end of the log are missing, says " + note.whose};
      return verdict;
    }
  return verdict;
}

}  // namespace fbroker::audit
