// The ring: what a killed broker left in it is known for what it is.
#include "broker/audit/ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <thread>

#include "broker/audit/audit_log.h"
#include "broker/audit/encode.h"
#include "broker/audit/layout.h"
#include "broker/audit/read.h"
#include "broker/audit/verify.h"

namespace fbroker::audit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::size_t kBytes = 64u << 10;
constexpr auto kLong = 20s;

class AuditRingTest : public testing::Test {
 protected:
  AuditRingTest() {
    char name[] = "/tmp/fbroker-ring-XXXXXX";
    root_ = ::mkdtemp(name);
    fs::create_directory(root_ + "/audit");
    fs::permissions(root_ + "/audit", fs::perms::owner_all);
    directory_ = UniqueFd(::open((root_ + "/audit").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~AuditRingTest() override { fs::remove_all(root_); }

  std::unique_ptr<Ring> open() {
    auto ring = Ring::open(directory_.get(), kRingName, kBytes);
    EXPECT_TRUE(ring) << ring.error().text();
    return ring ? std::move(*ring) : nullptr;
  }
  static Record record_of(const std::string& path) {
    Record record;
    record.session = "web-1";
    record.operation = "open";
    record.path = path;
    record.decision = "allow";
    return record;
  }
  static Ring::Slot reserve(Ring& ring, std::uint64_t sequence, const Record& record) {
    auto slot = ring.reserve(sequence, Ring::Kind::packed, packed_size(record));
    EXPECT_TRUE(slot);
    return *slot;
  }
  static void put(Ring& ring, std::uint64_t sequence, const std::string& path) {
    const Record record = record_of(path);
    const Ring::Slot slot = reserve(ring, sequence, record);
    pack(record, {}, slot.bytes);
    Ring::commit(slot);
  }
  // Laps of whole entries, so that old ones lie where new ones are reserved.
  static std::uint64_t go_round(Ring& ring, std::uint64_t sequence) {
    for (int i = 0; i < 3000; ++i, ++sequence) {
      put(ring, sequence, "/old");
      ring.release(ring.tail(), {});
    }
    return sequence;
  }

  std::unique_ptr<AuditLog> open_log() {
    AuditOptions options;
    options.directory = root_ + "/audit";
    auto log = AuditLog::open(options);
    EXPECT_TRUE(log) << log.error().text();
    return log ? std::move(*log) : nullptr;
  }
  // Paths, or operations where there is none.
  std::vector<std::string> told() const {
    std::vector<std::string> all;
    auto reader = LineReader::open(root_ + "/audit");
    if (!reader) return all;
    for (auto line = reader->next(); line && *line; line = reader->next()) {
      const auto entry = parse_entry((*line)->text);
      EXPECT_TRUE(entry) << (*line)->text;
      if (entry) all.push_back(entry->record.path.empty() ? entry->record.operation : entry->record.path);
    }
    return all;
  }

  std::string root_;
  UniqueFd directory_;
};

TEST_F(AuditRingTest, TheWriterSeesNothingOfAnEntryBeforeItIsCommitted) {
  auto ring = open();
  std::uint64_t sequence = go_round(*ring, 1);
  std::uint64_t position = ring->head();
  const Record record = record_of("/a");
  const Ring::Slot slot = reserve(*ring, sequence, record);
  put(*ring, sequence + 1, "/b");
  const std::uint64_t before = position;
  EXPECT_FALSE(ring->next(position)) << "an entry that nobody has filled";
  EXPECT_EQ(position, before);
  pack(record, {}, slot.bytes);
  Ring::commit(slot);
  for (const char* path : {"\"path\":\"/a\"", "\"path\":\"/b\""}) {
    const auto entry = ring->next(position);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->sequence, sequence++);
    std::string members;
    EXPECT_TRUE(add_packed_members(members, entry->bytes));
    EXPECT_NE(members.find(path), members.npos) << members;
  }
  EXPECT_EQ(position, ring->tail());
}

TEST_F(AuditRingTest, AnEntryThatWasNeverCommittedIsKnownAndThoseAfterItAreFound) {
  std::uint64_t first = 0;
  {
    auto ring = open();
    first = go_round(*ring, 1);
    put(*ring, first, "/a");
    const Record half = record_of(std::string(300, 'h'));
    std::memset(reserve(*ring, first + 1, half).bytes, 'x', 100);   // killed while it copied
    put(*ring, first + 2, "/c");
    (void)reserve(*ring, first + 3, half);
  }
  const Ring::Found found = open()->find();
  EXPECT_EQ(found.torn_pieces, 0u) << "nothing of it is damaged";
  ASSERT_EQ(found.entries.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(found.entries[i].sequence, first + i);
    EXPECT_EQ(found.entries[i].finished, i % 2 == 0);
  }
}

TEST_F(AuditRingTest, TheLogGivesItsNumberToWhatWasNeverFinishedAndTakesNothingOverTwice) {
  {
    auto ring = open();
    put(*ring, 1, "/a");
    (void)reserve(*ring, 2, record_of("/unanswered"));
    put(*ring, 3, "/c");
    ring->set_in_use(true);
  }
  fs::copy(root_ + "/audit/ring", root_ + "/ring");
  {
    auto log = open_log();
    ASSERT_TRUE(log);
    EXPECT_TRUE(log->status().recovery.killed);
    EXPECT_EQ(log->status().recovery.drained, 2u);
    EXPECT_EQ(log->status().recovery.unfinished, 1u);
    EXPECT_EQ(log->status().recovery.torn, 0u);
  }
  const std::vector<std::string> once{"/a", "audit-unfinished", "/c", "restart", "audit-recovered"};
  EXPECT_EQ(told(), once);
  // Killed once more, right after the log was written and before the ring was emptied.
  fs::copy(root_ + "/ring", root_ + "/audit/ring", fs::copy_options::overwrite_existing);
  { EXPECT_EQ(open_log()->status().recovery.drained, 0u); }
  auto twice = once;
  twice.push_back("restart");
  EXPECT_EQ(told(), twice);
  EXPECT_FALSE(verify(root_ + "/audit")->bad);
}

TEST_F(AuditRingTest, MembersThatLieThereAsTextAreTakenOverToo) {
  {
    auto ring = open();
    ASSERT_TRUE(ring->push(1, R"("time":"2026-01-01T00:00:00.000000000Z","operation":"open","path":"/a")"));
    put(*ring, 2, "/b");
  }
  { auto log = open_log(); ASSERT_TRUE(log); EXPECT_FALSE(log->status().recovery.killed); }
  EXPECT_EQ(told(), (std::vector<std::string>{"/a", "/b", "audit-recovered"}));
}

TEST_F(AuditRingTest, AFullRingReservesNothingAndHoldsWhatItHeld) {
  auto ring = open();
  const Record record = record_of(std::string(1000, 'n'));
  std::uint64_t sequence = 0;
  while (auto slot = ring->reserve(sequence + 1, Ring::Kind::packed, packed_size(record))) {
    pack(record, {}, slot->bytes);
    Ring::commit(*slot);
    ++sequence;
  }
  EXPECT_GT(sequence, 50u);
  const Ring::Found found = ring->find();
  ASSERT_EQ(found.entries.size(), sequence);
  EXPECT_TRUE(std::ranges::all_of(found.entries, [](const auto& entry) { return entry.finished; }));
}

TEST_F(AuditRingTest, PackedBytesThatWereCutOrGrewAreNoRecord) {
  Record record = record_of("/a");
  record.pid = 7;
  record.bytes_read = 0;
  record.detail = "O_RDONLY";
  std::string packed(packed_size(record), '\0');
  pack(record, {}, packed.data());
  std::string out = "before";
  for (std::size_t size = 0; size < packed.size(); ++size)
    EXPECT_FALSE(add_packed_members(out, std::string_view(packed).substr(0, size))) << size;
  EXPECT_FALSE(add_packed_members(out, packed + "x"));
  EXPECT_EQ(out, "before");
  EXPECT_TRUE(add_packed_members(out, packed));
  EXPECT_EQ(session_of_packed(packed), "web-1");
  EXPECT_EQ(session_of_packed("short"), "");
}

}  // namespace
}  // namespace fbroker::audit
