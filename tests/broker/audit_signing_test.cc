// Signatures: what somebody who can write the log, but has no key, cannot hide.
#include "broker/audit/signing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "broker/audit/audit_log.h"
#include "broker/audit/read.h"
#include "broker/audit/verify.h"
#include "broker/grants/revoke.h"

namespace fbroker::audit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr auto kLong = 20s;  // bound of a wait for something that must come

class AuditSigningTest : public testing::Test {
 protected:
  AuditSigningTest() {
    char name[] = "/tmp/fbroker-audit-XXXXXX";
    root_ = ::mkdtemp(name);
    options_.key_directory = root_;
    options_.directory = root_ + "/audit";
    options_.pace = 0ms;
    options_.checkpoint_records = 4;
    options_.checkpoint_after = 1h;
  }
  ~AuditSigningTest() override { fs::remove_all(root_); }

  std::unique_ptr<AuditLog> open() {
    auto log = AuditLog::open(options_);
    EXPECT_TRUE(log) << log.error().text();
    return log ? std::move(*log) : nullptr;
  }
  static Record record(int i) {
    Record made;
    made.session = "web-1";
    made.operation = "open";
    made.path = "/f" + std::to_string(i);
    made.decision = "allow";
    return made;
  }
  // Each on disk before the next comes.
  void write(AuditLog& log, int count) {
    for (int i = 1; i <= count; ++i) {
      ASSERT_TRUE(log.append(record(i)));
      ASSERT_TRUE(log.sync(kLong));
    }
  }
  void write_log(int count) {
    auto log = open();
    write(*log, count);
  }

  std::string path(int segment = 1) const { return options_.directory + "/00000" + std::to_string(segment) + ".jsonl"; }
  std::string head_file() const { return root_ + "/" + kHeadName; }
  std::vector<std::string> lines(int segment = 1) const {
    std::vector<std::string> all;
    std::ifstream file(path(segment));
    for (std::string line; std::getline(file, line);) all.push_back(line);
    return all;
  }
  void put(const std::vector<std::string>& all) const {
    std::ofstream file(path());
    for (const auto& line : all) file << line << '\n';
  }
  static std::string text_of_file(const std::string& file) {
    std::ifstream in(file);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // With right hashes from the first line on, as anybody can.
  static std::vector<std::string> chained_anew(const std::vector<std::string>& all) {
    Hasher hasher;
    ChainHead head;
    std::vector<std::string> anew;
    for (const std::string& line : all) {
      const auto from = line.find(',') + 1;
      std::string made;
      append_line(hasher, head, std::string_view(line).substr(from, line.rfind(",\"prev\":") - from), made);
      made.pop_back();
      anew.push_back(made);
    }
    return anew;
  }
  static bool is_checkpoint(const std::string& line) { return line.find("\"operation\":\"checkpoint\"") != line.npos; }

  PublicKey key() const { return *PublicKey::read(root_ + "/" + kPublicKeyName); }
  Verdict verdict(bool with_head = false) const {
    const PublicKey own = key();
    Known known{.key = &own};
    if (with_head) known.signed_head = *read_signed_head(head_file(), own);
    auto result = verify(options_.directory, known);
    EXPECT_TRUE(result);
    return result ? *result : Verdict{};
  }
  std::string fault(bool with_head = false) const {
    const Verdict found = verdict(with_head);
    return found.bad ? found.bad->what : "";
  }

  std::string root_;
  AuditOptions options_;
};

// ---- when there is one ------------------------------------------------------------

TEST_F(AuditSigningTest, ACheckpointComesAfterSoManyRecordsAndAtTheEnd) {
  write_log(10);
  std::vector<std::size_t> at;
  const auto all = lines();
  for (std::size_t i = 0; i < all.size(); ++i)
    if (is_checkpoint(all[i])) at.push_back(i + 1);
  EXPECT_THAT(at, testing::ElementsAre(5, 10, 13));
  const Verdict whole = verdict(true);
  EXPECT_FALSE(whole.bad) << whole.bad->what;
  EXPECT_EQ(whole.checkpoints, 3u);
  EXPECT_EQ(whole.after_checkpoint, 0u);
  EXPECT_EQ(*read_signed_head(head_file(), key()), whole.head);
}

TEST_F(AuditSigningTest, ACheckpointComesSomeTimeAfterARecordAndNoneWithoutNewRecords) {
  options_.checkpoint_after = 1ms;
  auto log = open();
  ASSERT_TRUE(log->append(record(1)));
  const auto end = std::chrono::steady_clock::now() + kLong;
  while (log->status().signed_to == 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(log->status().signed_to, log->status().appended);
  const std::uint64_t before = log->status().appended;
  for (int turn = 0; turn < 20; ++turn) ASSERT_TRUE(log->sync(kLong));
  EXPECT_EQ(log->status().appended, before);
  for (int start = 0; start < 3; ++start) {
    log.reset();
    log = open();
    ASSERT_TRUE(log->sync(kLong));
  }
  EXPECT_EQ(log->status().appended, before);
}

TEST_F(AuditSigningTest, EverySegmentEndsInACheckpoint) {
  options_.checkpoint_records = 1'000'000;
  options_.segment_bytes = 900;
  write_log(20);
  int segment = 1;
  for (; fs::exists(path(segment)); ++segment) {
    ASSERT_FALSE(lines(segment).empty());
    EXPECT_TRUE(is_checkpoint(lines(segment).back())) << segment;
    EXPECT_EQ(std::ranges::count_if(lines(segment), is_checkpoint), 1) << segment;
  }
  EXPECT_GT(segment, 3);
  EXPECT_FALSE(verdict(true).bad);
}

TEST_F(AuditSigningTest, AFloodIsSignedToo) {
  options_.ring_bytes = 64u << 10;
  options_.segment_bytes = 64u << 10;
  options_.checkpoint_records = 500;
  {
    auto log = open();
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] { for (int i = 0; i < 5000; ++i) EXPECT_TRUE(log->append(record(i))); });
    threads.clear();
  }
  const Verdict whole = verdict(true);
  EXPECT_FALSE(whole.bad) << whole.bad->what;
  EXPECT_EQ(whole.records, 20'000 + whole.checkpoints);
  std::size_t unsigned_now = 0, longest = 0;
  for (int segment = 1; fs::exists(path(segment)); ++segment) {
    EXPECT_TRUE(is_checkpoint(lines(segment).back()));
    for (const auto& line : lines(segment))
      longest = std::max(longest, unsigned_now = is_checkpoint(line) ? 0 : unsigned_now + 1);
  }
  EXPECT_LT(longest, 500u + 2 * 500u) << "as asked, and what a ring holds before and behind it";
}

TEST_F(AuditSigningTest, ACheckpointThatABrokerCouldNotWriteItsSuccessorSigns) {
  auto log = open();
  write(*log, 1);
  fs::rename(options_.directory, root_ + "/away");
  for (int i = 0; i < 4; ++i) (void)log->append(record(i));
  log.reset();
  fs::rename(root_ + "/away", options_.directory);
  log = open();
  EXPECT_GT(log->status().recovery.drained, 0u);
  log.reset();
  EXPECT_FALSE(verdict(true).bad) << verdict(true).bad->what;
  EXPECT_GE(verdict().checkpoints, 2u);
}

TEST_F(AuditSigningTest, ALogFromBeforeCheckpointsStaysWholeAndIsSignedFromThenOn) {
  options_.key_directory.clear();
  write_log(3);
  EXPECT_EQ(verify(options_.directory)->checkpoints, 0u);
  options_.key_directory = root_;
  write_log(1);
  EXPECT_FALSE(verdict(true).bad);
  EXPECT_EQ(verdict().checkpoints, 1u) << "over all before it";
}

// ---- what is found ------------------------------------------------------------------

TEST_F(AuditSigningTest, AChainWrittenAnewWithoutTheKeyIsFoundAtItsFirstCheckpoint) {
  write_log(10);
  auto all = lines();
  all[1].replace(all[1].find("/f2"), 3, "/xx");
  put(chained_anew(all));
  EXPECT_FALSE(verify(options_.directory)->bad->what.find("broker's own note") == std::string::npos);
  fs::remove(options_.directory + "/ring");
  EXPECT_FALSE(verify(options_.directory)->bad) << "where the chain's guarantee ends";
  const Verdict found = verdict();
  ASSERT_TRUE(found.bad);
  EXPECT_EQ(found.bad->line, 5u);
  EXPECT_THAT(found.bad->what, HasSubstr("did not sign"));
}

TEST_F(AuditSigningTest, ACheckpointOfAnotherKeyIsFound) {
  write_log(10);
  const std::string other = root_ + "/other";
  fs::create_directory(other);
  ASSERT_TRUE(Signer::open(other));
  const auto wrong = *PublicKey::read(other + "/" + kPublicKeyName);
  const auto found = verify(options_.directory, {.key = &wrong});
  ASSERT_TRUE(found && found->bad);
  EXPECT_EQ(found->bad->line, 5u);
}

TEST_F(AuditSigningTest, AForgersCheckpointIsFound) {
  write_log(3);
  fs::remove(options_.directory + "/ring");
  for (const std::string& signature : {std::string(), std::string(88, 'A'), std::string(86, 'A') + "==", std::string("x")}) {
    Hasher hasher;
    ChainHead head;
    std::string line;
    append_line(hasher, head, R"("time":"2026-01-01T00:00:00.000000000Z","operation":"checkpoint")" +
                              (signature.empty() ? "" : ",\"signature\":\"" + signature + "\""), line);
    line.pop_back();
    put({line});
    EXPECT_THAT(fault(), HasSubstr("did not sign")) << signature;
  }
}

TEST_F(AuditSigningTest, WithoutItsCheckpointsTheLogIsFoundByTheSignedHeadAlone) {
  write_log(10);
  auto all = lines();
  std::erase_if(all, is_checkpoint);
  put(chained_anew(all));
  fs::remove(options_.directory + "/ring");
  EXPECT_EQ(fault(), "") << "where the guarantee ends: nothing in it says that it was ever signed";
  EXPECT_THAT(fault(true), HasSubstr("signed head"));
}

TEST_F(AuditSigningTest, ADroppedEndIsFoundByTheSignedHead) {
  write_log(10);
  auto all = lines();
  for (const int kept : {12, 10, 9, 1}) {
    all.resize(static_cast<std::size_t>(kept));
    put(all);
    fs::remove(options_.directory + "/ring");
    EXPECT_EQ(fault(), "") << kept;
    EXPECT_THAT(fault(true), HasSubstr("at the end of the log are missing, says the signed head")) << kept;
  }
}

TEST_F(AuditSigningTest, AHeadWithOneBitChangedIsNoHead) {
  write_log(2);
  const std::string good = text_of_file(head_file());
  ASSERT_TRUE(read_signed_head(head_file(), key()) && *read_signed_head(head_file(), key()));
  for (std::size_t byte = 0; byte < good.size(); ++byte) {
    std::string bad = good;
    bad[byte] = static_cast<char>(bad[byte] ^ 1);
    std::ofstream(head_file()) << bad;
    EXPECT_FALSE(read_signed_head(head_file(), key())) << "byte " << byte;
  }
  for (const std::string& bad : {std::string(), good + "\n", " " + good, good.substr(1), std::string(5000, 'x')}) {
    std::ofstream(head_file()) << bad;
    EXPECT_FALSE(read_signed_head(head_file(), key())) << bad.size();
  }
  fs::remove(head_file());
  EXPECT_FALSE(*read_signed_head(head_file(), key())) << "none is no error";
}

TEST_F(AuditSigningTest, ACheckpointsSignatureMakesNoHead) {
  write_log(2);
  const ChainHead head{7, no_hash()};
  const auto signer = Signer::open(root_);
  ASSERT_TRUE(signer);
  const std::string signature = signer->sign(Statement::checkpoint, head);
  EXPECT_TRUE(key().has_signed(Statement::checkpoint, head, signature));
  EXPECT_FALSE(key().has_signed(Statement::head, head, signature));
  EXPECT_FALSE(key().has_signed(Statement::checkpoint, {8, no_hash()}, signature));
  std::string respelled = signature;
  ++respelled[85];   // bits that stand for nothing
  EXPECT_FALSE(key().has_signed(Statement::checkpoint, head, respelled)) << "a signature has one spelling";
}

// ---- the next broker does not cover it up -----------------------------------------

TEST_F(AuditSigningTest, ALogCutWhileNoBrokerRanShowsTheGapForEver) {
  write_log(10);
  auto all = lines();
  all.resize(10);
  put(all);
  fs::remove(options_.directory + "/ring");
  {
    auto log = open();
    EXPECT_EQ(log->status().recovery.lost_after, 10u);
    write(*log, 5);
  }
  EXPECT_THAT(fault(true), HasSubstr("missing"));
}

TEST_F(AuditSigningTest, ALogWrittenAnewWhileNoBrokerRanIsNeverSignedAsWhole) {
  write_log(10);
  auto all = lines();
  std::erase_if(all, is_checkpoint);
  for (int i = 0; i < 5; ++i) all.push_back(all.back());   // as long as before, and longer
  put(chained_anew(all));
  fs::remove(options_.directory + "/ring");
  {
    auto log = open();
    EXPECT_THAT(log->status().recovery.head_problem, HasSubstr("written anew"));
    write(*log, 5);
  }
  EXPECT_NE(fault(true), "");
}

TEST_F(AuditSigningTest, AForgedOrMissingHeadIsRecorded) {
  write_log(2);
  std::ofstream(head_file()) << "garbage";
  EXPECT_THAT(open()->status().recovery.head_problem, HasSubstr("not what this log's key signed"));
  fs::remove(head_file());
  EXPECT_THAT(open()->status().recovery.head_problem, HasSubstr("no signed head"));
  EXPECT_EQ(open()->status().recovery.head_problem, "");
  EXPECT_EQ(std::ranges::count_if(lines(), [](const auto& line) { return line.find("audit-recovered") != line.npos; }), 2);
}

TEST_F(AuditSigningTest, AHeadThatCannotBeWrittenIsToldAndWorkGoesOn) {
  options_.head_file = root_ + "/elsewhere/head";
  auto log = open();
  write(*log, 5);
  EXPECT_TRUE(log->sync(kLong));
  const auto end = std::chrono::steady_clock::now() + kLong;
  while (log->status().head_problem.empty() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_THAT(log->status().head_problem, HasSubstr("elsewhere/head"));
  EXPECT_TRUE(log->status().writing);
  fs::create_directory(root_ + "/elsewhere");
  write(*log, 1);
  log.reset();
  EXPECT_TRUE(*read_signed_head(options_.head_file, key()));
}

// ---- keys ---------------------------------------------------------------------------

class AuditKeyTest : public AuditSigningTest {
 protected:
  AuditKeyTest() { EXPECT_TRUE(Signer::open(root_)); }
  std::string refusal() const {
    const auto signer = Signer::open(root_);
    return signer ? "" : signer.error().text();
  }
  std::string secret() const { return root_ + "/" + kPrivateKeyName; }
  std::string open_half() const { return root_ + "/" + kPublicKeyName; }
};

TEST_F(AuditKeyTest, IsMadeOnceForItsOwnerAlone) {
  struct stat st {};
  ASSERT_EQ(::lstat(secret().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode, static_cast<mode_t>(S_IFREG | 0600));
  const std::string before = text_of_file(secret());
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(text_of_file(secret()), before);
  EXPECT_FALSE(fs::exists(secret() + ".new"));
}

TEST_F(AuditKeyTest, ThatOthersMayReadOrWriteIsRefused) {
  for (const mode_t mode : {0640, 0604, 0620, 0602, 0644}) {
    ::chmod(secret().c_str(), mode);
    EXPECT_THAT(refusal(), HasSubstr("chmod 600")) << mode;
  }
  ::chmod(secret().c_str(), 0400);
  EXPECT_EQ(refusal(), "");
}

TEST_F(AuditKeyTest, ThatIsALinkIsRefused) {
  fs::rename(secret(), root_ + "/kept");
  fs::create_symlink("kept", secret());
  EXPECT_NE(refusal(), "");
  fs::remove(secret());
  fs::create_hard_link(root_ + "/kept", secret());
  EXPECT_THAT(refusal(), HasSubstr("chmod 600"));
  fs::remove(root_ + "/kept");
  EXPECT_EQ(refusal(), "");
}

TEST_F(AuditKeyTest, OfAnotherOwnerIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_EQ(::chown(secret().c_str(), 65534, 65534), 0);
  EXPECT_THAT(refusal(), HasSubstr("chmod 600"));
}

TEST_F(AuditKeyTest, OfAnotherKindIsRefused) {
  { std::ofstream(secret()) << "no key"; }
  EXPECT_THAT(refusal(), HasSubstr("no Ed25519"));
  EVP_PKEY* const other = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
  FILE* const file = std::fopen(secret().c_str(), "w");
  PEM_write_PrivateKey(file, other, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  EVP_PKEY_free(other);
  EXPECT_THAT(refusal(), HasSubstr("no Ed25519"));
}

TEST_F(AuditKeyTest, WhosePublicHalfIsAnothersIsRefused) {
  const std::string other = root_ + "/other";
  fs::create_directory(other);
  ASSERT_TRUE(Signer::open(other));
  fs::copy_file(other + "/" + kPublicKeyName, open_half(), fs::copy_options::overwrite_existing);
  EXPECT_THAT(refusal(), HasSubstr("does not belong"));
}

TEST_F(AuditKeyTest, IsNotReplacedWhenItIsGone) {
  const std::string before = text_of_file(open_half());
  fs::remove(open_half());
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(text_of_file(open_half()), before) << "it follows from the private half";
  fs::remove(secret());
  EXPECT_THAT(refusal(), HasSubstr("is gone"));
  EXPECT_FALSE(fs::exists(secret()));
}

TEST_F(AuditKeyTest, TheLogDoesNotOpenWithoutAGoodOne) {
  ::chmod(secret().c_str(), 0644);
  EXPECT_FALSE(AuditLog::open(options_));
  ::chmod(secret().c_str(), 0600);
  EXPECT_TRUE(AuditLog::open(options_));
}

// ---- waiting for the disk -------------------------------------------------------------

using AuditDurableTest = AuditSigningTest;

TEST_F(AuditDurableTest, WhoeverWaitedFindsItsRecordOnDisk) {
  auto log = open();
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        ASSERT_TRUE(log->append(record(i)));
        const std::uint64_t appended = log->status().appended;   // mine, or a later one
        ASSERT_TRUE(log->wait_durable());
        ASSERT_GE(log->status().durable, appended);
      }
    });
  threads.clear();
}

TEST_F(AuditDurableTest, ManyWhoWaitShareOneSync) {
  options_.pace = 1h;   // between two syncs, unless somebody hurries
  options_.durable_bound = kLong;
  auto log = open();
  write(*log, 1);
  std::vector<std::future<bool>> waiting;
  for (int i = 0; i < 8; ++i)
    waiting.push_back(std::async(std::launch::async, [&, i] { return log->append(record(i)) && log->wait_durable(); }));
  const auto end = std::chrono::steady_clock::now() + kLong;
  while (log->status().appended < 9 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(log->status().durable, 1u) << "they wait";
  EXPECT_TRUE(log->sync(kLong));
  for (auto& one : waiting) EXPECT_TRUE(one.get());
}

TEST_F(AuditDurableTest, ADiskThatDoesNothingMakesNobodyWaitLongAndNobodySucceed) {
  options_.pace = 1h;
  options_.durable_bound = 50ms;
  auto log = open();
  write(*log, 1);
  EXPECT_TRUE(log->wait_durable()) << "nothing to wait for";
  ASSERT_TRUE(log->append(record(2)));
  const auto late = log->wait_durable();
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().value, EIO);
  EXPECT_THAT(log->status().problem, HasSubstr("the disk"));
  EXPECT_FALSE(log->wait_durable());
  ASSERT_TRUE(log->sync(kLong));
  EXPECT_TRUE(log->wait_durable());
  EXPECT_EQ(log->status().problem, "");
}

TEST_F(AuditDurableTest, ALogThatCannotBeWrittenRefusesWhoeverWaits) {
  options_.retry = 1ms;
  options_.durable_bound = 1h;
  auto log = open();
  fs::rename(options_.directory, root_ + "/away");
  EXPECT_FALSE(log->append(record(1)) && log->wait_durable());
  fs::rename(root_ + "/away", options_.directory);
}

TEST_F(AuditDurableTest, AFullRingOverADiskThatDoesNothingRefuses) {
  options_.pace = 1h;
  options_.ring_bytes = 64u << 10;
  options_.full_ring_bound = 1ms;
  fs::create_directory(options_.directory);
  auto log = open();
  Record big = record(1);
  big.detail.assign(15'000, 'x');
  int taken = 0;
  while (taken < 100'000 && log->append(big)) ++taken;
  log.reset();
  EXPECT_EQ(verdict().records - verdict().checkpoints, static_cast<std::uint64_t>(taken)) << "what was taken is there";
}

TEST_F(AuditDurableTest, NobodyWaitsLongerThanARevokeDoesForThoseInside) {
  EXPECT_LT(AuditOptions().durable_bound, broker::kRevokeBound);
}

}  // namespace
}  // namespace fbroker::audit
