// The audit log: what was taken over is in the log, whole, in order, chained.
#include "broker/audit/audit_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "broker/audit/read.h"
#include "broker/audit/verify.h"
#include "policy/base/unique_fd.h"

namespace fbroker::audit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr auto kLong = 20s;  // bound of a wait for something that must come

class AuditLogTest : public testing::Test {
 protected:
  AuditLogTest() {
    char name[] = "/tmp/fbroker-audit-XXXXXX";
    root_ = ::mkdtemp(name);
    options_.directory = root_ + "/audit";
    options_.pace = 0ms;
  }
  ~AuditLogTest() override { fs::remove_all(root_); }

  std::unique_ptr<AuditLog> open() {
    auto log = AuditLog::open(options_);
    EXPECT_TRUE(log) << log.error().text();
    return log ? std::move(*log) : nullptr;
  }

  std::vector<Entry> entries() const {
    std::vector<Entry> all;
    auto reader = LineReader::open(options_.directory);
    if (!reader) return all;
    for (auto line = reader->next(); line && *line; line = reader->next()) {
      auto entry = parse_entry((*line)->text);
      EXPECT_TRUE(entry) << (*line)->text;
      if (entry) all.push_back(std::move(*entry));
    }
    return all;
  }

  Verdict verified() const {
    auto verdict = verify(options_.directory);
    EXPECT_TRUE(verdict);
    return verdict ? *verdict : Verdict{};
  }

  std::string segment(const char* name = "000001.jsonl") const {
    return options_.directory + "/" + name;
  }

  static Record allowed(const std::string& path) {
    Record record;
    record.session = "web-1";
    record.operation = "open";
    record.path = path;
    record.decision = "allow";
    record.reason = "p:2";
    return record;
  }
  static Record denied(const std::string& path) {
    Record record = allowed(path);
    record.decision = "deny";
    record.reason = "base:env";
    record.error = ENOENT;
    return record;
  }

  std::string root_;
  AuditOptions options_;
};

TEST_F(AuditLogTest, WritesWhatItWasGivenInOrderAndTheChainHolds) {
  auto log = open();
  for (int i = 1; i <= 1000; ++i) ASSERT_TRUE(log->append(allowed("/f" + std::to_string(i))));
  ASSERT_TRUE(log->sync(kLong));
  EXPECT_EQ(log->status().durable, 1000u);
  const auto read = entries();
  ASSERT_EQ(read.size(), 1000u);
  for (std::size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].sequence, i + 1);
    EXPECT_EQ(read[i].record.path, "/f" + std::to_string(i + 1));
  }
  const Verdict verdict = verified();
  EXPECT_FALSE(verdict.bad) << verdict.bad->what;
  EXPECT_EQ(verdict.records, 1000u);
  EXPECT_EQ(std::string(text_of(verdict.head.hash)), log->status().head);
}

TEST_F(AuditLogTest, EveryMemberComesBackAsItWas) {
  Record record = denied("/a\n\"\\\x1b[2J\x7f\xc2\x9b");
  record.requested = "/b\xff";
  record.target = std::string("/\xed\xa0\x80", 4);  // a surrogate is no UTF-8
  record.host_path = "/home/p/ü";
  record.pid = 7;
  record.peer_pid = 8;
  record.handle = 9;
  record.bytes_read = 0;
  record.bytes_written = 1ull << 40;
  record.detail = "O_RDONLY";
  record.host = "example.com";
  record.address = "192.0.2.1";
  record.port = 443;
  record.milliseconds = 0;
  record.repeated = 3;
  auto log = open();
  ASSERT_TRUE(log->append(record));
  ASSERT_TRUE(log->sync(kLong));
  const auto read = entries();
  ASSERT_EQ(read.size(), 1u);
  const Record& r = read[0].record;
  EXPECT_EQ(r.path, record.path);
  EXPECT_EQ(r.requested, record.requested);
  EXPECT_EQ(r.target, record.target);
  EXPECT_EQ(r.host_path, record.host_path);
  EXPECT_EQ(r.decision, "deny");
  EXPECT_EQ(r.reason, "base:env");
  EXPECT_EQ(r.error, ENOENT);
  EXPECT_EQ(r.pid, 7u);
  EXPECT_EQ(r.peer_pid, 8u);
  EXPECT_EQ(r.handle, 9u);
  EXPECT_EQ(r.bytes_read, 0u);
  EXPECT_EQ(r.bytes_written, 1ull << 40);
  EXPECT_EQ(r.detail, "O_RDONLY");
  EXPECT_EQ(r.host, "example.com");
  EXPECT_EQ(r.address, "192.0.2.1");
  EXPECT_EQ(r.port, 443u);
  EXPECT_EQ(r.milliseconds, 0u);
  EXPECT_EQ(r.repeated, 3u);
}

TEST_F(AuditLogTest, WhoeverWaitsForTheDiskDoesNotWaitForCompany) {
  options_.linger = 1h;
  options_.durable_bound = kLong;
  auto log = open();
  ASSERT_TRUE(log->append(allowed("/a")));
  EXPECT_TRUE(log->wait_durable());
  EXPECT_EQ(log->status().durable, 1u);
  ASSERT_TRUE(log->append(allowed("/b")));
  EXPECT_TRUE(log->sync(kLong));
  EXPECT_EQ(log->status().durable, 2u);
}

TEST_F(AuditLogTest, WhatNobodyWaitsForIsWrittenByItself) {
  options_.pace = AuditOptions().pace;
  auto log = open();
  for (std::uint64_t i = 1; i <= 5; ++i) {
    ASSERT_TRUE(log->append(allowed("/f")));
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (log->status().durable < i && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
    ASSERT_EQ(entries().size(), i);
  }
}

TEST_F(AuditLogTest, ARecordThatNoReaderWouldAcceptIsRefusedAndTheLogStaysWhole) {
  options_.ring_bytes = 16u << 20;
  auto log = open();
  Record record = allowed("/a");
  record.detail = std::string(200u << 10, '\x01');   // six bytes for each in the line
  EXPECT_FALSE(log->append(record));
  record.detail = std::string(200u << 10, 'a');
  EXPECT_TRUE(log->append(record));
  log.reset();
  EXPECT_EQ(entries().size(), 1u);
  EXPECT_FALSE(verified().bad);
}

TEST_F(AuditLogTest, ALineHoldsNoByteThatSteersATerminal) {
  auto log = open();
  ASSERT_TRUE(log->append(allowed("/\x1b]0;x\x07\x7f\xc2\x9b\xff")));
  ASSERT_TRUE(log->append(allowed("/\x1b]0;x\x07\x7f\xc2\x9b")));
  log.reset();
  std::ifstream file(segment());
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    EXPECT_TRUE(byte == '\n' || (byte >= 0x20 && byte < 0x7f)) << int{byte};
  }
}

TEST_F(AuditLogTest, EightThreadsLoseNothing) {
  auto log = open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i)
        EXPECT_TRUE(log->append(allowed("/" + std::to_string(t) + "/" + std::to_string(i))));
    });
  for (auto& thread : threads) thread.join();
  log.reset();
  std::set<std::string> paths;
  for (const Entry& entry : entries()) paths.insert(entry.record.path);
  EXPECT_EQ(paths.size(), 4000u);
  EXPECT_FALSE(verified().bad);
}

// Callers that reserve and fill their entries at the same time, on a ring that
// goes round many times; what is counted and who syncs goes between.
TEST_F(AuditLogTest, EachProducersRecordsAreThereOnceAndInItsOrder) {
  constexpr int kProducers = 6, kEach = 800;
  options_.ring_bytes = 64u << 10;
  options_.fold_window = 1ms;
  auto log = open();
  std::vector<std::thread> threads;
  for (int t = 0; t < kProducers; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        Record record = allowed("/" + std::to_string(i));
        record.pid = static_cast<std::uint32_t>(t + 1);
        record.detail = std::string(static_cast<std::size_t>(i * 37 % 900), static_cast<char>('a' + t));
        EXPECT_TRUE(log->append(record));
        EXPECT_TRUE(i % 10 != 0 || log->append(denied("/.env" + std::to_string(t))));
        EXPECT_TRUE(i % 200 != 0 || log->sync(kLong));
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(log->sync(kLong));
  EXPECT_EQ(log->status().durable, log->status().appended);
  log.reset();
  std::map<std::uint32_t, int> next;
  std::uint64_t refusals = 0;
  for (const Entry& entry : entries()) {
    const Record& r = entry.record;
    if (r.decision == "deny") {
      refusals += r.repeated;
      continue;
    }
    const int i = next[r.pid]++;
    ASSERT_EQ(r.path, "/" + std::to_string(i)) << "lost, doubled or out of order";
    ASSERT_EQ(r.detail, std::string(static_cast<std::size_t>(i * 37 % 900), static_cast<char>('a' + r.pid - 1)));
  }
  ASSERT_EQ(next.size(), std::size_t{kProducers});
  for (const auto& [producer, count] : next) EXPECT_EQ(count, kEach) << producer;
  EXPECT_EQ(refusals, std::uint64_t{kProducers} * kEach / 10);
  const Verdict verdict = verified();
  EXPECT_FALSE(verdict.bad) << verdict.bad->what;
}

TEST_F(AuditLogTest, AFullRingMakesCallersWaitAndLosesNothing) {
  options_.ring_bytes = 64u << 10;
  auto log = open();
  const std::string long_name(4000, 'x');
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(log->append(allowed("/" + long_name + std::to_string(i))));
  log.reset();
  EXPECT_EQ(entries().size(), 500u);
}

TEST_F(AuditLogTest, SegmentsRotateAndLink) {
  options_.segment_bytes = 2000;
  options_.ring_bytes = 64u << 10;
  auto log = open();
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(log->append(allowed("/f" + std::to_string(i))));
    ASSERT_TRUE(log->sync(kLong));
  }
  log.reset();
  EXPECT_TRUE(fs::exists(segment("000002.jsonl")));
  const Verdict verdict = verified();
  EXPECT_FALSE(verdict.bad) << verdict.bad->what;
  EXPECT_EQ(verdict.records, 40u);
}

TEST_F(AuditLogTest, GoesOnWhereItEnded) {
  for (int run = 0; run < 3; ++run) {
    auto log = open();
    ASSERT_TRUE(log->append(allowed("/f")));
    EXPECT_EQ(log->status().recovery.drained, 0u);
  }
  EXPECT_EQ(verified().records, 3u);
  EXPECT_FALSE(verified().bad);
}

TEST_F(AuditLogTest, ASecondBrokerOnOneLogIsRefused) {
  auto log = open();
  const auto second = AuditLog::open(options_);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().text(), HasSubstr("another broker"));
  EXPECT_TRUE(verified().live);
  log.reset();
  EXPECT_FALSE(verified().live);
  EXPECT_TRUE(AuditLog::open(options_));
}

TEST_F(AuditLogTest, ADirectoryThatOthersMayWriteIsRefused) {
  fs::create_directory(options_.directory);
  ::chmod(options_.directory.c_str(), 0777);
  EXPECT_FALSE(AuditLog::open(options_));
  ::chmod(options_.directory.c_str(), 0700);
  EXPECT_TRUE(AuditLog::open(options_));
}

// ---- folding ----------------------------------------------------------------

TEST_F(AuditLogTest, EqualRefusalsBecomeOneWithACount) {
  options_.fold_window = 1h;
  auto log = open();
  for (std::uint32_t i = 0; i < 100; ++i) {
    Record record = denied("/.env");
    record.pid = i;  // another process each time
    ASSERT_TRUE(log->append(record));
  }
  ASSERT_TRUE(log->append(denied("/.env2")));
  ASSERT_TRUE(log->sync(kLong));
  const auto read = entries();
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read[0].record.repeated, 1u);
  EXPECT_EQ(read[1].record.path, "/.env2");
  EXPECT_EQ(read[2].record.path, "/.env");
  EXPECT_EQ(read[2].record.repeated, 99u);
  EXPECT_LE(read[2].since, read[2].time);
}

TEST_F(AuditLogTest, WhatIsAllowedOrDiffersIsNotFolded) {
  options_.fold_window = 1h;
  auto log = open();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(log->append(allowed("/f")));
  Record other = denied("/.env");
  ASSERT_TRUE(log->append(other));
  other.session = "web-2";
  ASSERT_TRUE(log->append(other));
  other.operation = "unlink";
  ASSERT_TRUE(log->append(other));
  log.reset();
  EXPECT_EQ(entries().size(), 13u);
}

TEST_F(AuditLogTest, TheWindowsEndWritesTheCountByItself) {
  options_.fold_window = 20ms;
  auto log = open();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(log->append(denied("/.env")));
  std::uint64_t told = 0;
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (told < 3 && std::chrono::steady_clock::now() < until) {
    told = 0;
    for (const Entry& entry : entries()) told += entry.record.repeated;
    std::this_thread::yield();
  }
  EXPECT_EQ(told, 3u);
}

TEST_F(AuditLogTest, ClosingWritesTheCount) {
  options_.fold_window = 1h;
  auto log = open();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(log->append(denied("/.env")));
  log.reset();
  const auto read = entries();
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[1].record.repeated, 4u);
}

TEST_F(AuditLogTest, MoreDifferentRefusalsThanSlotsLoseNothing) {
  options_.fold_window = 1h;
  auto log = open();
  for (int round = 0; round < 2; ++round)
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(log->append(denied("/d" + std::to_string(i))));
  log.reset();
  std::map<std::string, std::uint64_t> told;
  for (const Entry& entry : entries()) told[entry.record.path] += entry.record.repeated;
  ASSERT_EQ(told.size(), 1000u);
  for (const auto& [path, count] : told) EXPECT_EQ(count, 2u) << path;
}

// ---- quotas -------------------------------------------------------------------

TEST_F(AuditLogTest, ASessionOverItsQuotaIsRefusedAlone) {
  options_.quota.records_per_second = 0;
  options_.quota.records_burst = 10;
  auto log = open();
  int accepted = 0;
  EXPECT_TRUE(log->ready("web-1"));
  for (int i = 0; i < 50; ++i) {
    const auto answer = log->append(denied("/f" + std::to_string(i)));
    if (answer) ++accepted;
    else EXPECT_EQ(answer.error().value, EIO);
  }
  EXPECT_EQ(accepted, 10);
  Record other = allowed("/g");
  other.session = "web-2";
  EXPECT_TRUE(log->append(other)) << "another session pays for it";
  Record grant;
  grant.operation = "grant";
  EXPECT_TRUE(log->append(grant)) << "the broker itself pays for it";
  EXPECT_EQ(log->status().over_quota, 40u);
  EXPECT_FALSE(log->ready("web-1"));
  EXPECT_TRUE(log->ready("web-2"));
  EXPECT_TRUE(log->ready());
  EXPECT_TRUE(log->status().writing);
  log.reset();
  std::size_t notes = 0;
  for (const Entry& entry : entries()) notes += entry.record.operation == "audit-quota" ? 1 : 0;
  EXPECT_GE(notes, 1u);
}

// A name of control characters takes six times as much of the disk.
TEST_F(AuditLogTest, ASessionPaysForWhatItsNamesBecomeInTheLog) {
  options_.quota.bytes_per_second = 0;
  options_.quota.bytes_burst = 100'000;
  options_.fold_window = 0ms;
  for (const bool escaped : {false, true}) {
    fs::remove_all(options_.directory);
    auto log = open();
    int accepted = 0;
    for (; accepted < 100; ++accepted) {
      if (!log->append(denied("/" + std::string(4000, escaped ? '\x01' : 'a')))) break;
      ASSERT_TRUE(log->sync(kLong));
    }
    if (escaped) EXPECT_LE(accepted, 5);
    else EXPECT_GE(accepted, 20);
  }
}

TEST_F(AuditLogTest, WhatWasDoneAfterReadyIsRecordedThoughTheQuotaWentMeanwhile) {
  options_.quota.records_per_second = 0;
  options_.quota.records_burst = 10;
  auto log = open();
  ASSERT_TRUE(log->ready("web-1"));
  for (int i = 0; i < 50; ++i) (void)log->append(denied("/f" + std::to_string(i)));
  EXPECT_TRUE(log->append(allowed("/done")));
  EXPECT_FALSE(log->ready("web-1"));
}

// ---- a broker that is killed ----------------------------------------------------

// Appends in a child until it is killed; what it was answered for is counted
// in a pipe, one byte each, after the answer.
std::size_t append_until_killed(const AuditOptions& options, bool refusals, std::size_t at_least) {
  int ends[2];
  if (::pipe(ends) != 0) return 0;
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto log = AuditLog::open(options);
    if (!log) ::_exit(1);
    for (int i = 0;; ++i) {
      Record record;
      record.session = "web-1";
      record.operation = "open";
      record.path = refusals ? "/.env" : "/f" + std::to_string(i);
      record.decision = refusals ? "deny" : "allow";
      if (!(*log)->append(record)) ::_exit(2);
      if (::write(ends[1], "x", 1) != 1) ::_exit(3);
    }
  }
  ::close(ends[1]);
  std::size_t acknowledged = 0;
  char buffer[4096];
  bool killed = false;
  for (ssize_t got; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    acknowledged += static_cast<std::size_t>(got);
    if (acknowledged >= at_least && !killed) killed = ::kill(child, SIGKILL) == 0;
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
  return acknowledged;
}

TEST_F(AuditLogTest, TheSuccessorOfAKilledBrokerFindsEveryAcknowledgedRecord) {
  std::uint64_t drained = 0;
  for (std::size_t run = 0; run < 10; ++run) {
    fs::remove_all(options_.directory);
    options_.pace = run % 2 == 0 ? 0ms : 1h;  // killed while it writes; or with all in the ring
    const std::size_t acknowledged = append_until_killed(options_, false, 100 + run * 97);
    {
      auto log = open();
      ASSERT_TRUE(log);
      drained += log->status().recovery.drained;
    }
    std::size_t found = 0;
    for (const Entry& entry : entries()) {
      if (entry.record.operation != "open") continue;
      EXPECT_EQ(entry.record.path, "/f" + std::to_string(found)) << "lost, doubled or out of order";
      ++found;
    }
    EXPECT_GE(found, acknowledged);
    EXPECT_LE(found, acknowledged + 1);
    const Verdict verdict = verified();
    EXPECT_FALSE(verdict.bad) << verdict.bad->what;
  }
  EXPECT_GT(drained, 0u) << "no kill met a record that was in the ring alone";
}

// As append_until_killed(), with several threads: how many answers each had.
std::vector<std::size_t> append_from_threads_until_killed(const AuditOptions& options, std::size_t threads,
                                                          std::size_t at_least) {
  int ends[2];
  if (::pipe(ends) != 0) return {};
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto log = AuditLog::open(options);
    if (!log) ::_exit(1);
    std::vector<std::thread> producers;
    for (std::size_t t = 0; t < threads; ++t)
      producers.emplace_back([&, t] {
        for (int i = 0;; ++i) {
          Record record;
          record.session = "web-1";
          record.operation = "open";
          record.path = "/" + std::to_string(i);
          record.decision = "allow";
          record.pid = static_cast<std::uint32_t>(t + 1);
          if (!(*log)->append(record)) ::_exit(2);
          const char who = static_cast<char>(t);
          if (::write(ends[1], &who, 1) != 1) ::_exit(3);
        }
      });
    for (auto& producer : producers) producer.join();
  }
  ::close(ends[1]);
  std::vector<std::size_t> acknowledged(threads);
  std::size_t all = 0;
  char buffer[4096];
  for (ssize_t got; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    for (ssize_t i = 0; i < got; ++i) ++acknowledged[static_cast<std::size_t>(buffer[i])];
    const std::size_t before = all;
    all += static_cast<std::size_t>(got);
    if (before < at_least && all >= at_least) ::kill(child, SIGKILL);
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
  return acknowledged;
}

TEST_F(AuditLogTest, TheSuccessorFindsEveryProducersAnsweredRecordsInItsOrder) {
  constexpr std::size_t kProducers = 4;
  options_.ring_bytes = 64u << 10;
  for (std::size_t run = 0; run < 10; ++run) {
    fs::remove_all(options_.directory);
    options_.pace = run % 2 == 0 ? 0ms : 5ms;
    const auto acknowledged = append_from_threads_until_killed(options_, kProducers, 300 + run * 211);
    {
      auto log = open();
      ASSERT_TRUE(log);
      EXPECT_EQ(log->status().recovery.torn, 0u) << "a kill damages nothing";
    }
    std::map<std::uint32_t, std::size_t> found;
    for (const Entry& entry : entries()) {
      if (entry.record.operation != "open") continue;
      EXPECT_EQ(entry.record.path, "/" + std::to_string(found[entry.record.pid]++)) << "lost, doubled or out of order";
    }
    for (std::size_t t = 0; t < kProducers; ++t) {
      EXPECT_GE(found[static_cast<std::uint32_t>(t + 1)], acknowledged[t]);
      EXPECT_LE(found[static_cast<std::uint32_t>(t + 1)], acknowledged[t] + 1);
    }
    const Verdict verdict = verified();
    EXPECT_FALSE(verdict.bad) << verdict.bad->what;
  }
}

TEST_F(AuditLogTest, AKillIsStatedOnceAndTheChainGoesOnOverIt) {
  const auto restarts = [&] {
    std::vector<Entry> all = entries();
    std::erase_if(all, [](const Entry& entry) { return entry.record.operation != "restart"; });
    return all;
  };
  for (std::size_t kills = 1; kills <= 2; ++kills) {
    (void)append_until_killed(options_, false, 150);
    // The second child was the first kill's successor.
    EXPECT_EQ(restarts().size(), kills - 1);
  }
  for (const bool killed : {true, false, false}) {
    auto log = open();
    ASSERT_TRUE(log);
    EXPECT_EQ(log->status().recovery.killed, killed);
    ASSERT_TRUE(log->append(allowed("/after")));
  }
  const auto stated = restarts();
  ASSERT_EQ(stated.size(), 2u) << "an orderly end leaves none";
  for (const Entry& entry : stated) {
    EXPECT_TRUE(entry.record.session.empty());
    EXPECT_THAT(entry.record.detail, HasSubstr("killed"));
    EXPECT_THAT(entry.record.detail, HasSubstr("after record " + std::to_string(entry.sequence - 1) + ";"))
        << "it comes right after the last that was taken over";
  }
  const Verdict verdict = verified();
  EXPECT_FALSE(verdict.bad) << verdict.bad->what;
}

TEST_F(AuditLogTest, ABrokerThatEndedInOrderIsNotSaidToHaveBeenKilledThoughItsLogCouldNotBeWritten) {
  {
    auto log = open();
    fs::rename(segment(), segment("elsewhere"));
    ASSERT_TRUE(log->append(allowed("/kept")));
    (void)log->sync(100ms);
  }
  fs::rename(segment("elsewhere"), segment());
  { auto log = open(); ASSERT_TRUE(log); EXPECT_FALSE(log->status().recovery.killed); }
  std::vector<std::string> operations;
  for (const Entry& entry : entries()) operations.push_back(entry.record.operation);
  EXPECT_THAT(operations, testing::ElementsAre("open", "audit-recovered"));
}

TEST_F(AuditLogTest, TheSuccessorFindsRepeatsThatWereOnlyCounted) {
  options_.fold_window = 3ms;  // so that kills meet the writing of a count as well
  for (std::size_t run = 0; run < 20; ++run) {
    fs::remove_all(options_.directory);
    const std::size_t acknowledged = append_until_killed(options_, true, 200 + run * 501);
    { auto log = open(); ASSERT_TRUE(log); }
    std::uint64_t told = 0;
    for (const Entry& entry : entries())
      if (entry.record.operation == "open") told += entry.record.repeated;
    EXPECT_GE(told, acknowledged);
    EXPECT_LE(told, acknowledged + 1);
  }
}

TEST_F(AuditLogTest, ATornLastLineIsKeptAsideAndReported) {
  { auto log = open(); ASSERT_TRUE(log->append(allowed("/f"))); }
  { std::ofstream(segment(), std::ios::app) << R"({"seq":2,"time":"20)"; }
  EXPECT_TRUE(verified().bad);
  auto log = open();
  EXPECT_EQ(log->status().recovery.torn, 1u);
  std::ifstream kept(options_.directory + "/" + log->status().recovery.kept_aside);
  std::string text;
  std::getline(kept, text);
  EXPECT_EQ(text, R"({"seq":2,"time":"20)");
  log.reset();
  EXPECT_FALSE(verified().bad);
  EXPECT_EQ(entries().back().record.operation, "audit-recovered");
}

TEST_F(AuditLogTest, ALogThatLostItsEndShowsTheGap) {
  {
    auto log = open();
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(log->append(allowed("/f" + std::to_string(i))));
  }
  std::ifstream file(segment());
  std::string first;
  std::getline(file, first);
  fs::resize_file(segment(), first.size() + 1);
  EXPECT_THAT(verified().bad->what, HasSubstr("2 to 10"));
  auto log = open();
  EXPECT_EQ(log->status().recovery.lost_after, 1u);
  ASSERT_TRUE(log->sync(kLong));
  const Verdict verdict = verified();
  ASSERT_TRUE(verdict.bad);
  EXPECT_EQ(verdict.bad->line, 2u);
  EXPECT_THAT(verdict.bad->what, HasSubstr("records 2 to 10 are missing"));
}

TEST_F(AuditLogTest, DamagedRingEntriesAreKeptAsideAndTheOthersTakenOver) {
  // A log that cannot be written keeps its ring; then a page of that is damaged.
  {
    auto log = open();
    ASSERT_TRUE(log->append(allowed("/first")));
    ASSERT_TRUE(log->sync(kLong));
    fs::rename(segment(), segment("elsewhere"));
    for (int i = 0; i < 20; ++i)
      if (!log->append(allowed("/f" + std::to_string(i) + "-end"))) break;
    (void)log->sync(100ms);
  }
  fs::rename(segment("elsewhere"), segment());
  std::fstream ring(options_.directory + "/ring", std::ios::in | std::ios::out | std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(ring)), {});
  const std::size_t at = bytes.find("/f0-end");
  ASSERT_NE(at, bytes.npos);
  ring.clear();
  ring.seekp(static_cast<std::streamoff>(at));
  ring << "/X";
  ring.close();
  const std::size_t whole = [&] {
    std::size_t count = 0;
    for (std::size_t p = bytes.find("-end"); p != bytes.npos; p = bytes.find("-end", p + 1)) ++count;
    return count - 1;
  }();
  auto log = open();
  EXPECT_EQ(log->status().recovery.torn, 1u);
  EXPECT_EQ(log->status().recovery.drained, whole);
  log.reset();
  EXPECT_FALSE(verified().bad);
}

// ---- a log that cannot be written --------------------------------------------------

void until(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kLong;
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_TRUE(condition());
}

TEST_F(AuditLogTest, WhenItsDirectoryIsGoneWorkIsRefusedUntilItIsBack) {
  options_.retry = 1ms;
  auto log = open();
  ASSERT_TRUE(log->append(allowed("/before")));
  ASSERT_TRUE(log->sync(kLong));
  fs::rename(options_.directory, root_ + "/away");
  (void)log->append(allowed("/during"));
  until([&] { return !log->status().writing; });
  const auto refused = log->append(allowed("/refused"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().value, EIO);
  EXPECT_FALSE(log->append(denied("/refused")));
  EXPECT_FALSE(log->ready());
  EXPECT_FALSE(log->ready("web-1"));
  EXPECT_THAT(log->status().problem, HasSubstr("is gone"));
  fs::rename(root_ + "/away", options_.directory);
  until([&] { return log->status().writing; });
  ASSERT_TRUE(log->append(allowed("/after")));
  log.reset();
  std::vector<std::string> seen;
  for (const Entry& entry : entries())
    seen.push_back(entry.record.path.empty() ? entry.record.operation : entry.record.path);
  EXPECT_THAT(seen, testing::ElementsAre("/before", "/during", "audit-resumed", "/after"));
  EXPECT_FALSE(verified().bad);
}

// As root, or else as root of a user namespace of its own.
bool own_mounts() {
  if (::unshare(CLONE_NEWNS) == 0) return true;
  const uid_t uid = ::geteuid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  std::ofstream("/proc/self/uid_map") << "0 " << uid << " 1";
  return ::geteuid() == 0;
}

TEST_F(AuditLogTest, OnAFullDiskWorkIsRefusedAndNothingThatWasTakenIsLost) {
  options_.retry = 1ms;
  options_.ring_bytes = 64u << 10;
  const std::string mount = root_ + "/small";
  fs::create_directory(mount);
  options_.directory = mount + "/audit";
  // In a child with mounts of its own, so that nothing stays mounted.
  const pid_t child = ::fork();
  if (child == 0) {
    if (!own_mounts()) ::_exit(77);
    ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (::mount("small", mount.c_str(), "tmpfs", 0, "size=1600k") != 0) ::_exit(77);
    std::uint64_t accepted = 0;
    {
      auto log = AuditLog::open(options_);
      if (!log) ::_exit(1);
      { std::ofstream filler(mount + "/filler"); filler << std::string(400u << 10, 'x'); }
      const std::string name(2000, 'n');
      while ((*log)->append(allowed("/" + name))) ++accepted;
      if ((*log)->status().writing) ::_exit(2);
      if ((*log)->append(allowed("/no"))) ::_exit(3);
      fs::remove(mount + "/filler");
      const auto end = std::chrono::steady_clock::now() + kLong;
      while (!(*log)->append(allowed("/yes")))
        if (std::chrono::steady_clock::now() > end) ::_exit(4);
    }
    std::uint64_t names = 0, yes = 0;
    for (const Entry& entry : entries()) {
      names += entry.record.path.size() == 2001 ? 1 : 0;
      yes += entry.record.path == "/yes" ? 1 : 0;
    }
    if (names != accepted || yes != 1) ::_exit(5);
    ::_exit(verified().bad ? 6 : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no mount namespace to be had here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace fbroker::audit
