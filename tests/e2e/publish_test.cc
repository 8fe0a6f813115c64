// The relay in a real sandbox: ports that lead in, the proxy that leads to the
// broker, and how little of it the agent can reach. As root and as an ordinary user.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/agent_session.h"
#include "tests/support/sockets.h"

namespace fbroker::test {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The host's number of a process called `name`, whose first process inside has `mark` on its command line.
std::string pid_of(const std::string& name, const std::string& mark) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc"))
    if (text_of(entry.path() / "comm") == name + "\n" && has(text_of(entry.path() / "cmdline"), mark))
      return entry.path().filename().string();
  return "";
}

std::string line_of(const std::string& pid, const std::string& key) {
  std::istringstream status(text_of("/proc/" + pid + "/status"));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
  return "";
}

class Publish : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "ordinary" && ::getuid() != 0) GTEST_SKIP() << "we are the ordinary user already";
  }
  static std::string user() { return GetParam() == "ordinary" ? "fbroker-test" : ""; }

  // An answer over HTTP, once somebody answers.
  std::string fetch(std::uint16_t outside) const {
    Output answer;
    const std::string url = "http://127.0.0.1:" + std::to_string(outside) + "/";
    wait_until([&] {
      answer = run({"curl", "-sS", "--noproxy", "*", "--max-time", "20", url});
      return answer.status == 0;
    });
    return answer.out + answer.err;
  }

  const std::uint16_t port = port_of(listen_on_free_port().get());
  const std::string number = std::to_string(port);
  Home home{user()};
};

INSTANTIATE_TEST_SUITE_P(, Publish, testing::Values(::getuid() == 0 ? "root" : "self", "ordinary"),
                         [](const auto& as) { return as.param; });

TEST_P(Publish, AServerInsideIsReachedFromThisMachine) {
  home.write("index.html", "from inside");
  const std::string big(3'000'000, 'b');
  home.write("big", big);
  AgentShell agent(home, "publisher", {"--publish", number + ":8000"});
  agent("python3 -m http.server 8000 --bind 127.0.0.1 >/tmp/log 2>&1 &");
  EXPECT_TRUE(has(fetch(port), "from inside")) << agent.errors();
  EXPECT_EQ(run({"curl", "-sS", "--noproxy", "*", "http://127.0.0.1:" + number + "/big"}).out, big + "\n");
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_FALSE(connect_to_port(port)) << "it ends with the session";
}

TEST_P(Publish, OneThatListensOnLocalhostsOtherAddressToo) {
  home.write("index.html", "from inside");
  AgentShell agent(home, "six", {"--publish", number + ":8000", "--offline"});
  agent("python3 -m http.server 8000 --bind ::1 >/tmp/log 2>&1 &");
  EXPECT_TRUE(has(fetch(port), "from inside")) << agent.errors();
  EXPECT_EQ(agent.finish(), 0);
}

TEST_P(Publish, WhereNobodyListensInsideTheConnectionEnds) {
  AgentShell agent(home, "nobody", {"--publish", number});
  ASSERT_EQ(agent("echo here").out, "here\n");
  const UniqueFd client = connect_to_port(port);
  ASSERT_TRUE(client);
  EXPECT_TRUE(ends(client.get()));
}

TEST_P(Publish, APortInUseIsSaidAndNothingStarts) {
  const UniqueFd taken = listen_on_free_port();
  const std::string in_use = std::to_string(port_of(taken.get()));
  const Output output = home.fbroker({"run", "--publish", in_use, "--", "touch", "it-ran"});
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, "port " + in_use + " is in use")) << output.err;
  EXPECT_FALSE(std::filesystem::exists(home.project() / "it-ran"));
  EXPECT_FALSE(std::filesystem::exists(home.path() / "state" / "fbroker")) << "no session was made";
}

TEST_P(Publish, AnAddressThatOthersReachIsRefused) {
  for (const std::string address : {"0.0.0.0:", "[::]:", "10.1.2.3:"}) {
    const Output output = home.fbroker({"run", "--publish", address + number, "--", "touch", "it-ran"});
    EXPECT_EQ(output.status, 125) << address;
    EXPECT_TRUE(has(output.err, "other machines")) << output.err;
  }
  EXPECT_FALSE(std::filesystem::exists(home.project() / "it-ran"));
}

// The proxy answers inside, leads to this session's broker, and to nothing else.
TEST_P(Publish, TheProxyAnswersInsideAndOnlyAsAProxy) {
  AgentShell agent(home, "proxied");
  EXPECT_EQ(agent("echo $HTTPS_PROXY $https_proxy; git config http.proxy").out,
            "http://127.0.0.1:3128 http://127.0.0.1:3128\nhttp://127.0.0.1:3128\n");
  EXPECT_EQ(agent("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:3128/v1/session").out, "400");
  // What the broker says of a host that no policy allows is its affair; that it is asked is the relay's.
  const auto asked = agent("curl -sS -m 20 -o /dev/null -w '%{http_code}' http://nobody.example/");
  EXPECT_EQ(asked.status, 0) << asked.out;
  EXPECT_FALSE(has(asked.out, "502")) << "the data socket was not reached";
  EXPECT_NE(agent("curl -sS -m 20 -x socks5h://127.0.0.1:3128 http://nobody.example/").status, 0);
  EXPECT_EQ(agent.finish(), 0);
}

TEST_P(Publish, OfflineThereIsNoProxyAndNoWordOfOne) {
  AgentShell agent(home, "offline", {"--offline"});
  EXPECT_EQ(agent("env | grep -i -c proxy").out, "0\n");
  EXPECT_NE(agent("exec 9<>/dev/tcp/127.0.0.1/3128").out.find("refused"), std::string::npos);
  EXPECT_EQ(agent.finish(), 0);
}

// ATTACK: the relay can hand its connections on, and is the one process beside
// the agent that the agent speaks to by more than files.
TEST_P(Publish, TheAgentNeitherSeesNorReachesTheRelaysProcess) {
  AgentShell agent(home, "reach", {"--publish", number + ":8000"});
  ASSERT_EQ(agent("echo here").out, "here\n");
  EXPECT_FALSE(has(agent("cat /proc/[0-9]*/comm").out, "relay"));
  EXPECT_EQ(agent("for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null; done | grep -c socket:").out, "0\n");
  // All that it may signal, but for its own shell.
  agent("kill -9 -1; for n in $(seq 2 40); do test $n = $$ || kill -9 $n; done 2>/dev/null; true");
  EXPECT_EQ(agent("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:3128/").out, "400");
  EXPECT_FALSE(has(agent.errors(), "relay ended")) << agent.errors();
  EXPECT_EQ(agent.finish(), 0);
}

TEST_P(Publish, TheRelayHasNoPowerAndNothingButItsSockets) {
  const std::string mark = "/work-" + number;
  AgentShell agent(home, "powerless", {"--publish", number + ":8000", "--workspace", mark});
  ASSERT_EQ(agent("echo here").out, "here\n") << agent.errors();
  const std::string relay = pid_of("fbroker-relay", mark);
  ASSERT_NE(relay, "");
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    EXPECT_EQ(line_of(relay, set), "0000000000000000") << set;
  EXPECT_EQ(line_of(relay, "NoNewPrivs"), "1");
  EXPECT_EQ(line_of(relay, "Seccomp"), "2");
  EXPECT_EQ(line_of(relay, "NSsid"), line_of(relay, "NSpid")) << "a session of its own";
  EXPECT_NE(line_of(relay, "Uid").substr(0, 2), "0\t");
  if (::getuid() != 0) return;
  // /proc/PID belongs to root when the process is not dumpable.
  struct stat owner {};
  ASSERT_EQ(::stat(("/proc/" + relay + "/fd").c_str(), &owner), 0);
  EXPECT_NE(std::to_string(owner.st_uid), line_of(relay, "Uid").substr(0, line_of(relay, "Uid").find('\t')));
  int sockets = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + relay + "/fd")) {
    const std::string target = std::filesystem::read_symlink(entry.path()).string();
    sockets += target.starts_with("socket:") ? 1 : 0;
    EXPECT_TRUE(target.starts_with("socket:") || target.starts_with("anon_inode:[event") ||
                target.starts_with("anon_inode:[timerfd]") || (entry.path().filename() == "2" && target.starts_with("pipe:")))
        << entry.path().filename() << " is " << target;
  }
  EXPECT_EQ(sockets, 2) << "the listener and the channel";
}

TEST_P(Publish, ARelayThatDiesIsSaidAndTheSessionGoesOn) {
  const std::string mark = "/work-" + number;
  home.write("a", "text");
  AgentShell agent(home, "dies", {"--publish", number, "--workspace", mark});
  ASSERT_EQ(agent("echo here").out, "here\n");
  const std::string relay = pid_of("fbroker-relay", mark);
  ASSERT_NE(relay, "");
  ASSERT_EQ(home.shell("kill -9 " + relay).status, 0);
  EXPECT_TRUE(wait_until([&] { return has(agent.errors(), "the relay ended"); })) << agent.errors();
  EXPECT_EQ(agent("cat a").out, "text\n");
  const UniqueFd client = connect_to_port(port);
  EXPECT_TRUE(ends(client.get()));
  EXPECT_EQ(agent.finish(), 0);
}

}  // namespace
}  // namespace fbroker::test
