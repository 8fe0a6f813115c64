// verify finds whatever was done to a log, and names the place.
#include "broker/audit/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "broker/audit/audit_log.h"
#include "broker/audit/read.h"

namespace fbroker::audit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;

// Ten records in three segments: 4, 4, 2.
class AuditVerifyTest : public testing::Test {
 protected:
  AuditVerifyTest() {
    char name[] = "/tmp/fbroker-audit-XXXXXX";
    root_ = ::mkdtemp(name);
    directory_ = root_ + "/audit";
    AuditOptions options;
    options.directory = directory_;
    options.pace = 0ms;
    options.segment_bytes = 900;
    auto log = AuditLog::open(options);
    EXPECT_TRUE(log);
    for (int i = 1; i <= 10; ++i) {
      Record record;
      record.session = "web-1";
      record.operation = "open";
      record.path = "/f" + std::to_string(i);
      record.decision = "allow";
      EXPECT_TRUE((*log)->append(record));
      EXPECT_TRUE((*log)->sync(20s));
    }
    log->reset();
    for (std::uint64_t n = 1; fs::exists(path(n)); ++n) lines_.push_back(read_lines(n));
  }
  ~AuditVerifyTest() override { fs::remove_all(root_); }

  std::string path(std::uint64_t segment) const {
    return directory_ + "/00000" + std::to_string(segment) + ".jsonl";
  }
  std::vector<std::string> read_lines(std::uint64_t segment) const {
    std::vector<std::string> lines;
    std::ifstream file(path(segment));
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  void write_lines(std::uint64_t segment, const std::vector<std::string>& lines) const {
    std::ofstream file(path(segment));
    for (const auto& line : lines) file << line << '\n';
  }
  Verdict verdict(const std::optional<ChainHead>& noted = {}) const {
    auto result = verify(directory_, {.noted = noted});
    EXPECT_TRUE(result);
    return result ? *result : Verdict{};
  }

  std::string root_, directory_;
  std::vector<std::vector<std::string>> lines_;
};

TEST_F(AuditVerifyTest, AWholeLogIsWholeAndItsHeadIsTold) {
  ASSERT_EQ(lines_.size(), 3u);
  const Verdict whole = verdict();
  EXPECT_FALSE(whole.bad);
  EXPECT_EQ(whole.records, 10u);
  EXPECT_EQ(whole.head.sequence, 10u);
  EXPECT_FALSE(whole.live);
}

TEST_F(AuditVerifyTest, OneFlippedBitAnywhereIsFoundAndItsRecordNamed) {
  std::uint64_t sequence = 0;
  for (std::uint64_t segment = 1; segment <= lines_.size(); ++segment) {
    for (std::size_t line = 0; line < lines_[segment - 1].size(); ++line) {
      ++sequence;
      const std::size_t size = lines_[segment - 1][line].size();
      for (std::size_t byte = 0; byte < size; ++byte) {
        auto changed = lines_[segment - 1];
        changed[line][byte] = static_cast<char>(changed[line][byte] ^ 1);
        write_lines(segment, changed);
        const Verdict found = verdict();
        ASSERT_TRUE(found.bad) << "record " << sequence << ", byte " << byte;
        EXPECT_EQ(found.bad->file, fs::path(path(segment)).filename());
        EXPECT_EQ(found.bad->line, line + 1) << "byte " << byte;
        EXPECT_EQ(found.bad->sequence, sequence) << "byte " << byte;
        EXPECT_EQ(found.head.sequence, sequence - 1);
      }
    }
    write_lines(segment, lines_[segment - 1]);
  }
  EXPECT_FALSE(verdict().bad);
}

TEST_F(AuditVerifyTest, ARemovedRecordIsMissed) {
  for (std::uint64_t segment = 1; segment <= lines_.size(); ++segment)
    for (std::size_t line = 0; line < lines_[segment - 1].size(); ++line) {
      auto fewer = lines_[segment - 1];
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(line));
      write_lines(segment, fewer);
      ASSERT_TRUE(verdict().bad);
      EXPECT_THAT(verdict().bad->what, HasSubstr("missing"));
      write_lines(segment, lines_[segment - 1]);
    }
}

TEST_F(AuditVerifyTest, TwoRecordsInTheOtherOrderAreFound) {
  auto swapped = lines_[0];
  std::swap(swapped[1], swapped[2]);
  write_lines(1, swapped);
  ASSERT_TRUE(verdict().bad);
  EXPECT_EQ(verdict().bad->line, 2u);
}

TEST_F(AuditVerifyTest, ARepeatedRecordIsFound) {
  auto doubled = lines_[0];
  doubled.insert(doubled.begin() + 1, doubled[0]);
  write_lines(1, doubled);
  ASSERT_TRUE(verdict().bad);
  EXPECT_THAT(verdict().bad->what, HasSubstr("twice"));
}

TEST_F(AuditVerifyTest, ASegmentCutInTheMiddleIsFound) {
  const auto size = fs::file_size(path(2));
  for (const std::uintmax_t cut : {std::uintmax_t{0}, std::uintmax_t{1}, size / 2, size - 1}) {
    fs::resize_file(path(2), cut);
    ASSERT_TRUE(verdict().bad) << "cut to " << cut;
    write_lines(2, lines_[1]);
  }
}

TEST_F(AuditVerifyTest, AMissingSegmentIsNamed) {
  for (std::uint64_t segment = 1; segment <= 3; ++segment) {
    fs::rename(path(segment), root_ + "/away");
    ASSERT_TRUE(verdict().bad) << segment;
    EXPECT_THAT(verdict().bad->what, HasSubstr("missing"));
    fs::rename(root_ + "/away", path(segment));
  }
}

// Somebody who knows the format makes each line prove itself again.
TEST_F(AuditVerifyTest, ARecordWrittenAnewWithARightHashIsFoundAtTheNextOne) {
  Hasher hasher;
  ChainHead head{1, *parse_hash(std::string_view(lines_[0][1]).substr(lines_[0][1].find("\"prev\":\"") + 8, 64))};
  std::string forged;
  append_line(hasher, head, R"("time":"2026-01-01T00:00:00.000000000Z","operation":"nothing")", forged);
  forged.pop_back();
  auto changed = lines_[0];
  changed[1] = forged;
  write_lines(1, changed);
  const Verdict found = verdict();
  ASSERT_TRUE(found.bad);
  EXPECT_EQ(found.bad->line, 3u);
  EXPECT_THAT(found.bad->what, HasSubstr("does not follow"));
}

TEST_F(AuditVerifyTest, ADroppedEndIsSeenByTheNotedHeadAndByTheBrokersOwnNote) {
  const ChainHead noted = verdict().head;
  auto shorter = lines_[2];
  shorter.pop_back();
  write_lines(3, shorter);
  EXPECT_THAT(verdict().bad->what, HasSubstr("record 10 at the end"));
  fs::remove(directory_ + "/ring");
  EXPECT_FALSE(verdict().bad) << "where the guarantee ends: without a note nobody can know";
  ASSERT_TRUE(verdict(noted).bad);
  EXPECT_EQ(verdict(noted).bad->sequence, 10u);
}

TEST_F(AuditVerifyTest, AHeadNotedEarlierStillFits) {
  const ChainHead noted = verdict().head;
  EXPECT_FALSE(verdict(noted).bad);
  ChainHead other = noted;
  other.hash[0] = other.hash[0] == 'a' ? 'b' : 'a';
  ASSERT_TRUE(verdict(other).bad);
  EXPECT_THAT(verdict(other).bad->what, HasSubstr("noted head"));
}

TEST_F(AuditVerifyTest, AHeadIsReadBackAndAnythingElseRefused) {
  const ChainHead head = verdict().head;
  const std::string text = "10:" + std::string(text_of(head.hash));
  EXPECT_EQ(parse_head(text), head);
  for (const std::string& bad : {std::string(), std::string("10"), text + "0", text.substr(1), "x" + text,
                                 std::string("10:") + std::string(64, 'g'), " " + text})
    EXPECT_TRUE(!parse_head(bad) || bad == text.substr(1)) << bad;
}

TEST_F(AuditVerifyTest, ADirectoryThatIsNotThereIsAnError) {
  EXPECT_FALSE(verify(root_ + "/nowhere"));
}

// ---- reading -------------------------------------------------------------------

TEST_F(AuditVerifyTest, TheLastLinesAreFoundFromTheEndAcrossSegments) {
  for (std::uint64_t wanted = 0; wanted <= 12; ++wanted) {
    auto reader = LineReader::open(directory_);
    ASSERT_TRUE(reader);
    ASSERT_TRUE(reader->seek_last(wanted));
    std::vector<std::uint64_t> seen;
    for (auto line = reader->next(); line && *line; line = reader->next())
      seen.push_back(parse_entry((*line)->text)->sequence);
    ASSERT_EQ(seen.size(), std::min<std::uint64_t>(wanted, 10)) << wanted;
    for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], 10 - seen.size() + i + 1);
  }
}

TEST_F(AuditVerifyTest, AReaderAtTheEndSeesWhatComesLater) {
  auto reader = LineReader::open(directory_);
  ASSERT_TRUE(reader && reader->seek_last(0));
  EXPECT_FALSE(*reader->next());
  { std::ofstream(path(3), std::ios::app) << "half"; }
  EXPECT_FALSE(*reader->next()) << "a line without its end is not a line yet";
  { std::ofstream(path(3), std::ios::app) << " and half\n"; }
  const auto line = reader->next();
  ASSERT_TRUE(line && *line);
  EXPECT_EQ((*line)->text, "half and half");
  { std::ofstream(path(4)) << "next segment\n"; }
  const auto next = reader->next();
  ASSERT_TRUE(next && *next);
  EXPECT_EQ((*next)->text, "next segment");
}

TEST_F(AuditVerifyTest, FiltersKeepWhatMatchesAndNothingElse) {
  const auto matching = [&](const Filter& filter) {
    auto reader = LineReader::open(directory_);
    int count = 0;
    for (auto line = reader->next(); line && *line; line = reader->next())
      count += filter.matches(*parse_entry((*line)->text)) ? 1 : 0;
    return count;
  };
  const auto by_path = [](const char* path) { Filter f; f.path = path; return f; };
  EXPECT_EQ(matching({}), 10);
  EXPECT_EQ(matching(by_path("/f1")), 1) << "/f10 is not below /f1";
  EXPECT_EQ(matching(by_path("/f1*")), 2);
  EXPECT_EQ(matching(by_path("/")), 10);
  EXPECT_EQ(matching(by_path("/g")), 0);
  Filter filter;
  filter.operation = "unlink";
  EXPECT_EQ(matching(filter), 0);
  filter = {};
  filter.decision = "deny";
  EXPECT_EQ(matching(filter), 0);
  filter = {};
  filter.since = "9999";
  EXPECT_EQ(matching(filter), 0);
  filter.since = "2000-01-01";
  EXPECT_EQ(matching(filter), 10);
}

}  // namespace
}  // namespace fbroker::audit
