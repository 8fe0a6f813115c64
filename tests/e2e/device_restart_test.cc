// The broker is killed under a running agent, over and over, and nobody inside
// notices more than a pause: open files, directories, locks and mappings live
// on, every call completes, and what was done was done once. Real broker, real
// FUSE, real bubblewrap; as root and as an ordinary user.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

constexpr int kKills = 10;

// What an agent does, all at once; an error or a wrong byte ends it with a word.
// Each worker goes on until the file `stop` is there.
constexpr char kLoad[] = R"py(
import fcntl, mmap, os, sys, threading, traceback
problems = []
stopped = lambda: os.path.exists("stop")
def worker(run):
    def guarded():
        try:
            run()
        except BaseException:
            problems.append(run.__name__ + ": " + traceback.format_exc())
    return threading.Thread(target=guarded)
def expect(that, what):
    if not that: raise AssertionError(what)

content = b"".join(b"%08d" % i for i in range(65536))
with open("big", "wb") as f: f.write(content)
held = open("big", "rb")
def reader():
    i = 0
    while not stopped():
        at = (i * 7919 * 4096) % len(content); i += 1
        expect(os.pread(held.fileno(), 4096, at) == content[at:at + 4096], "another content through a held descriptor")
        with open("big", "rb") as f:
            f.seek(at); expect(f.read(100) == content[at:at + 100], "another content")
def appender():
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    number = 0
    while not stopped():
        number += 1
        expect(os.write(log, b"%d\n" % number) == len(b"%d\n" % number), "a short write")
        if number % 16 == 0: os.fsync(log)
    with open("appended", "w") as f: f.write(str(number))
def maker():
    n = 0
    while not stopped():
        n += 1
        name = "made/%d" % n
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600); os.write(fd, b"x" * n); os.close(fd)
        os.rename(name, name + ".moved")
        expect(os.stat(name + ".moved").st_size == n, "another size")
        os.mkdir("made/d%d" % n); os.rmdir("made/d%d" % n)
        os.link(name + ".moved", name + ".link"); os.unlink(name + ".link")
        os.symlink("target", name + ".sym"); expect(os.readlink(name + ".sym") == "target", "another target")
        if n % 2: os.unlink(name + ".moved")
    with open("made_until", "w") as f: f.write(str(n))
def unlinked():
    f = open("gone", "w+b", buffering=0); os.unlink("gone")
    n = 0
    while not stopped():
        n += 1
        os.pwrite(f.fileno(), b"%016d" % n, 16 * (n % 100))
        expect(os.pread(f.fileno(), 16, 16 * (n % 100)) == b"%016d" % n, "an unlinked file forgot")
def mapper():
    with open("mapped", "wb") as f: f.write(b"\0" * 65536)
    f = open("mapped", "r+b"); m = mmap.mmap(f.fileno(), 65536)
    n = 0
    while not stopped():
        n += 1
        at = (n % 16) * 4096
        m[at:at + 8] = b"%08d" % n
        if n % 8 == 0: m.flush()
        expect(m[at:at + 8] == b"%08d" % n, "a mapping forgot")
    m.flush()
    for i in range(16):
        expect(os.pread(f.fileno(), 8, i * 4096) == m[i * 4096:i * 4096 + 8], "a mapping and its file differ")
def locker():
    mine = open("lock", "w")
    fcntl.flock(mine, fcntl.LOCK_EX)
    while not stopped():
        other = open("lock", "r")
        try:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            raise AssertionError("a lock was lost")
        except BlockingIOError: pass
        other.close()
def sealed():
    n = 0
    while not stopped():  # as git makes its objects
        n += 1
        fd = os.open("sealed/%d" % n, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
        for part in (b"one", b"two", b"three"): os.write(fd, part)
        os.close(fd)
        with open("sealed/%d" % n, "rb") as f: expect(f.read() == b"onetwothree", "a sealed file")
def lister():
    here = os.open("made", os.O_RDONLY | os.O_DIRECTORY)
    while not stopped():
        os.listdir("."); os.listdir(here); os.stat("appended_never") if os.path.exists("appended_never") else None

for d in ("made", "sealed"): os.mkdir(d)
workers = [worker(w) for w in (reader, appender, maker, unlinked, mapper, locker, sealed, lister)]
for w in workers: w.start()
print("UP", flush=True)
for w in workers: w.join()
print("\n".join(problems) if problems else "NOTHING WENT WRONG", flush=True)
)py";

class DeviceRestart : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "ordinary" && ::getuid() != 0) GTEST_SKIP() << "we are the ordinary user already";
  }
  static std::string user() { return GetParam() == "ordinary" ? "fbroker-test" : ""; }

  std::string text(const std::string& name) const {
    std::ifstream file(home.project() / name);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
  }
  std::uint64_t number(const std::string& name) const { return std::strtoull(text(name).c_str(), nullptr, 10); }

  Home home{user()};
};

INSTANTIATE_TEST_SUITE_P(, DeviceRestart, testing::Values(::getuid() == 0 ? "root" : "self", "ordinary"),
                         [](const auto& user) { return user.param; });

// The broker that serves: a child of `parent` with "serve" among its words and
// a child of its own or not; its helpers have the same words and other parents.
pid_t broker_of(pid_t parent) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    std::ifstream status(entry.path() / "status");
    pid_t above = 0;
    for (std::string key; status >> key;)
      if (key == "PPid:") status >> above;
    std::ifstream words(entry.path() / "cmdline");
    std::string all((std::istreambuf_iterator<char>(words)), {});
    if (above == parent && all.find(std::string("serve\0", 6)) != all.npos) return pid;
  }
  return 0;
}

// Whether the records of a session verify, and how many say that a broker was killed.
int kills_in(const Home& home, const std::string& session) {
  const std::string dir = home.audit_dir(session).string();
  const Output whole = home.fbroker({"audit", "verify", "--dir", dir});
  EXPECT_EQ(whole.status, 0) << whole.out << whole.err;
  const Output found = home.fbroker({"audit", "search", "--dir", dir, "--json", "--op", "restart"});
  int count = 0;
  for (std::size_t at = 0; (at = found.out.find("\"restart\"", at)) != found.out.npos; ++at) ++count;
  return count;
}

TEST_P(DeviceRestart, TenKillsUnderLoadAndNobodyInsideSeesAnError) {
  home.write("load.py", kLoad);
  Process run = Process::start({programs_directory() + "/fbroker", "run", "-q", "--transport", "device", "--name",
                                "lasting", "--", "python3", "load.py"}, home.as());
  ASSERT_TRUE(run.read_until("UP\n")) << run.errors();
  std::set<pid_t> killed;
  std::uint64_t seen = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    // Work goes on, and a new broker is there that has not been killed yet.
    const auto logged = [&] {
      std::error_code none;
      const auto size = fs::file_size(home.project() / "log", none);
      return none ? 0 : size;
    };
    ASSERT_TRUE(wait_until([&] { return logged() > seen; })) << run.errors();
    pid_t broker = 0;
    ASSERT_TRUE(wait_until([&] { return (broker = broker_of(run.pid())) != 0 && !killed.contains(broker); }));
    ::kill(broker, SIGKILL);
    killed.insert(broker);
    ASSERT_TRUE(wait_until([&] { return !fs::exists("/proc/" + std::to_string(broker)); }));
    seen = logged();   // what is logged from here on goes through another broker
  }
  ASSERT_TRUE(wait_until([&] { return fs::file_size(home.project() / "log") > seen; })) << run.errors();
  home.write("stop", "");
  EXPECT_TRUE(run.read_until("NOTHING WENT WRONG\n")) << run.rest() << run.errors();
  EXPECT_EQ(run.wait(), 0) << run.errors();

  std::string expected;
  const std::uint64_t appended = number("appended");
  for (std::uint64_t i = 1; i <= appended; ++i) expected += std::to_string(i) + "\n";
  EXPECT_TRUE(text("log") == expected) << "lines of the log were lost or doubled";
  const std::uint64_t made = number("made_until");
  for (std::uint64_t n = 1; n <= made; ++n) {
    const fs::path file = home.project() / ("made/" + std::to_string(n) + ".moved");
    ASSERT_EQ(fs::exists(file), n % 2 == 0) << file;
    if (n % 2 == 0) {
      ASSERT_EQ(fs::file_size(file), n) << file;
    }
  }
  EXPECT_EQ(kills_in(home, "lasting"), kKills);
}

// What a revoke took away stays away, also where the broker was killed since
// or between.
TEST_P(DeviceRestart, ARevokeHoldsOverAKillAndReachesWhatWasOpenBeforeIt) {
  home.write("secret", std::string(65536, 's'));
  home.write("other", std::string(65536, 'o'));
  AgentShell agent(home, "revoked", {"--transport", "device"});
  const auto kill_broker = [&] {
    const pid_t broker = broker_of(agent.process().pid());
    ASSERT_NE(broker, 0);
    ::kill(broker, SIGKILL);
    ASSERT_TRUE(wait_until([&] { return home.fbroker({"status", "-s", "revoked"}).status == 0; }));
  };
  ASSERT_EQ(agent("exec 7<secret 8<other; cat secret other > /dev/null; head -c 100 <&7 > /dev/null").status, 0);
  kill_broker();
  // Opened, and its pages cached, under the broker before.
  ASSERT_EQ(home.fbroker({"revoke", "-s", "revoked", "secret"}).status, 0);
  EXPECT_GT(agent("cat <&7").status, 0) << "read what was revoked";
  EXPECT_GT(agent("cat secret").status, 0);
  EXPECT_EQ(agent("cat other <&8 | wc -c").status, 0);
  kill_broker();
  EXPECT_GT(agent("cat secret").status, 0) << "a kill gave back what was revoked";
  EXPECT_GT(agent("head -c 1 <&7").status, 0);
  EXPECT_EQ(agent("test $(cat <&8 | wc -c) -gt 0").status, 0) << "what was not revoked was lost";
  EXPECT_EQ(agent.finish(), 0);
}

// Damaged tables: the broker says so and ends the sandbox; it serves nothing
// by guesswork.
TEST_P(DeviceRestart, DamagedTablesEndTheSandboxWithAWord) {
  home.write("f", "content");
  AgentShell agent(home, "damaged", {"--transport", "device"});
  ASSERT_EQ(agent("cat f").status, 0);
  const fs::path nodes = home.path() / "state/fbroker/damaged/mounts/damaged.nodes";
  ASSERT_TRUE(fs::exists(nodes));
  const pid_t broker = broker_of(agent.process().pid());
  ::kill(broker, SIGSTOP);
  {
    std::fstream file(nodes, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(128);
    file.write("damaged, damaged, damaged", 25);
  }
  ::kill(broker, SIGKILL);
  ASSERT_TRUE(wait_until([&] { return agent.errors().find("start the agent again") != std::string::npos; }))
      << agent.errors();
  EXPECT_NE(agent.finish(), 0);
}

// `serve` is killed, or stopped in an orderly way, and started again: the
// sandbox on it goes on.
TEST_P(DeviceRestart, AServingBrokerMayBeKilledOrEndedAndStartedAgain) {
  home.write("f", "content");
  auto serve = [&] {
    Process broker = Process::start({programs_directory() + "/fbroker", "serve", "--root", "."}, home.as());
    EXPECT_TRUE(wait_until([&] { return home.fbroker({"status"}).status == 0; })) << broker.errors();
    return broker;
  };
  auto broker = std::make_optional(serve());
  AgentShell agent(home, "guest", {"--transport", "device"});
  ASSERT_EQ(agent("exec 7<f; cat f; mkdir out; (for i in $(seq 400); do echo $i > out/$i || echo FAILED; "
                  "cat f >/dev/null || echo FAILED; done; echo done) > /tmp/load 2>&1 &").status, 0);
  for (const int signal : {SIGKILL, SIGTERM, SIGKILL, SIGTERM}) {
    broker->signal(signal);
    broker->wait();
    broker.reset();
    broker.emplace(serve());
    const auto answer = agent("cat f");
    EXPECT_EQ(answer.out, "content\n") << answer.out << broker->errors();
  }
  EXPECT_EQ(agent("wait; cat /tmp/load").out, "done\n");
  EXPECT_EQ(agent("ls out | wc -l; cat out/* | sort -n | tail -1").out, "400\n400\n");
  EXPECT_EQ(agent("cat <&7").out, "content\n");
  EXPECT_EQ(agent.finish(), 0);
}

}  // namespace
}  // namespace fbroker::test
