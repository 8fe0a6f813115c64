// "writer": "agent": the kernel collects what the agent writes. Nothing of it
// is lost that close or fsync acknowledged, by a revoke, a full disk or a killed
// broker; nothing lands after a revoke; and nothing is collected where somebody
// else writes too. Real broker, real FUSE, real bubblewrap.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/agent_session.h"
#include "tests/support/private_mounts.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// What runs inside: a line is an expression, the answer a line: its value, or
// the name of the error. What may end in a signal is done in a child.
constexpr char kAgent[] = R"py(
import errno, mmap, os, sys
fds, maps = {}, {}
def start(key, name, flags, mode=0o644): fds[key] = os.open(name, flags, mode)
def write(key, text): return os.write(fds[key], text.encode())
def put(key, text, at): return os.pwrite(fds[key], text.encode(), at)
def get(key, size, at): return os.pread(fds[key], size, at).decode()
def many(key, count, text):
    for i in range(count): os.write(fds[key], text.encode())
def sync(key): os.fsync(fds[key])
def end(key): os.close(fds.pop(key))
def cut(key, size): os.ftruncate(fds[key], size)
def map(key, size): maps[key] = mmap.mmap(fds[key], size)
def in_child(work):
    pid = os.fork()
    if pid == 0:
        try: work()
        except OSError as e: os._exit(e.errno)
        os._exit(0)
    return pid
def ended(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status): return "signal %d" % os.WTERMSIG(status)
    return errno.errorcode.get(os.WEXITSTATUS(status), "ok")
def store(key, text, at):
    def work(): maps[key][at:at + len(text)] = text.encode()
    return ended(in_child(work))
def store_here(key, text, at): maps[key][at:at + len(text)] = text.encode()
def append_both(name, count):
    def appends(who):
        def work():
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for i in range(count): os.write(fd, b"%s %06d\n" % (who, i))
            os.close(fd)
        return work
    return [ended(p) for p in [in_child(appends(b"one")), in_child(appends(b"two"))]]
def fill(name, count, size):
    fd, seen = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644), set()
    def doing(work):
        try: work()
        except OSError as e: seen.add(errno.errorcode[e.errno])
    for i in range(count): doing(lambda: os.write(fd, b"f" * size))
    doing(lambda: os.fsync(fd))
    doing(lambda: os.close(fd))
    return " ".join(sorted(seen)) or "ok"
W, RW, C, A, T = os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_APPEND, os.O_TRUNC
print("ready", flush=True)
for line in sys.stdin:
    try: result = eval(line)
    except OSError as e: result = errno.errorcode[e.errno]
    print("ok" if result is None else result, flush=True)
)py";

constexpr char kCollecting[] = R"({"version":1,"exports":[{"at":"/","from":".","writer":"agent"}],
  "rules":[{"allow":"write","paths":["/"]}]})";
constexpr char kNotCollecting[] = R"({"version":1,"exports":[{"at":"/","from":"."}],
  "rules":[{"allow":"write","paths":["/"]}]})";
constexpr char kMixed[] = R"({"version":1,"exports":[{"at":"/","from":".","writer":"agent"},
  {"at":"/other","from":"./other"}],"rules":[{"allow":"write","paths":["/"]}]})";

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The person's file, byte for byte.
void put(const Home& home, const std::string& name, const std::string& content) {
  const fs::path file = home.project() / name;
  fs::create_directories(file.parent_path());
  std::ofstream(file) << content;
  struct stat owner{};
  ASSERT_EQ(::stat(home.project().c_str(), &owner), 0);
  for (const fs::path& made : {file.parent_path(), file}) ASSERT_EQ(::chown(made.c_str(), owner.st_uid, owner.st_gid), 0);
}

// An agent that does what it is told.
class Inside {
 public:
  Inside(const Home& home, const std::string& policy, const std::string& transport = "device") : home_(home) {
    home.write("agent.py", kAgent);
    home.write("p.json", policy);
    process_.emplace(Process::start({programs_directory() + "/fbroker", "run", "-q", "--name", "collect", "--policy", "p.json",
                                     "--transport", transport, "--", "python3", "agent.py"}, home.as()));
    EXPECT_TRUE(process_->read_until("ready\n")) << process_->errors();
  }
  std::string operator()(const std::string& expression) {
    process_->write_line(expression);
    return process_->read_until("\n", 300s).value_or("no answer: " + process_->errors());
  }
  json person(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin() + 1, {"-s", "collect", "--json"});
    const Output output = home_.fbroker(arguments);
    EXPECT_EQ(output.status, 0) << arguments[0] << ": " << output.out << output.err;
    return json::parse(output.out, nullptr, false);
  }
  json session() const {
    const Output output = home_.fbroker({"status", "--json"});
    const json status = json::parse(output.out, nullptr, false);
    if (!status.is_object()) return json::object();   // no broker answers just now
    for (const json& broker : status.value("brokers", json::array()))
      for (const json& one : broker.value("sessions", json::array()))
        if (one.value("name", "") == "collect") return one;
    return json::object();
  }
  // Write requests so far; 0 where the mount is not the broker's own.
  std::uint64_t writes() const {
    return session().value("mount", json::object()).value("requests", json::object()).value("WRITE", std::uint64_t{0});
  }
  bool serves() const { return session().value("mount", json::object()).value("serving", false); }
  int finish() {
    process_->close_input();
    return process_->wait();
  }
  Process& process() { return *process_; }

 private:
  const Home& home_;
  std::optional<Process> process_;
};

class DeviceWriteback : public testing::TestWithParam<Way> {
 protected:
  std::string on_host(const std::string& name) const { return text_of(home.project() / name); }
  Home home{GetParam().user};
};

INSTANTIATE_TEST_SUITE_P(, DeviceWriteback, testing::ValuesIn(Way::over("device")), [](const auto& way) { return way.param.name(); });

// ---- what is collected, and where ------------------------------------------

constexpr std::uint64_t kSmallWrites = 4000;

TEST_P(DeviceWriteback, SmallWritesAreCollectedOnlyWhereEveryExportSaysSo) {
  put(home, "other/there", "");
  const auto requests_under = [&](const std::string& policy) {
    Inside agent(home, policy);
    const std::uint64_t before = agent.writes();
    EXPECT_EQ(agent("start('f', 'file', W | C | T)"), "ok");
    EXPECT_EQ(agent("many('f', 4000, 'sixteen bytes ..')"), "ok");
    EXPECT_EQ(agent("end('f')"), "ok");
    EXPECT_EQ(fs::file_size(home.project() / "file"), 16 * kSmallWrites);
    const std::uint64_t requests = agent.writes() - before;
    EXPECT_EQ(agent.finish(), 0);
    return requests;
  };
  const std::uint64_t collected = requests_under(kCollecting);
  EXPECT_GE(collected, 1u);
  EXPECT_LT(collected, kSmallWrites / 4);
  EXPECT_GE(requests_under(kNotCollecting), kSmallWrites);
  EXPECT_GE(requests_under(kMixed), kSmallWrites);
}

// Nothing is collected over HTTP: each write is there when it returns.
TEST_P(DeviceWriteback, OverHttpTheKeyChangesNothing) {
  Inside agent(home, kCollecting, "http");
  ASSERT_EQ(agent("start('f', 'file', RW | C)"), "ok");
  std::string expected;
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(agent("write('f', 'sixteen bytes ..')"), "16");
    expected += "sixteen bytes ..";
    ASSERT_EQ(on_host("file"), expected);
  }
  EXPECT_EQ(agent.finish(), 0);
}

// ---- what is acknowledged is on the host -----------------------------------

TEST_P(DeviceWriteback, WhatFsyncOrCloseAcknowledgedIsReadOnTheHost) {
  put(home, "old", "0123456789");
  Inside agent(home, kCollecting);
  ASSERT_EQ(agent("start('f', 'file', RW | C)"), "ok");
  ASSERT_EQ(agent("write('f', 'first ')"), "6");
  ASSERT_EQ(agent("sync('f')"), "ok");
  EXPECT_EQ(on_host("file"), "first ");
  ASSERT_EQ(agent("write('f', 'second ')"), "7");
  EXPECT_EQ(agent("get('f', 100, 0)"), "first second ") << "inside it is there at once";
  ASSERT_EQ(agent("end('f')"), "ok");
  EXPECT_EQ(on_host("file"), "first second ");
  // Part of a page, through a descriptor that only writes.
  ASSERT_EQ(agent("start('o', 'old', W)"), "ok");
  ASSERT_EQ(agent("put('o', 'X', 3)"), "1");
  ASSERT_EQ(agent("os.sync()"), "ok");
  EXPECT_EQ(on_host("old"), "012X456789");
  ASSERT_EQ(agent("cut('o', 5)"), "ok");
  ASSERT_EQ(agent("put('o', 'Y', 7)"), "1");
  ASSERT_EQ(agent("end('o')"), "ok");
  EXPECT_EQ(on_host("old"), std::string("012X4\0\0Y", 8));
  EXPECT_EQ(agent("os.stat('old').st_size"), "8");
  EXPECT_EQ(agent.finish(), 0);
}

TEST_P(DeviceWriteback, AppendsOfTwoProcessesLoseAndCutNothing) {
  put(home, "log", "begun\n");
  Inside agent(home, kCollecting);
  ASSERT_EQ(agent("append_both('log', 2000)"), "['ok', 'ok']");
  std::istringstream lines(on_host("log"));
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(line, "begun");
  std::map<std::string, int> next;
  int count = 0;
  for (; std::getline(lines, line); ++count) {
    ASSERT_EQ(line.size(), 10u) << line;
    ASSERT_EQ(std::atoi(line.c_str() + 4), next[line.substr(0, 3)]++) << line;
  }
  EXPECT_EQ(count, 4000);
  EXPECT_EQ(agent.finish(), 0);
}

TEST_P(DeviceWriteback, StoresIntoASharedMappingAreOnTheHostAfterwards) {
  put(home, "mapped", std::string(16384, '.'));
  Inside agent(home, kCollecting);
  ASSERT_EQ(agent("start('f', 'mapped', RW)"), "ok");
  ASSERT_EQ(agent("map('f', 16384)"), "ok");
  ASSERT_EQ(agent("store('f', 'one', 0)"), "ok");
  ASSERT_EQ(agent("store('f', 'two', 8192)"), "ok");
  ASSERT_EQ(agent("maps['f'].flush()"), "ok");
  EXPECT_EQ(on_host("mapped"), "one" + std::string(8189, '.') + "two" + std::string(8189, '.'));
  // Closed before and unmapped after: the mapping is what keeps it open.
  ASSERT_EQ(agent("end('f')"), "ok");
  ASSERT_EQ(agent("store('f', 'six', 4096)"), "ok");
  ASSERT_EQ(agent("maps.pop('f').close()"), "ok");
  EXPECT_EQ(on_host("mapped").substr(4096, 3), "six");
  EXPECT_EQ(agent.finish(), 0);
}

// The kernel tells the time of a write; who may write need not own the file.
TEST_P(DeviceWriteback, AFileOfSomebodyElseThatMayBeWrittenIsWritten) {
  if (::getuid() != 0) GTEST_SKIP() << "only root has files of somebody else";
  put(home, "shared", "theirs");
  const std::string path = (home.project() / "shared").string();
  ASSERT_EQ(::chown(path.c_str(), 65534, 65534), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  Inside agent(home, kCollecting);
  ASSERT_EQ(agent("start('f', 'shared', W | T)"), "ok");
  ASSERT_EQ(agent("write('f', 'ours')"), "4");
  EXPECT_EQ(agent("sync('f')"), "ok");
  EXPECT_EQ(agent("end('f')"), "ok");
  EXPECT_EQ(on_host("shared"), "ours");
  EXPECT_EQ(agent.finish(), 0);
}

// ---- what may not be collected ---------------------------------------------

// What may be written and not read: the rest of a page cannot be had.
TEST_P(DeviceWriteback, WhatMayOnlyBeWrittenIsWrittenPastTheCache) {
  put(home, "drop/box", "0123456789");
  Inside agent(home, R"({"version":1,"exports":[{"at":"/","from":".","writer":"agent"}],
    "rules":[{"allow":"write","paths":["/"],"except":["/drop/**"]},{"allow":["list","write","create"],"paths":["/drop"]}]})");
  ASSERT_EQ(agent("start('f', 'drop/box', W)"), "ok");
  ASSERT_EQ(agent("put('f', 'X', 3)"), "1");
  EXPECT_EQ(on_host("drop/box"), "012X456789") << "at once";
  ASSERT_EQ(agent("end('f')"), "ok");
  EXPECT_EQ(agent("start('f', 'drop/box', RW)"), "EACCES");
  ASSERT_EQ(agent("start('n', 'drop/new', W | C)"), "ok");
  ASSERT_EQ(agent("write('n', 'new')"), "3");
  EXPECT_EQ(on_host("drop/new"), "new");
  EXPECT_EQ(agent.finish(), 0);
}

// A person granted a file of theirs, and goes on writing it.
TEST_P(DeviceWriteback, AGrantedFileOfTheHostIsReadAndAppendedAsItIsThere) {
  fs::create_directory(home.path() / "elsewhere");
  const fs::path log = home.path() / "elsewhere/log";
  std::ofstream(log) << "one\n";
  fs::permissions(log, static_cast<fs::perms>(0666));
  fs::permissions(home.path() / "elsewhere", static_cast<fs::perms>(0755));
  fs::permissions(home.path(), static_cast<fs::perms>(0755));
  Inside agent(home, kCollecting);
  const json granted = agent.person({"grant", log.string(), "--write"});
  ASSERT_EQ(agent("start('r', '.fbroker/granted/log', os.O_RDONLY)"), "ok") << granted.dump();
  ASSERT_EQ(agent("start('a', '.fbroker/granted/log', W | A)"), "ok") << granted.dump();
  EXPECT_EQ(agent("get('r', 100, 0).replace('\\n', '|')"), "one|");
  const auto host_appends = [&](const std::string& line) { std::ofstream(log, std::ios::app) << line; };
  host_appends("two\n");
  EXPECT_EQ(agent("get('r', 100, 0).replace('\\n', '|')"), "one|two|") << "read past the cache, at once";
  ASSERT_EQ(agent("write('a', 'three\\n')"), "6");
  EXPECT_EQ(text_of(log), "one\ntwo\nthree\n") << "nothing of the host's is overwritten";
  host_appends("four\n");
  ASSERT_EQ(agent("write('a', 'five\\n')"), "5");
  EXPECT_EQ(text_of(log), "one\ntwo\nthree\nfour\nfive\n");
  EXPECT_EQ(agent.finish(), 0);
}

// The key says that nobody does this. Once no program has the file open, it is
// read with the size that it has.
TEST_P(DeviceWriteback, AnEditOnTheHostIsSeenOnceTheFileIsNotOpen) {
  put(home, "edited", "short");
  Inside agent(home, kCollecting);
  ASSERT_EQ(agent("open('edited').read()"), "short");
  ASSERT_EQ(agent("start('f', 'edited', RW)"), "ok");
  ASSERT_EQ(agent("write('f', 'SHORT')"), "5");
  ASSERT_EQ(agent("end('f')"), "ok");
  put(home, "edited", "a good deal longer");
  EXPECT_TRUE(wait_until([&] { return agent("open('edited').read()") == "a good deal longer"; }));
  EXPECT_EQ(agent("os.stat('edited').st_size"), "18");
  EXPECT_EQ(agent.finish(), 0);
}

// ---- revoke ----------------------------------------------------------------

// Writes in every way, without a word to bring it to the host.
class DeviceWritebackRevoke : public DeviceWriteback {
 protected:
  static constexpr int kTries = 10;
  static constexpr std::size_t kMapped = 65536;

  void SetUp() override { put(home, "given/readme", ""); }

  void write_everywhere(Inside& agent) {
    for (const char* name : {"written", "appended"}) put(home, std::string("given/") + name, "begun ");
    put(home, "given/mapped", std::string(kMapped, '.'));
    ASSERT_EQ(agent("start('w', 'given/written', RW)"), "ok");
    ASSERT_EQ(agent("start('a', 'given/appended', W | A)"), "ok");
    ASSERT_EQ(agent("start('m', 'given/mapped', RW)"), "ok");
    ASSERT_EQ(agent("start('g', 'given/gone', RW | C)"), "ok");
    ASSERT_EQ(agent("map('m', 65536)"), "ok");
    ASSERT_EQ(agent("many('w', 1000, 'before ')"), "ok");
    ASSERT_EQ(agent("many('a', 1000, 'before ')"), "ok");
    ASSERT_EQ(agent("write('g', 'before')"), "6");
    ASSERT_EQ(agent("store_here('m', 'before', 0)"), "ok");
    ASSERT_EQ(agent("store_here('m', 'before', 32768)"), "ok");
  }
  struct Files {
    std::string written, appended, mapped, gone;
    friend bool operator==(const Files&, const Files&) = default;
  };
  Files host() const {
    return {on_host("given/written"), on_host("given/appended"), on_host("given/mapped"), on_host("given/gone")};
  }
  static Files all_before() {
    Files all;
    for (int i = 0; i < 1000; ++i) all.written += "before ";
    all.appended = "begun " + all.written;
    all.mapped = std::string(kMapped, '.').replace(0, 6, "before").replace(32768, 6, "before");
    all.gone = "before";
    return all;
  }
  // By everything that is still held.
  void expect_nothing_can_be_written(Inside& agent) {
    EXPECT_NE(agent("write('w', 'after')"), "5");
    EXPECT_NE(agent("put('w', 'after', 0)"), "5");
    EXPECT_NE(agent("write('a', 'after')"), "5");
    EXPECT_NE(agent("cut('w', 1)"), "ok");
    EXPECT_NE(agent("store('m', 'after!', 0)"), "ok");
    EXPECT_NE(agent("store('m', 'after!', 16384)"), "ok");
    EXPECT_NE(agent("start('n', 'given/new', W | C)"), "ok");
  }
  void let_go(Inside& agent) {
    for (const char* key : {"w", "a", "m", "g"}) agent("end('" + std::string(key) + "')");   // may say that a page was lost
    agent("maps.pop('m').close()");
    agent("os.sync()");
  }
  // Until the machine was quick enough once: what was written before is there.
  // In every round: what is tried afterwards fails, and does not land.
  template <class Give, class Take>
  void rounds(Inside& agent, Give give, Take take) {
    for (int round = 0; round < kTries; ++round) {
      give();
      fs::remove(home.project() / "given/gone");
      ASSERT_NO_FATAL_FAILURE(write_everywhere(agent));
      const json answer = take();
      ASSERT_FALSE(answer.value("sandbox_killed", true)) << answer.dump();
      const Files at_once = host();
      if (answer.value("flushed", false)) {
        EXPECT_TRUE(at_once == all_before()) << at_once.written.size() << ' ' << at_once.appended.size() << ' ' << at_once.gone;
      }
      expect_nothing_can_be_written(agent);
      let_go(agent);
      EXPECT_TRUE(host() == at_once) << "something landed after the revoke";
      EXPECT_FALSE(fs::exists(home.project() / "given/new"));
      if (answer.value("flushed", false) || HasFailure()) return;
    }
    FAIL() << "no revoke of " << kTries << " found the time to bring it to the host";
  }
};

INSTANTIATE_TEST_SUITE_P(, DeviceWritebackRevoke, testing::ValuesIn(Way::over("device")), [](const auto& way) { return way.param.name(); });

constexpr char kReadable[] = R"({"version":1,"exports":[{"at":"/","from":".","writer":"agent"}],
  "rules":[{"allow":"read","paths":["/"]}]})";

TEST_P(DeviceWritebackRevoke, OfWritingKeepsWhatWasWrittenAndNothingLandsAfterwards) {
  Inside agent(home, kReadable);
  std::string id;
  rounds(agent,
         [&] {
           const json granted = agent.person({"grant", "given", "--write"});
           id = granted.value("id", granted.value("grant", json::object()).value("id", ""));
           ASSERT_NE(id, "") << granted.dump();
         },
         [&] { return agent.person({"revoke", id}); });
  EXPECT_EQ(agent("open('given/written').read(7)"), "before ") << "reading stays";
  EXPECT_EQ(agent.finish(), 0);
}

TEST_P(DeviceWritebackRevoke, OfEverythingKeepsWhatWasWrittenAndNothingLandsAfterwards) {
  Inside agent(home, kReadable);
  json denied = json::array();
  rounds(agent,
         [&] {
           for (const json& deny : denied) agent.person({"revoke", deny.value("id", "")});
           agent.person({"grant", "given", "--write"});
         },
         [&] {
           const json answer = agent.person({"revoke", "given"});
           denied = answer.value("denied", json::array());
           return answer;
         });
  EXPECT_EQ(agent("os.path.exists('given/written')"), "False");
  EXPECT_EQ(agent.finish(), 0);
}

// ---- trouble ---------------------------------------------------------------

TEST_P(DeviceWriteback, AFullDiskIsToldToTheProgram) {
  if (::getuid() != 0) GTEST_SKIP() << "needs a small file system";
  const auto result = in_private_mounts([&] {
    struct stat owner{};
    ASSERT_EQ(::stat(home.project().c_str(), &owner), 0);
    const std::string options = "size=1m,mode=0755,uid=" + std::to_string(owner.st_uid) + ",gid=" + std::to_string(owner.st_gid);
    ASSERT_EQ(::mount("tmpfs", home.project().c_str(), "tmpfs", 0, options.c_str()), 0);
    Inside agent(home, kCollecting);
    EXPECT_EQ(agent("fill('fits', 16, 4096)"), "ok");
    EXPECT_EQ(on_host("fits"), std::string(65536, 'f'));
    EXPECT_EQ(agent("fill('large', 1024, 4096)"), "ENOSPC");
    EXPECT_EQ(agent("os.unlink('large')"), "ok");
    EXPECT_EQ(agent("fill('fits-again', 16, 4096)"), "ok");
    EXPECT_EQ(on_host("fits-again"), std::string(65536, 'f'));
    EXPECT_EQ(agent.finish(), 0);
  });
  EXPECT_NE(result, ChildResult::failed);
}

// The broker that serves: a child of `parent` with "serve" among its words.
pid_t broker_of(pid_t parent) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    std::ifstream status(entry.path() / "status");
    pid_t above = 0;
    for (std::string key; status >> key;)
      if (key == "PPid:") status >> above;
    if (above == parent && text_of(entry.path() / "cmdline").find(std::string("serve\0", 6)) != std::string::npos) return pid;
  }
  return 0;
}

// What was agreed on with the kernel holds for the next broker, also when the
// policy says something else by then: it must not append a second time.
TEST_P(DeviceWriteback, AKilledBrokerLosesNothingAndItsSuccessorGoesOnCollecting) {
  put(home, "log", "begun\n");
  for (const bool key_taken_away : {false, true}) {
    fs::remove(home.project() / "file");
    put(home, "log", "begun\n");
    Inside agent(home, kCollecting);
    ASSERT_EQ(agent("start('f', 'file', RW | C)"), "ok");
    ASSERT_EQ(agent("start('a', 'log', W | A)"), "ok");
    ASSERT_EQ(agent("many('f', 1000, 'synced ')"), "ok");
    ASSERT_EQ(agent("sync('f')"), "ok");
    ASSERT_EQ(agent("many('f', 1000, 'unsaid ')"), "ok");
    ASSERT_EQ(agent("many('a', 1000, 'line\\n')"), "ok");
    // Seen at once as well (a changed policy is loaded), or by the next broker.
    if (key_taken_away) put(home, "p.json", kNotCollecting);
    const pid_t broker = broker_of(agent.process().pid());
    ASSERT_NE(broker, 0);
    ::kill(broker, SIGKILL);
    std::string synced, unsaid, lines;
    for (int i = 0; i < 1000; ++i) synced += "synced ", unsaid += "unsaid ", lines += "line\n";
    EXPECT_EQ(on_host("file").substr(0, synced.size()), synced) << "acknowledged";
    ASSERT_TRUE(wait_until([&] { return agent.serves(); })) << agent.process().errors();
    ASSERT_EQ(agent("many('a', 1000, 'line\\n')"), "ok");
    ASSERT_EQ(agent("end('f')"), "ok");
    ASSERT_EQ(agent("end('a')"), "ok");
    EXPECT_EQ(on_host("file"), synced + unsaid);
    EXPECT_EQ(on_host("log"), "begun\n" + lines + lines);
    if (!key_taken_away) {
      const std::uint64_t before = agent.writes();
      ASSERT_EQ(agent("start('n', 'next', W | C | T)"), "ok");
      ASSERT_EQ(agent("many('n', 4000, 'sixteen bytes ..')"), "ok");
      ASSERT_EQ(agent("end('n')"), "ok");
      EXPECT_LT(agent.writes() - before, kSmallWrites / 4);
    }
    EXPECT_EQ(agent.finish(), 0);
  }
}

}  // namespace
}  // namespace fbroker::test
