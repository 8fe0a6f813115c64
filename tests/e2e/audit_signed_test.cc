// The audit log's signatures and "durability": "strict", as real programs: what
// `fbroker audit verify` finds, and what a person has to keep for it.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "broker/audit/chain.h"
#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class AuditSigned : public testing::Test {
 protected:
  Process serve(std::vector<std::string> options = {}) {
    std::vector<std::string> argv{programs_directory() + "/fbroker", "serve"};
    argv.insert(argv.end(), options.begin(), options.end());
    Process broker = Process::start(argv, home.as());
    EXPECT_TRUE(wait_until([&] { return home.fbroker({"status"}).status == 0; }, 20s)) << broker.errors();
    return broker;
  }
  // A broker's life: some records, an orderly end.
  void make_log(std::vector<std::string> options = {}) {
    home.write("a", "content");
    Process broker = serve(std::move(options));
    for (int i = 0; i < 5; ++i) EXPECT_EQ(curl("-X GET", "a"), "content");
    broker.signal(SIGTERM);
    EXPECT_EQ(broker.wait(20s), 0) << broker.errors();
  }
  std::string curl(const std::string& how, const std::string& path) const {
    return home.shell("curl -s --max-time 20 " + how + " --unix-socket " +
                      (home.path() / "run/fbroker/default/broker.sock").string() + " 'http://x/v1/files?path=/" + path +
                      "' | tr -d '\\n'").out;
  }
  fs::path state() const { return home.audit_dir("default").parent_path(); }
  fs::path log() const { return home.audit_dir("default") / "000001.jsonl"; }
  std::vector<std::string> lines() const {
    std::vector<std::string> all;
    std::ifstream file(log());
    for (std::string line; std::getline(file, line);) all.push_back(line);
    return all;
  }
  void put(const std::vector<std::string>& all) const {
    std::ofstream file(log());
    for (const auto& line : all) file << line << '\n';
  }
  // With right hashes, and without the directory's own note of the head.
  void put_chained_anew(const std::vector<std::string>& all) const {
    audit::Hasher hasher;
    audit::ChainHead head;
    std::string text;
    for (const auto& line : all) {
      const auto from = line.find(',') + 1;
      audit::append_line(hasher, head, std::string_view(line).substr(from, line.rfind(",\"prev\":") - from), text);
    }
    std::ofstream(log()) << text;
    fs::remove(home.audit_dir("default") / "ring");
  }
  Output verify(std::vector<std::string> options = {}) const {
    options.insert(options.begin(), {"audit", "verify", "--dir", home.audit_dir("default").string()});
    return home.fbroker(options);
  }
  static void expect_found(const Output& output, const std::string& words) {
    EXPECT_EQ(output.status, 1) << output.out << output.err;
    EXPECT_TRUE(has(output.out, "NOT VERIFIED") && has(output.out, words)) << output.out;
  }

  Home home{""};
};

TEST_F(AuditSigned, AnOrderlyEndLeavesALogThatIsSignedToItsLastRecord) {
  make_log();
  const Output whole = verify();
  EXPECT_EQ(whole.status, 0) << whole.out << whole.err;
  EXPECT_TRUE(has(whole.out, "checkpoints: 1 with good signatures, 0 records after the last")) << whole.out;
  const json told = json::parse(verify({"--json"}).out);
  EXPECT_EQ(told["verified"], true);
  EXPECT_EQ(told["checkpoints"], (json{{"found", 1}, {"checked", 1}, {"records_after", 0}}));
  EXPECT_EQ(told["signed_head"], told["head"]);
  struct stat st {};
  ASSERT_EQ(::stat((state() / "audit-key.pem").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  make_log();
  EXPECT_TRUE(has(verify().out, "checkpoints: 2 with good")) << "the next broker signs with the same key";
}

TEST_F(AuditSigned, ChangedRemovedAndMovedRecordsAreFound) {
  make_log();
  const auto good = lines();
  ASSERT_GT(good.size(), 5u);
  auto bad = good;
  bad[2].replace(bad[2].find("\"op"), 3, "\"Op");
  put(bad);
  expect_found(verify(), "line 3, seq 3");
  bad = good;
  bad.erase(bad.begin() + 2);
  put(bad);
  expect_found(verify(), "record 3 is missing");
  bad = good;
  std::swap(bad[2], bad[3]);
  put(bad);
  expect_found(verify(), "line 3");
  put(good);
  EXPECT_EQ(verify().status, 0);
}

TEST_F(AuditSigned, AChainWrittenAnewIsFoundByTheKeyAndWithoutCheckpointsByTheHead) {
  make_log();
  fs::copy(state() / "audit-head", home.path() / "kept-head");
  fs::copy(state() / "audit-key.pub.pem", home.path() / "kept-key");
  fs::remove(state() / "audit-head");
  auto all = lines();
  all[1].insert(all[1].find(",\"prev\":"), ",\"detail\":\"nothing happened\"");
  put_chained_anew(all);
  expect_found(verify(), "did not sign");
  std::erase_if(all, [](const auto& line) { return has(line, "\"checkpoint\""); });
  put_chained_anew(all);
  const Output stripped = verify();
  EXPECT_EQ(stripped.status, 0);
  EXPECT_TRUE(has(stripped.out, "nothing here is signed")) << stripped.out;
  expect_found(verify({"--head", (home.path() / "kept-head").string()}), "says the signed head");
  // Elsewhere, with nothing but what was kept.
  fs::copy(home.audit_dir("default"), home.path() / "copy");
  expect_found(home.fbroker({"audit", "verify", "--dir", (home.path() / "copy").string(), "--key",
                             (home.path() / "kept-key").string(), "--head", (home.path() / "kept-head").string()}),
               "says the signed head");
}

TEST_F(AuditSigned, AnotherBrokersKeyIsFoundAndADroppedEndByTheHeadBesideTheKey) {
  make_log();
  const auto good = lines();
  {
    Process other = serve({"--session", "other"});
    other.signal(SIGTERM);
    other.wait(20s);
  }
  const std::string key = (state().parent_path() / "other" / "audit-key.pub.pem").string();
  expect_found(verify({"--key", key}), "did not sign");
  auto fewer = good;
  fewer.pop_back();
  put(fewer);
  fs::remove(home.audit_dir("default") / "ring");
  expect_found(verify(), "at the end of the log are missing, says the signed head");
  put(good);
  EXPECT_EQ(verify().status, 0);
}

TEST_F(AuditSigned, AHeadThatWasTamperedWithIsAFaultAndOneThatIsNoneIsUsage) {
  make_log();
  const fs::path head = state() / "audit-head";
  std::string text;
  std::getline(std::ifstream(head), text, '\0');
  std::string bad = text;
  bad[bad.find('\n') + 1] ^= 1;   // the number
  std::ofstream(head) << bad;
  expect_found(verify(), "not what this log's key signed");
  expect_found(verify({"--head", head.string()}), "not what this log's key signed");
  std::ofstream(head) << text;
  EXPECT_EQ(verify({"--head", head.string()}).status, 0);
  EXPECT_EQ(verify({"--head", json::parse(verify({"--json"}).out)["head"]}).status, 0);
  EXPECT_EQ(verify({"--head", "7:nonsense"}).status, 2);
  EXPECT_EQ(verify({"--key", head.string()}).status, 2);
  EXPECT_EQ(verify({"--key", "nowhere"}).status, 2);
  fs::remove(state() / "audit-key.pub.pem");
  EXPECT_EQ(verify({"--head", head.string()}).status, 2) << "a head that cannot be checked proves nothing";
  EXPECT_TRUE(has(verify().out, "NOT CHECKED")) << verify().out;
}

TEST_F(AuditSigned, TheHeadIsKeptWhereThePersonSays) {
  fs::create_directory(home.path() / "elsewhere");
  const std::string head = (home.path() / "elsewhere/head").string();
  make_log({"--audit-head", head});
  EXPECT_FALSE(fs::exists(state() / "audit-head"));
  EXPECT_EQ(verify({"--head", head}).status, 0);
  auto fewer = lines();
  fewer.pop_back();
  put_chained_anew(fewer);
  expect_found(verify({"--head", head}), "says the signed head");
}

TEST_F(AuditSigned, TheHeadIsNoFileForTheAgent) {
  home.write("a", "content");
  Process broker = serve({"--audit-head", (home.project() / "head").string()});
  EXPECT_EQ(curl("-X GET", "a"), "content");
  EXPECT_TRUE(has(curl("-X PUT --data-binary forged", "head"), "EACCES"));
  EXPECT_TRUE(has(curl("-X PUT --data-binary forged", "head.new"), "EACCES"));
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(20s), 0);
  EXPECT_EQ(verify({"--head", (home.project() / "head").string()}).status, 0);
}

TEST_F(AuditSigned, ABrokerDoesNotStartWithAKeyThatOthersMayRead) {
  make_log();
  fs::permissions(state() / "audit-key.pem", fs::perms(0644));
  const Output refused = home.fbroker({"serve"});
  EXPECT_EQ(refused.status, 2);
  EXPECT_TRUE(has(refused.err, "audit-key.pem") && has(refused.err, "chmod 600")) << refused.err;
  fs::permissions(state() / "audit-key.pem", fs::perms(0600));
  make_log();
}

TEST_F(AuditSigned, TheBrokerInsideFbrokerRunSignsToo) {
  home.write("a.txt", "hello");
  AgentShell agent(home, "signed");
  EXPECT_EQ(agent("cat a.txt").status, 0);
  EXPECT_EQ(agent.finish(), 0);
  const Output whole = home.fbroker({"audit", "verify", "-s", "signed"});
  EXPECT_EQ(whole.status, 0) << whole.out << whole.err;
  EXPECT_TRUE(has(whole.out, "with good signatures, 0 records after the last")) << whole.out;
}

// ---- durability -----------------------------------------------------------------------

std::string policy(const std::string& durability) {
  return R"({"version":1,"durability":")" + durability +
         R"(","exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]}]})";
}

TEST_F(AuditSigned, StrictRepliesComeAfterTheirRecordsAreOnDiskAndAreEioWhenTheyCannotBe) {
  home.write("a", "content");
  home.write("../p.json", policy("strict"));
  EXPECT_TRUE(has(home.fbroker({"policy", "show", "../p.json"}).out, "durability: strict"));
  EXPECT_EQ(json::parse(home.fbroker({"policy", "show", "../p.json", "--json"}).out)["durability"], "strict");
  EXPECT_TRUE(has(home.fbroker({"policy", "lint", "../p.json"}).out, "durability"));
  Process broker = serve({"--policy", "../p.json"});
  for (int i = 1; i <= 10; ++i) {
    EXPECT_EQ(curl("-X GET", "a"), "content");
    EXPECT_EQ(std::ranges::count_if(lines(), [](const auto& line) { return has(line, "\"open\""); }), i);
  }
  const fs::path log = home.audit_dir("default");
  fs::rename(log, log.string() + ".away");
  EXPECT_TRUE(has(curl("-X GET", "a"), "EIO"));
  fs::rename(log.string() + ".away", log);
  EXPECT_TRUE(wait_until([&] { return curl("-X GET", "a") == "content"; }, 20s));
  home.write("../p.json", policy("normal"));
  broker.signal(SIGHUP);
  EXPECT_TRUE(wait_until([&] { return has(home.fbroker({"audit", "search", "--op", "reload", "--json"}).out, "durability normal"); }, 20s));
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(20s), 0);
  EXPECT_EQ(verify().status, 0) << verify().out;
}

}  // namespace
}  // namespace fbroker::test
