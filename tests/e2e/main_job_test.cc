// The main job, as its user lives it: a shell in a sandbox works in /workspace
// through the broker, and grants change under it. Real daemon, real FUSE, real
// bubblewrap; as root and as an ordinary user, over the device and over HTTP.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class MainJob : public testing::TestWithParam<Way> {
 protected:
  // The sandbox's shell, served the way that is tested.
  AgentShell shell(const std::string& session, std::vector<std::string> options = {}) const {
    const auto way = GetParam().options();
    options.insert(options.end(), way.begin(), way.end());
    return AgentShell(home, session, options);
  }
  // A command that must work in the sandbox; returns what it printed.
  static std::string good(AgentShell& agent, const std::string& command) {
    const auto answer = agent(command, std::chrono::seconds(120));
    EXPECT_EQ(answer.status, 0) << command << "\n" << answer.out << "\n" << agent.errors();
    return answer.out;
  }
  // One that must fail; returns what it printed.
  static std::string bad(AgentShell& agent, const std::string& command) {
    const auto answer = agent(command);
    EXPECT_GT(answer.status, 0) << command << " succeeded:\n" << answer.out;
    return answer.out;
  }
  static void person(const Home& home, std::vector<std::string> arguments) {
    const Output output = home.fbroker(arguments);
    EXPECT_EQ(output.status, 0) << arguments[0] << ": " << output.out << output.err;
  }

  Home home{GetParam().user};
};

INSTANTIATE_TEST_SUITE_P(, MainJob, testing::ValuesIn(Way::all()), [](const auto& way) { return way.param.name(); });

// What has nothing to do with how the workspace is served.
class MainJobAnyWay : public MainJob {};

INSTANTIATE_TEST_SUITE_P(, MainJobAnyWay, testing::ValuesIn(Way::over("device")),
                         [](const auto& way) { return way.param.name(); });

// A device goes with the broker that has it.
class MainJobOverHttp : public MainJob {};

INSTANTIATE_TEST_SUITE_P(, MainJobOverHttp, testing::ValuesIn(Way::over("http")),
                         [](const auto& way) { return way.param.name(); });

TEST_P(MainJob, AGrantAndARevokeReachARunningShellAndItsOpenDescriptor) {
  home.write(".env", "TOKEN=1");
  AgentShell agent = shell("story");
  EXPECT_TRUE(has(bad(agent, "cat .env"), "No such file or directory"));

  person(home, {"grant", "-s", "story", ".env", "--read", "--override-deny"});
  EXPECT_EQ(good(agent, "cat .env"), "TOKEN=1\n");
  good(agent, "exec 7<.env; cat .env >/dev/null");

  person(home, {"revoke", "-s", "story", ".env"});
  EXPECT_TRUE(has(bad(agent, "cat .env"), "No such file or directory"));
  bad(agent, "cat <&7");  // held open: gone all the same
  good(agent, "exec 7<&-");
  EXPECT_EQ(agent.finish(), 0);

  const Output log = home.fbroker({"audit", "search", "--dir", home.audit_dir("story").string(), "--json"});
  EXPECT_EQ(log.status, 0) << log.err;
  for (const char* part : {"\"deny\"", "base:env", "\"grant\"", "\"revoke\"", "/.env"})
    EXPECT_TRUE(has(log.out, part)) << part << " is not in the log:\n" << log.out;
}

TEST_P(MainJobAnyWay, TheAuditLogVerifiesUntilOneByteOfItIsChanged) {
  home.write("a.txt", "hello");
  {
    AgentShell agent = shell("audited");
    good(agent, "cat a.txt; for i in 1 2 3 4 5; do echo $i > new$i; done");
    agent.finish();
  }
  const std::string dir = home.audit_dir("audited").string();
  const Output whole = home.fbroker({"audit", "verify", "--dir", dir});
  EXPECT_EQ(whole.status, 0) << whole.out << whole.err;

  std::fstream log(fs::path(dir) / "000001.jsonl", std::ios::in | std::ios::out | std::ios::binary);
  std::string third;
  std::getline(log, third);
  std::getline(log, third);
  const auto at = log.tellg();
  std::getline(log, third);
  const std::size_t digit = third.find("\"op");
  ASSERT_NE(digit, third.npos) << third;
  log.clear();
  log.seekp(static_cast<std::streamoff>(at) + static_cast<std::streamoff>(digit) + 1);
  log.put('O');
  log.close();

  const Output broken = home.fbroker({"audit", "verify", "--dir", dir});
  EXPECT_EQ(broken.status, 1);
  EXPECT_TRUE(std::regex_search(broken.out + broken.err, std::regex("000001.jsonl.*\\b3\\b")))
      << broken.out << broken.err;
}

TEST_P(MainJob, GitWorksAndThePersonsHooksAndConfigStayAsTheyAre) {
  ASSERT_EQ(home.shell("git init -q . && git config user.email a@b.c && git config user.name n && "
                       "echo one > one && git add one && git commit -qm one").status, 0);
  AgentShell agent = shell("git");
  good(agent, "git status --porcelain; echo two > two; git add two; git commit -qm two; git log --oneline");
  EXPECT_EQ(good(agent, "git status --porcelain"), "");
  bad(agent, "echo 'touch /tmp/pwned' > .git/hooks/post-checkout");
  bad(agent, "git config core.fsmonitor ./evil");
  bad(agent, "mv .git .git-old");
  good(agent, "git clone -q . inner && cd inner && git config user.email x@y.z && "
              "git -c user.name=n commit -q --allow-empty -m x; cd ..");
  good(agent, "rm -rf inner");
  EXPECT_FALSE(fs::exists(home.project() / ".git/hooks/post-checkout"));
  EXPECT_EQ(home.shell("git log --format=%s | head -1").out, "two\n");
  EXPECT_EQ(home.shell("git fsck --strict && git status --porcelain -uno").status, 0);
}

// ATTACK: a repository of the agent's own, called a submodule in the person's index,
// is entered by the person's plain `git status`, which obeys its configuration.
TEST_P(MainJobAnyWay, ARepositoryOfTheAgentsRunsNothingWhenThePersonLooks) {
  ASSERT_EQ(home.shell("git init -q . && git config user.email a@b.c && git config user.name n && "
                       "echo one > one && git add one && git commit -qm one").status, 0);
  AgentShell agent = shell("nested");
  const std::string touch = "touch " + (home.project() / "pwned").string();
  // Repositories work: cloned, as a submodule, as a second work tree.
  good(agent, "git clone -q . sub && git -C sub config user.email x@y.z && git -C sub config remote.origin.prune true");
  good(agent, "git -c protocol.file.allow=always submodule --quiet add ./sub lib && git -C lib status && "
              "git -C lib -c user.name=n -c user.email=e commit -q --allow-empty -m x");
  good(agent, "git worktree add -q tree && git -C tree status");
  good(agent, "git init -q fresh && git -C fresh sparse-checkout init && ! git -C fresh config core.symlinks");
  // What git would run is refused, by every way there is.
  bad(agent, "git -C sub config core.fsmonitor '" + touch + "'");
  bad(agent, "printf '[core]\\n\\tfsmonitor = " + touch + "\\n' >> sub/.git/config");
  bad(agent, "git -C lib config core.fsmonitor '" + touch + "'");
  bad(agent, "echo '" + touch + "' > sub/.git/hooks/post-index-change");
  bad(agent, "git init -q --bare evil");
  good(agent, "printf '[core]\\n\\tbare = false\\n\\tfsmonitor = " + touch +
                  "\\n' >> evil/config && mkdir one-way another third");
  bad(agent, "mv evil one-way/.git");
  bad(agent, "ln -s ../evil another/.git");
  bad(agent, "echo 'gitdir: ../evil' > third/.git");
  good(agent, "for dir in sub one-way another third; do "
              "git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),$dir; done");
  agent.finish();
  home.shell("for dir in . sub lib fresh one-way another third; do git -C $dir status || true; done >/dev/null 2>&1");
  EXPECT_FALSE(fs::exists(home.project() / "pwned"));
}

// ATTACK: git that finds ".git" broken asks whether the folder around it is a
// repository itself, and obeys the "config" in it.
TEST_P(MainJobAnyWay, ABrokenRepositoryDoesNotMakeItsFolderOne) {
  ASSERT_EQ(home.shell("git init -q . && git config user.email a@b.c && git config user.name n && "
                       "echo one > one && git add one && git commit -qm one").status, 0);
  AgentShell agent = shell("broken");
  good(agent, "cp -r .git/objects .git/refs .git/index . && printf '[core]\\n\\tbare = false\\n\\tworktree = .\\n"
              "\\tfsmonitor = touch " + (home.project() / "pwned").string() + "\\n' > config && echo x > .git/HEAD");
  bad(agent, "echo 'ref: refs/heads/master' > HEAD");
  bad(agent, "ln -s refs/heads/master HEAD");
  bad(agent, "echo 'ref: refs/heads/master' > words && mv words HEAD");
  agent.finish();
  EXPECT_NE(home.shell("git status").status, 0);
  EXPECT_FALSE(fs::exists(home.project() / "pwned"));
}

TEST_P(MainJob, MakeBuildsACProjectInParallel) {
  std::string makefile = "CC=gcc\nprog: a.o b.o c.o d.o\n\t$(CC) -o $@ $^\n";
  home.write("Makefile", makefile);
  for (const char* unit : {"a", "b", "c"})
    home.write(std::string(unit) + ".c", std::string("int ") + unit + "(void) { return 1; }");
  home.write("d.c", "int a(void); int b(void); int c(void);\nint main(void) { return a() + b() + c() - 3; }");
  AgentShell agent = shell("make");
  good(agent, "make -j2 && ./prog");
  EXPECT_TRUE(has(good(agent, "make"), "up to date"));
}

TEST_P(MainJob, SqliteWorksWithAWriteAheadLog) {
  AgentShell agent = shell("sqlite");
  good(agent, "sqlite3 t.db 'pragma journal_mode=wal; create table t(x); "
              "insert into t values (1),(2);'");
  EXPECT_EQ(good(agent, "for i in 3 4 5; do sqlite3 t.db \"insert into t values ($i)\"; done; "
                        "sqlite3 t.db 'select sum(x) from t; pragma integrity_check;'"), "15\nok\n");
  agent.finish();
  EXPECT_EQ(home.shell("sqlite3 t.db 'select count(*) from t'").out, "5\n");
}

TEST_P(MainJob, ThousandsOfFilesAreUnpackedListedAndRemoved) {
  ASSERT_EQ(home.shell("mkdir tree; for d in $(seq 30); do mkdir tree/$d; for f in $(seq 100); do "
                       "echo $d-$f > tree/$d/$f; done; done; tar cf tree.tar tree; rm -r tree").status, 0);
  AgentShell agent = shell("tar");
  good(agent, "tar xf tree.tar");
  EXPECT_EQ(good(agent, "find tree -type f | wc -l; cat tree/17/42"), "3000\n17-42\n");
  good(agent, "rm -r tree");
  agent.finish();
  EXPECT_FALSE(fs::exists(home.project() / "tree"));
}

TEST_P(MainJob, TenThousandFilesInOneDirectoryAreAllSeenOnce) {
  ASSERT_EQ(home.shell("mkdir many; cd many; seq -f f%g 10000 | xargs touch").status, 0);
  AgentShell agent = shell("many");
  EXPECT_EQ(good(agent, "ls many | wc -l; ls many | sort -u | wc -l; ls -l many | wc -l"), "10000\n10000\n10001\n");
}

TEST_P(MainJob, AFileIsReplacedWhileItIsOpen) {
  home.write("f", "old");
  AgentShell agent = shell("rename");
  EXPECT_EQ(good(agent, "exec 8<f; echo new > g; mv g f; cat f; cat <&8; exec 8<&-"), "new\nold\n");
}

TEST_P(MainJob, AWritableMappingIsSharedWithTheFile) {
  home.write("m", std::string(8192, 'x'));
  home.write("map.py", R"(
import mmap, os
f = os.open("m", os.O_RDWR)
m = mmap.mmap(f, 8192)
m[0:5] = b"hello"; m[4096:4101] = b"world"; m.flush()
g = os.open("m", os.O_RDONLY)
assert os.pread(g, 5, 0) == b"hello" and os.pread(g, 5, 4096) == b"world"
os.pwrite(f, b"HELLO", 0)
assert m[0:5] == b"HELLO"
)");
  AgentShell agent = shell("mmap");
  good(agent, "python3 map.py");
  agent.finish();
  std::ifstream in(home.project() / "m");
  std::string start(5, ' ');
  in.read(start.data(), 5);
  EXPECT_EQ(start, "HELLO");
}

TEST_P(MainJob, AHiddenFileIsAbsentForEveryTool) {
  home.write(".env", "SECRET=needle");
  home.write(".env.example", "SECRET=needle-example");
  home.write("src/a.txt", "needle");
  AgentShell agent = shell("hidden");
  EXPECT_EQ(good(agent, "ls -A"), ".env.example\nsrc\n");
  bad(agent, "test -e .env");
  EXPECT_TRUE(has(bad(agent, "cat .env"), "No such file or directory"));
  EXPECT_TRUE(has(bad(agent, "rm .env"), "No such file"));
  bad(agent, "echo x > .env");
  bad(agent, "ln -s x .env || mkdir .env || mv src .env");
  EXPECT_EQ(good(agent, "rg --hidden -l needle </dev/null | sort"), ".env.example\nsrc/a.txt\n");
  agent.finish();
  EXPECT_EQ(home.shell("cat .env").out, "SECRET=needle\n");
}

TEST_P(MainJob, AnEditOnTheHostIsSeenAtOnce) {
  home.write("edited", "before");
  home.write("dir/x", "x");
  AgentShell agent = shell("edit");
  EXPECT_EQ(good(agent, "cat edited; cat later 2>/dev/null; ls dir"), "before\nx\n");
  ASSERT_EQ(home.shell("echo after-the-edit > edited; echo now > later; rm dir/x; echo y > dir/y").status, 0);
  const bool seen = wait_until([&] {
    return agent("cat edited later; ls dir").out == "after-the-edit\nnow\ny\n";
  }, 5s);
  EXPECT_TRUE(seen) << agent("cat edited later; ls dir").out;
}

TEST_P(MainJob, WhatWasReplacedOrMovedAwayOnTheHostIsNotServedUnderItsOldName) {
  home.write("held", "first");
  home.write("dir/inner", "inside");
  AgentShell agent = shell("moved");
  EXPECT_EQ(good(agent, "cat held dir/inner; exec 9<held; cd dir; pwd"), "first\ninside\n/workspace/dir\n");
  ASSERT_EQ(home.shell("echo second > other; mv other held; mkdir ../away; mv dir ../away/").status, 0);
  EXPECT_TRUE(wait_until([&] { return agent("cat /workspace/held").out == "second\n"; }, 5s));
  EXPECT_TRUE(wait_until([&] { return agent("cat /workspace/dir/inner").status != 0; }, 5s));
  bad(agent, "cat inner");           // from inside the directory that left the export
  bad(agent, "echo x > created");
  EXPECT_FALSE(fs::exists(home.path() / "away/dir/created"));
}

TEST_P(MainJobAnyWay, NamesOfEveryByteMeetTheSameDecision) {
  home.write("p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],
    "rules":[{"allow":"write","paths":["/**"]},
             {"deny":"all","paths":["/glob-*.x"]},
             {"deny":"all","match":"/match-.*\\.x"}]})");
  ASSERT_EQ(home.shell(R"(python3 - <<'PY'
import os
for b in range(1, 256):
    if b == 0x2f: continue
    for kind in (b"glob-", b"match-", b"free-"):
        open(kind + bytes([b]) + b".x", "wb").close()
PY)").status, 0);
  AgentShell agent = shell("bytes", {"--policy", "p.json"});
  EXPECT_EQ(good(agent, R"(python3 - <<'PY'
import os
names = os.listdir(b".")
print(sum(n.startswith(b"glob-") for n in names), sum(n.startswith(b"match-") for n in names),
      sum(n.startswith(b"free-") for n in names))
opened = 0
for b in range(1, 256):
    if b == 0x2f: continue
    for kind in (b"glob-", b"match-", b"free-"):
        try:
            os.close(os.open(kind + bytes([b]) + b".x", os.O_RDONLY)); opened += 1
        except FileNotFoundError: pass
print(opened)
PY)"), "0 0 254\n254\n");
}

TEST_P(MainJob, NothingSucceedsAfterARevokeReturned) {
  home.write("watched", std::string(65536, 'a'));
  home.write("p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],
    "rules":[{"allow":"write","paths":["/out"]}, {"allow":"read","paths":["/load.py"]}]})");
  home.write("out/log", "");
  // Each worker notes when (CLOCK_MONOTONIC, the host's too) its latest success began.
  home.write("load.py", R"(
import mmap, os, sys, time
kind = sys.argv[1]
f = os.open("watched", os.O_RDWR)
m = mmap.mmap(f, 65536, mmap.MAP_SHARED) if kind == "map" else None
print("ready", flush=True)
latest = 0
try:
    while True:
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        if kind == "read": os.pread(f, 4096, 8192)
        elif kind == "write": os.pwrite(f, b"b" * 512, 512)
        else: m[int(began * 1e6) % 65536]
        latest = began
        out = os.open("out/" + kind, os.O_WRONLY | os.O_CREAT)
        os.pwrite(out, b"%020.9f" % latest, 0); os.close(out)
except OSError as e:
    print("refused", e.errno, flush=True)
)");
  AgentShell agent = shell("final", {"--policy", "p.json"});
  good(agent, "true");   // it is up
  for (int round = 0; round < 3; ++round) {
    person(home, {"grant", "-s", "final", "watched", "--write"});
    good(agent, "rm -f out/read out/write out/map; for k in read write map; do python3 load.py $k > out/$k.txt 2>&1 & done; "
                "until [ -e out/read ] && [ -e out/write ] && [ -e out/map ]; do :; done");
    person(home, {"revoke", "-s", "final", "watched"});
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const double returned = static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
    good(agent, "wait");   // all three have failed: nobody hangs, nobody goes on
    for (const char* kind : {"read", "write", "map"}) {
      const double latest = std::atof(home.shell(std::string("cat out/") + kind).out.c_str());
      EXPECT_GT(latest, 0) << kind;
      EXPECT_LT(latest, returned) << kind << " succeeded after revoke had returned, round " << round;
    }
  }
}

TEST_P(MainJobOverHttp, AKilledBrokerComesBackUnderARunningAgent) {
  home.write("f", "content");
  auto serve = [&] {
    Process broker = Process::start({programs_directory() + "/fbroker", "serve", "--root", "."}, home.as());
    EXPECT_TRUE(wait_until([&] { return home.fbroker({"status"}).status == 0; }, 20s)) << broker.errors();
    return broker;
  };
  auto broker = std::make_optional(serve());
  AgentShell agent = shell("lasting");
  good(agent, "cat f; mkdir out; (for i in $(seq 400); do echo $i > out/$i || echo FAILED; "
              "cat f >/dev/null || echo FAILED; done; echo done) > /tmp/load 2>&1 &");
  for (int kill = 0; kill < 2; ++kill) {
    broker->signal(SIGKILL);
    broker->wait();
    broker.reset();
    broker.emplace(serve());
    EXPECT_EQ(good(agent, "cat f"), "content\n");
  }
  EXPECT_EQ(good(agent, "wait; cat /tmp/load"), "done\n");
  EXPECT_EQ(good(agent, "ls out | wc -l; cat out/* | sort -n | tail -1"), "400\n400\n");
}

TEST_P(MainJobAnyWay, TheCommandsExitStatusIsTheLaunchers) {
  EXPECT_EQ(home.fbroker({"run", "--", "sh", "-c", "exit 42"}).status, 42);
  EXPECT_EQ(home.fbroker({"run", "--", "/no/such/program"}).status, 127);
  EXPECT_EQ(home.fbroker({"run", "--policy", "/no/such/policy", "--", "true"}).status, 125);
}

TEST_P(MainJobAnyWay, BannerAndReportSayWhatHappened) {
  home.write(".env", "x");
  home.write("a", "x");
  const Output output = home.fbroker({"run", "--name", "talk", "--", "sh", "-c", "cat a; echo y > b; cat .env"});
  EXPECT_NE(output.status, 0);
  for (const char* part : {"session talk", "/workspace", "1 hidden", ".env", "network none", "fbroker grant",
                           "refused", "base:env", "--override-deny"})
    EXPECT_TRUE(has(output.err, part)) << part << " is not in:\n" << output.err;
}

}  // namespace
}  // namespace fbroker::test
