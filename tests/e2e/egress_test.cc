// The egress gate as an agent meets it: real sandbox, real programs, and
// outside of it a small internet of the test's own (egress_world.py), whose
// hosts say afterwards who touched them.
#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kPublic[] = "93.184.216.34";

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class World {
 public:
  World() {
    std::string name = "/tmp/fbroker-world-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    directory_ = name;
    fs::permissions(directory_, fs::perms(0755));
    process_.emplace(Process::start({"unshare", "--net", "--mount", "python3",
                                     FBROKER_SOURCE_DIR "/tests/e2e/egress_world.py", name}));
    if (!process_->read_until("ready", 30s)) throw std::runtime_error("world: " + process_->errors());
  }
  ~World() {
    process_.reset();
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }
  // In front of a command: it runs in there.
  std::vector<std::string> enter() const {
    return {"nsenter", "--target", std::to_string(process_->pid()), "--net", "--mount", "--wd=."};
  }
  std::vector<json> events(const std::string& what) const {
    std::vector<json> found;
    std::ifstream log(directory_ / "events.jsonl");
    for (std::string line; std::getline(log, line);)
      if (auto event = json::parse(line, nullptr, false); event.is_object() && event["what"] == what) found.push_back(event);
    return found;
  }
  std::size_t connections(const std::string& address = "") const {
    std::size_t count = 0;
    for (const json& event : events("connection")) count += address.empty() || event["address"] == address ? 1 : 0;
    return count;
  }
  std::size_t questions(const std::string& name) const {
    std::size_t count = 0;
    for (const json& event : events("question")) count += has(event["name"], name) ? 1 : 0;
    return count;
  }

 private:
  fs::path directory_;
  std::optional<Process> process_;
};

class EgressWorld : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (::getuid() != 0) GTEST_SKIP() << "making network namespaces takes root: tests/run.sh starts the tests so";
    user_ = GetParam() == "root" ? "" : "fbroker-test";
    home_.emplace(user_);
    world_.emplace();
    home_->write("p.json", R"({"version":1,"rules":[{"allow":"write","paths":["/"]}],
      "network":{"allow":["*.example.com","*.example.com:80","*.example.com:8443"],"aliases":{"inside.local:8080":"127.0.0.1:80"}}})");
  }
  // As the person, on the machine that has the world around it.
  std::vector<std::string> command(std::vector<std::string> words) const {
    std::vector<std::string> argv = world_->enter();
    argv.insert(argv.end(), {"env", "-i", "-C", home_->project().string(), "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"});
    for (const auto& [name, value] : home_->as().environment) argv.push_back(name + "=" + value);
    if (!user_.empty()) argv.insert(argv.end(), {"setpriv", "--reuid", user_, "--regid", user_, "--init-groups"});
    argv.insert(argv.end(), words.begin(), words.end());
    return argv;
  }
  Output fbroker(std::vector<std::string> words) const {
    words.insert(words.begin(), programs_directory() + "/fbroker");
    return run(command(words));
  }
  Output inside(const std::string& script, std::vector<std::string> options = {"--policy", "p.json"}) const {
    std::vector<std::string> words{"run", "-q", "--name", "w"};
    words.insert(words.end(), options.begin(), options.end());
    words.insert(words.end(), {"--", "bash", "-c", script});
    return fbroker(words);
  }

  std::string user_;
  std::optional<Home> home_;
  std::optional<World> world_;
};

INSTANTIATE_TEST_SUITE_P(, EgressWorld, testing::Values("root", "ordinary"), [](const auto& user) { return user.param; });

TEST_P(EgressWorld, WhatIsAllowedIsReachedInEveryWayThatProgramsHave) {
  for (const std::string& way : {std::string("curl -sk https://api.example.com/a"), std::string("curl -s http://api.example.com/a"),
                                 std::string("curl -sk --socks5-hostname 127.0.0.1:3128 https://api.example.com/a"),
                                 std::string("curl -sk https://six.example.com/a"), std::string("curl -s http://inside.local:8080/a"),
                                 std::string("curl -sk -X POST -d @/workspace/p.json https://api.example.com/a"),
                                 std::string("python3 -c 'import ssl,urllib.request as u; "
                                             "print(u.urlopen(\"https://api.example.com/a\", context=ssl._create_unverified_context()).read().decode())'")}) {
    const Output output = inside(way);
    EXPECT_EQ(output.status, 0) << way << output.err;
    EXPECT_TRUE(has(output.out, "\"line\": \"")) << way << "\n" << output.out << output.err;
  }
  const auto requests = world_->events("request");
  ASSERT_EQ(requests.size(), 7u);
  EXPECT_EQ(requests[0]["sni"], "api.example.com");
  EXPECT_EQ(requests[3]["address"], "2606:4700::1111");
  EXPECT_EQ(world_->connections("93.184.216.35"), 0u);
}

// Judged at the listeners: nobody that was not asked for hears anything.
TEST_P(EgressWorld, EveryTrickIsRefusedAndTouchesNobody) {
  const std::vector<std::string> tricks{
      "curl -sk https://evil.example.net/", "curl -sk https://example.com/", "curl -sk https://api.example.com:9443/",
      "curl -sk https://93.184.216.34/", "curl -sk https://93.184.216.35/", "curl -sk https://127.0.0.1:443/ --noproxy ''",
      "curl -sk https://2130706433/ --noproxy ''", "curl -sk https://0x7f000001/ --noproxy ''", "curl -sk https://0177.0.0.1/ --noproxy ''",
      "curl -sk https://127.1/ --noproxy ''", "curl -sk 'https://[::1]/' --noproxy ''", "curl -sk 'https://[::ffff:127.0.0.1]/' --noproxy ''",
      "curl -sk https://private.example.com/", "curl -sk https://mixed.example.com/", "curl -sk https://loopback.example.com/",
      "curl -s http://metadata.example.com/latest/meta-data/", "curl -s http://169.254.169.254/", "curl -sk https://nowhere.example.com/",
      "curl -s http://evil.example.net/ -H 'Host: api.example.com'",
      "curl -sk --socks5 127.0.0.1:3128 https://93.184.216.35/", "curl -sk --socks5-hostname 127.0.0.1:3128 https://evil.example.net/",
      "curl -s -x http://127.0.0.1:3128 http://127.0.0.1/",
      // Another server behind an allowed name.
      "openssl s_client -proxy 127.0.0.1:3128 -connect api.example.com:443 -servername evil.example.net </dev/null",
      "openssl s_client -proxy 127.0.0.1:3128 -connect api.example.com:443 -noservername </dev/null",
      "curl -s -p -x http://127.0.0.1:3128 http://api.example.com:8443/",   // no TLS where TLS is expected
      "printf 'CONNECT api.example.com.:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128; cat >&3; head -c 12 <&3 | grep 200'",
      "printf 'CONNECT evil.example.net@api.example.com:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128; cat >&3; head -c 12 <&3 | grep 200'",
      "printf 'GET /v1/session HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128; cat >&3; head -c 12 <&3 | grep 200'"};
  std::string script = "set +e\n";
  for (const std::string& trick : tricks) script += "( " + trick + " ) >/tmp/out 2>&1 && echo \"GOT THROUGH: " + std::to_string(&trick - tricks.data()) + "\"; cat /tmp/out >>/tmp/all\n";
  script += "grep -c '\"line\"' /tmp/all; true";
  const Output output = inside(script);
  // curl -s ends with 0 where a proxy answers an absolute-form request; what counts is who was touched.
  EXPECT_TRUE(has(output.out, "\n0\n") || output.out == "0\n") << output.out;
  EXPECT_EQ(world_->connections(), 0u) << json(world_->events("connection")).dump();
  EXPECT_EQ(world_->questions("evil.example.net"), 0u);
  EXPECT_EQ(world_->questions("corp.test"), 0u) << "a search list made another name";
  EXPECT_GT(world_->questions("nowhere.example.com"), 0u);
}

TEST_P(EgressWorld, ANameIsLookedUpOnceForEachConnectionAndLeadsToWhatWasChecked) {
  EXPECT_TRUE(has(inside("curl -sk https://rebind.example.com/").out, kPublic));
  std::size_t asked = 0;
  for (const json& event : world_->events("question")) asked += event["name"] == "rebind.example.com" && event["kind"] == 1 ? 1 : 0;
  EXPECT_EQ(asked, 1u);
  EXPECT_FALSE(has(inside("curl -sk https://rebind.example.com/").out, "line"));
  EXPECT_EQ(world_->connections("127.0.0.1"), 0u);
  EXPECT_EQ(world_->connections(kPublic), 1u);
}

TEST_P(EgressWorld, TheGateIsTheOnlyWayOutAndNoQuestionLeavesTheSandbox) {
  const Output output = inside(
      "getent hosts api.example.com; python3 -c 'import socket; socket.create_connection((\"93.184.216.34\", 443), 3)'; "
      "curl -sk --noproxy '*' https://api.example.com/; curl -sk --noproxy '*' https://93.184.216.34/; "
      "python3 -c 'import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b\"x\"*40, (\"93.184.216.34\", 53))'; "
      "python3 -c 'import socket; s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'; true");
  EXPECT_EQ(output.out, "");
  EXPECT_EQ(world_->connections(), 0u);
  EXPECT_TRUE(world_->events("question").empty());
}

TEST_P(EgressWorld, WithoutRulesAndWithOfflineNothingIsReached) {
  for (const std::vector<std::string>& options : {std::vector<std::string>{}, {"--policy", "p.json", "--offline"}}) {
    const Output output = inside("curl -sk https://api.example.com/; curl -s http://inside.local:8080/; env | grep -ci proxy", options);
    EXPECT_FALSE(has(output.out, "\"line\""));
    if (!options.empty()) { EXPECT_EQ(output.out, "0\n"); }
  }
  EXPECT_EQ(world_->connections(), 0u);
  EXPECT_TRUE(world_->events("question").empty());
}

TEST_P(EgressWorld, AGrantOpensAndARevokeCutsWhatIsOpen) {
  std::vector<std::string> words{programs_directory() + "/fbroker", "run", "--name", "w", "--", "bash"};
  Process agent = Process::start(command(words));
  const auto ask = [&](const std::string& line) {
    agent.write_line(line + "; echo '=end='");
    return agent.read_until("=end=\n", 60s).value_or("no answer: " + agent.errors());
  };
  EXPECT_TRUE(has(ask("curl -sk -o /dev/null -w '%{http_connect}' https://api.example.com/"), "403"));
  const Output granted = fbroker({"grant", "--domain", "api.example.com", "--for", "15m"});
  EXPECT_EQ(granted.status, 0) << granted.err;
  EXPECT_TRUE(has(ask("curl -sk https://api.example.com/a"), kPublic));
  ask("curl -skN https://api.example.com/slow >/tmp/slow 2>&1 & true");
  ASSERT_TRUE(has(ask("for i in $(seq 100); do [ -s /tmp/slow ] && break; sleep 0.1; done; [ -s /tmp/slow ] && echo flows"), "flows"));
  const Output revoked = fbroker({"revoke", "--domain", "api.example.com"});
  EXPECT_EQ(revoked.status, 0) << revoked.err << revoked.out;
  EXPECT_TRUE(has(revoked.out, "1 connection cut")) << revoked.out;
  // What came before has come; nothing comes any more.
  EXPECT_TRUE(has(ask("wait; a=$(stat -c %s /tmp/slow); sleep 0.5; [ $a = $(stat -c %s /tmp/slow) ] && echo still"), "still"));
  EXPECT_TRUE(has(ask("curl -sk -o /dev/null -w '%{http_connect}' https://api.example.com/"), "403"));
  // Time cuts as a person does.
  EXPECT_EQ(fbroker({"grant", "--domain", "api.example.com", "--for", "4s"}).status, 0);
  EXPECT_TRUE(has(ask("curl -skN https://api.example.com/slow >/tmp/slow 2>&1; [ -s /tmp/slow ] && echo flowed"), "flowed"));
  EXPECT_TRUE(has(ask("curl -sk -o /dev/null -w '%{http_connect}' https://api.example.com/"), "403"));
  agent.close_input();
  agent.wait();
  const std::string said = agent.errors();
  EXPECT_TRUE(has(said, "3 connections (")) << said;
  EXPECT_TRUE(has(said, "refused 3× connect api.example.com:443 (default) → fbroker grant --domain api.example.com --for 15m")) << said;
  const Output log = fbroker({"audit", "search", "-s", "w", "--host", "example.com", "--json"});
  std::size_t connects = 0, cut = 0;
  std::istringstream lines(log.out);
  for (std::string line; std::getline(lines, line);) {
    const json record = json::parse(line);
    EXPECT_EQ(record["host"], "api.example.com");
    if (record["operation"] == "connect" && record["decision"] == "allow") {
      ++connects;
      EXPECT_EQ(record["address"], kPublic);
      EXPECT_EQ(record["port"], 443);
      EXPECT_EQ(record["reason"], connects <= 2 ? "g1" : "g2");
    }
    if (record["operation"] == "disconnect") {
      EXPECT_GT(record["bytes_read"], 0);
      EXPECT_GT(record["bytes_written"], 0);
      EXPECT_TRUE(record.contains("milliseconds"));
      cut += has(record.value("detail", ""), "cut:") ? 1 : 0;
    }
  }
  EXPECT_EQ(connects, 3u);
  EXPECT_EQ(cut, 2u);
  EXPECT_EQ(fbroker({"audit", "verify", "-s", "w"}).status, 0);
}

}  // namespace
}  // namespace fbroker::test
