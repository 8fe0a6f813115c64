// fbroker run: what a program inside can see, reach and do, and how the
// launcher begins and ends. Real broker, real FUSE, real bubblewrap; as root
// and as an ordinary user.
//
// This program is also the probe that looks around inside: started there with
// FBROKER_TEST_PROBE set, it prints what it finds, one "key value" a line.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <poll.h>
#include <pty.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

// ---- the probe -----------------------------------------------------------

void tell(const char* key, const std::string& value) { std::printf("%s %s\n", key, value.c_str()); }

std::string names_in(const char* directory, bool numbers_only) {
  std::string names;
  DIR* opened = ::opendir(directory);
  if (opened == nullptr) return "none";
  const std::string own = std::to_string(::dirfd(opened));
  while (const dirent* entry = ::readdir(opened)) {
    const std::string name = entry->d_name;
    if (name == "." || name == ".." || name == own) continue;
    if (numbers_only && name.find_first_not_of("0123456789") != name.npos) continue;
    names += name + ",";
  }
  ::closedir(opened);
  return names;
}

std::string errno_text(long result) { return result >= 0 ? "worked" : ::strerrorname_np(errno); }
std::string opening(const char* path, int flags) { return errno_text(::open(path, flags | O_CLOEXEC)); }

std::string text_of(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void probe() {
  tell("uid", std::to_string(::getuid()) + ":" + std::to_string(::geteuid()) + ":" + std::to_string(::getgid()));
  std::istringstream status(text_of("/proc/self/status"));
  for (std::string line; std::getline(status, line);)
    for (const char* key : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"})
      if (line.starts_with(std::string(key) + ":")) tell(key, line.substr(line.find('\t') + 1));
  tell("fds", names_in("/proc/self/fd", true));
  tell("pids", names_in("/proc", true));
  tell("run", names_in("/run", false));
  tell("sockets", names_in("/run/fbroker", false));
  tell("shims", names_in("/run/fbroker-init", false));
  tell("root", names_in("/", false));
  std::string interfaces;
  if (auto* all = ::if_nameindex(); all != nullptr)
    for (auto* one = all; one->if_index != 0; ++one) interfaces += std::string(one->if_name) + ",";
  tell("interfaces", interfaces);
  tell("core_pattern", opening("/proc/sys/kernel/core_pattern", O_WRONLY));
  tell("sysrq", opening("/proc/sysrq-trigger", O_WRONLY));
  tell("fuse", opening("/dev/fuse", O_RDWR));
  tell("init_memory", opening("/proc/1/mem", O_RDONLY));
  tell("init_environ", opening("/proc/1/environ", O_RDONLY));
  tell("kill_init", errno_text(::kill(1, SIGKILL)));  // allowed, and without effect
  char key = 'x';
  tell("tiocsti", errno_text(::ioctl(0, TIOCSTI, &key)));
  tell("tty", opening("/dev/tty", O_RDWR));
  tell("unshare_user", errno_text(::unshare(CLONE_NEWUSER)));
  tell("unmount", errno_text(::umount2("/workspace", MNT_DETACH)));
  tell("mount", errno_text(::mount("none", "/tmp", "tmpfs", 0, nullptr)));
  tell("ptrace", errno_text(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr)));
  tell("write_usr", opening("/usr/probe", O_WRONLY | O_CREAT));
  tell("write_root", opening("/probe", O_WRONLY | O_CREAT));
  tell("write_dev", opening("/dev/probe", O_WRONLY | O_CREAT));
  tell("write_socket", opening("/run/fbroker/probe", O_WRONLY | O_CREAT));
  tell("write_tmp", opening("/tmp/probe", O_WRONLY | O_CREAT));
  tell("write_home", opening("/home/agent/probe", O_WRONLY | O_CREAT));
  std::ifstream mounts("/proc/self/mountinfo");
  std::string points;
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string word;
    for (int field = 0; field < 5; ++field) words >> word;
    points += word + ",";
  }
  tell("mounts", points);
  for (char** entry = environ; *entry != nullptr; ++entry)
    tell("env", std::string(*entry).substr(0, std::string(*entry).find('=')));
  std::fflush(stdout);
}

[[gnu::constructor]] void be_the_probe() {
  if (std::getenv("FBROKER_TEST_PROBE") == nullptr) return;
  probe();
  ::_exit(0);
}

// ---- the tests -----------------------------------------------------------

using Findings = std::multimap<std::string, std::string>;

Findings parse(const std::string& text) {
  Findings findings;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (const auto space = line.find(' '); space != line.npos)
      findings.emplace(line.substr(0, space), line.substr(space + 1));
  return findings;
}

std::string one(const Findings& findings, const std::string& key) {
  const auto found = findings.find(key);
  return found == findings.end() ? "(not told)" : found->second;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

std::string fbroker() { return programs_directory() + "/fbroker"; }

class Run : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "ordinary" && ::getuid() != 0) GTEST_SKIP() << "we are the ordinary user already";
  }
  static std::string user() { return GetParam() == "ordinary" ? "fbroker-test" : ""; }

  Output inside(std::vector<std::string> command, std::vector<std::string> options = {}) const {
    std::vector<std::string> arguments{"run"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    arguments.push_back("--");
    arguments.insert(arguments.end(), command.begin(), command.end());
    return home.fbroker(arguments);
  }
  Findings look_around(std::vector<std::string> options = {}) const {
    // The probe is shown as a toolchain: a directory that holds it alone.
    const fs::path kit = home.path() / "kit";
    fs::create_directories(kit);
    fs::copy_file("/proc/self/exe", kit / "probe", fs::copy_options::overwrite_existing);
    options.insert(options.end(), {"--tool", kit.string()});
    const Output output = inside({"env", "FBROKER_TEST_PROBE=1", (kit / "probe").string()}, options);
    EXPECT_EQ(output.status, 0) << output.err;
    return parse(output.out);
  }

  Home home{user()};
};

INSTANTIATE_TEST_SUITE_P(, Run, testing::Values(::getuid() == 0 ? "root" : "self", "ordinary"),
                         [](const auto& as) { return as.param; });

TEST_P(Run, TheAgentHasNoPowerAtAll) {
  const Findings found = look_around();
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    EXPECT_EQ(one(found, set), "0000000000000000") << set;
  EXPECT_EQ(one(found, "NoNewPrivs"), "1");
  EXPECT_EQ(one(found, "Seccomp"), "2");
  for (const char* refused : {"tiocsti", "unshare_user", "unmount", "mount", "ptrace"})
    EXPECT_EQ(one(found, refused), "EPERM") << refused;
  EXPECT_EQ(one(found, "core_pattern"), "EACCES");
  EXPECT_NE(one(found, "sysrq"), "worked");
}

TEST_P(Run, TheAgentHasThePersonsNumberAndNeverRoots) {
  const std::string uid = one(look_around(), "uid");
  if (GetParam() == "root") {
    EXPECT_EQ(uid, "1000:1000:1000");
    return;
  }
  const Output id = home.shell("echo $(id -u):$(id -u):$(id -g)");
  EXPECT_EQ(uid + "\n", id.out);
}

TEST_P(Run, TheAgentSeesOnlyItsOwnProcessesAndCannotReachTheFirst) {
  const Findings found = look_around();
  EXPECT_EQ(one(found, "pids"), "1,2,");  // fbroker-init's second half and itself
  EXPECT_EQ(one(found, "init_memory"), "EACCES");
  EXPECT_EQ(one(found, "init_environ"), "EACCES");
}

TEST_P(Run, BeginsInTheWorkspaceAndSaysSo) {
  EXPECT_EQ(inside({"sh", "-c", "/bin/pwd -P; env | grep ^PWD="}).out, "/workspace\nPWD=/workspace\n");
  EXPECT_EQ(inside({"env"}, {"--workspace", "/src"}).out.find("PWD=/home"), std::string::npos);
}

TEST_P(Run, NothingIsInheritedOrShown) {
  const Findings found = look_around();
  EXPECT_EQ(one(found, "fds"), "0,1,2,");
  EXPECT_EQ(one(found, "interfaces"), "lo,");
  EXPECT_EQ(one(found, "shims"), "");
  EXPECT_EQ(one(found, "sockets"), "broker.sock,");
  EXPECT_EQ(one(found, "fuse"), "ENOENT");
  EXPECT_EQ(one(found, "tty"), "ENXIO");
  for (const char* absent : {"/home,", "/root", "/sys", "/boot", "/run/user", "/etc/ssh", "/mnt"})
    EXPECT_FALSE(has(one(found, "mounts"), absent)) << absent << " in " << one(found, "mounts");
  EXPECT_TRUE(has(one(found, "mounts"), "/workspace,"));
}

TEST_P(Run, OnlyTmpHomeAndTheWorkspaceCanBeWritten) {
  const Findings found = look_around();
  for (const char* place : {"write_usr", "write_root", "write_dev"}) EXPECT_EQ(one(found, place), "EROFS") << place;
  EXPECT_NE(one(found, "write_socket"), "worked");
  EXPECT_EQ(one(found, "write_tmp"), "worked");
  EXPECT_EQ(one(found, "write_home"), "worked");
}

TEST_P(Run, TheEnvironmentIsAListOfAllowedNames) {
  As as = home.as();
  as.environment["AWS_SECRET_ACCESS_KEY"] = "hunter2";
  as.environment["LC_ALL"] = "C";
  const Output output = run({fbroker(), "run", "--", "/bin/sh", "-c", "env -0 | tr '\\0' '\\n'"}, as);
  EXPECT_FALSE(has(output.out, "hunter2"));
  EXPECT_FALSE(has(output.out, "XDG_"));
  EXPECT_FALSE(has(output.out, home.path().string()));
  for (const char* kept : {"LC_ALL=C", "TERM=xterm", "FBROKER_IN_SANDBOX=1", "HOME=/home/agent", "PWD=/workspace"})
    EXPECT_TRUE(has(output.out, kept)) << kept << " in " << output.out;
}

TEST_P(Run, EndsWithTheCommandsOwnStatus) {
  EXPECT_EQ(inside({"true"}).status, 0);
  EXPECT_EQ(inside({"sh", "-c", "exit 7"}).status, 7);
  EXPECT_EQ(inside({"sh", "-c", "kill -TERM $$"}).status, 128 + 15);
  EXPECT_EQ(inside({"no-such-program"}).status, 127);
  EXPECT_EQ(inside({"/etc/passwd"}).status, 126);
}

TEST_P(Run, InputOutputAndErrorsStayApart) {
  const Output output = run({fbroker(), "run", "-q", "--", "sh", "-c", "cat; echo oops >&2"}, home.as(),
                            std::chrono::seconds(60), "line 1\nline 2");
  EXPECT_EQ(output.out, "line 1\nline 2\n");
  EXPECT_EQ(output.err, "oops\n");
}

// ATTACK: a descriptor's file can be opened anew through /proc/self/fd, for
// writing what was opened to be read, and from a directory the whole host.
TEST_P(Run, NoFileOfThePersonsIsHandedOver) {
  home.write("../input", "the person's");
  home.write("../log", "before");
  const auto output = home.shell(fbroker() + " run -q -- bash -c '"
                                 "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 | sed s/:.*//; "
                                 "echo agent >/proc/self/fd/0; true' <../input >>../log 2>>../errors; "
                                 "cat ../input ../log");
  EXPECT_EQ(output.out, "the person's\nbefore\npipe\npipe\npipe\n") << output.err;
  const auto directory = home.shell(fbroker() + " run -q -- bash -c 'cat /proc/self/fd/0/../../../etc/passwd; "
                                    "cat /proc/self/fd/0/input; true' <..");
  EXPECT_EQ(directory.out, "");
}

TEST_P(Run, StreamsBehaveAsIfTheyWereHandedOver) {
  const auto says = [&](const std::string& script) { return home.shell(script).out; };
  const std::string run = fbroker() + " run -q -- ";
  home.write("../input", std::string(299'999, 'x'));
  EXPECT_EQ(says(run + "wc -c <../input"), "300000\n");
  EXPECT_EQ(says(run + "head -c 3 <../input"), "xxx");
  EXPECT_EQ(says(run + "head -c 3000000 /dev/zero | (sleep 1.5; wc -c)"), "3000000\n") << "a slow reader gets all";
  EXPECT_EQ(says(run + "bash -c 'for n in 1 2 3; do echo o$n; echo e$n >&2; done' >../both 2>&1; cat ../both"),
            "o1\ne1\no2\ne2\no3\ne3\n")
      << "in their order";
  EXPECT_EQ(says(run + "yes | head -n 1"), "y\n") << "who writes to nobody is ended";
  EXPECT_EQ(says(run + "bash -c 'cat; echo $?' <&-"), "0\n");
  const auto full = home.shell(run + "echo lost >/dev/full");
  EXPECT_EQ(full.status, 1);
  EXPECT_TRUE(has(full.err, "No space left on device")) << full.err;
  EXPECT_EQ(home.shell(run + "true >/dev/full").status, 0);
}

TEST_P(Run, BannerAndEndReportTellThePerson) {
  home.write(".env", "TOKEN=1");
  const Output output = inside({"sh", "-c", "cat .env; echo x > made; true"}, {"--name", "told"});
  for (const char* part : {"session told · /workspace = ", "(rw) · 1 hidden: .env · network none · ",
                           "other terminal: fbroker grant PATH --read", "session told ended · ",
                           "read /.env (base:env) → fbroker grant "})
    EXPECT_TRUE(has(output.err, part)) << part << " is not in:\n" << output.err;
  EXPECT_EQ(inside({"true"}, {"--quiet"}).err, "");
}

TEST_P(Run, NothingIsLeftBehind) {
  // Named after this test's process, so that another run of it is not meant.
  const std::string own = std::to_string(::getpid()), name = "gone-" + own, sleep = "sleep 4711." + own;
  const Output output = inside({"sh", "-c", "setsid " + sleep + " </dev/null >/dev/null 2>&1 & exit 0"}, {"--name", name});
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_EQ(home.shell("pgrep -f '[s]" + sleep.substr(1) + "' || true").out, "");
  EXPECT_EQ(home.shell("pgrep -f '[s]erve --embedded --session " + name + "' || true").out, "");
  EXPECT_EQ(home.shell("grep -c fbroker-init /proc/self/mountinfo || true").out, "0\n");
  EXPECT_EQ(home.shell("find \"$XDG_RUNTIME_DIR\" -type s").out, "");
}

TEST_P(Run, ANamedSessionKeepsItsHomeAndNobodyElses) {
  EXPECT_EQ(inside({"sh", "-c", "echo kept > ~/note"}, {"--name", "keeper"}).status, 0);
  EXPECT_EQ(inside({"cat", "/home/agent/note"}, {"--name", "keeper"}).out, "kept\n");
  EXPECT_NE(inside({"cat", "/home/agent/note"}, {"--name", "other"}).status, 0);
  EXPECT_NE(inside({"cat", "/home/agent/note"}).status, 0);
}

TEST_P(Run, AHomeThatWasClosedInsideIsOpenedAgain) {
  EXPECT_EQ(inside({"sh", "-c", "echo kept > ~/note && chmod 0 ~"}, {"--name", "keeper"}).status, 0);
  EXPECT_EQ(inside({"cat", "/home/agent/note"}, {"--name", "keeper"}).out, "kept\n");
}

TEST_P(Run, TheWorkspaceCanHaveAnotherPlace) {
  home.write("a", "text");
  EXPECT_EQ(inside({"sh", "-c", "pwd; cat a"}, {"--workspace", "/src/web"}).out, "/src/web\ntext\n");
  EXPECT_EQ(inside({"true"}, {"--workspace", "/etc"}).status, 125);
}

TEST_P(Run, AToolchainIsShownReadOnlyAndFound) {
  const fs::path kit = home.path() / "kit";
  fs::create_directories(kit / "bin");
  std::ofstream(kit / "bin/hello") << "#!/bin/sh\necho from the kit\n";
  fs::permissions(kit / "bin/hello", fs::perms(0755));
  EXPECT_EQ(inside({"hello"}, {"--tool", kit.string()}).out, "from the kit\n");
  EXPECT_NE(inside({"hello"}).status, 0);
  EXPECT_NE(inside({"touch", (kit / "x").string()}, {"--tool", kit.string()}).status, 0);
  EXPECT_EQ(inside({"true"}, {"--tool", home.path().string()}).status, 125);      // HOME itself
  EXPECT_EQ(inside({"true"}, {"--tool", home.project().string()}).status, 125);   // the workspace
}

// ATTACK: the last run's agent left them there, and the person's PATH leads there.
TEST_P(Run, NoProgramOutOfTheWorkspaceIsStartedOnTheHost) {
  for (const char* name : {"bwrap", "git"}) {
    home.write(name, "#!/bin/sh\ntouch " + (home.project() / "ran").string() + "\nexec /usr/bin/" + name + " \"$@\"\n");
    fs::permissions(home.project() / name, fs::perms(0755));
  }
  EXPECT_EQ(home.shell("PATH=" + home.project().string() + ":$PATH; " + programs_directory() + "/fbroker run -q -- echo inside").out, "inside\n");
  EXPECT_FALSE(fs::exists(home.project() / "ran"));
}

TEST_P(Run, WhatCannotBeProtectedDoesNotStart) {
  EXPECT_EQ(inside({"true"}, {"--root", "/"}).status, 125);
  EXPECT_EQ(inside({"true"}, {"--root", home.path().string()}).status, 125);
  const Output broken = inside({"true"}, {"--policy", "missing.json"});
  EXPECT_EQ(broken.status, 125);
  EXPECT_TRUE(has(broken.err, "missing.json")) << broken.err;
  home.write("bad.json", R"({"version": 1, "rules": [{"alow": "read", "paths": ["/**"]}]})");
  const Output wrong = inside({"true"}, {"--policy", "bad.json"});
  EXPECT_EQ(wrong.status, 125);
  EXPECT_TRUE(has(wrong.err, "alow")) << wrong.err;
  const Output none = run({"unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c",
                           "mount --bind /dev/null /usr/bin/bwrap && exec \"$0\" run -- true", fbroker()}, home.as());
  EXPECT_EQ(none.status, 125);
  EXPECT_TRUE(has(none.err, "apt install bubblewrap")) << none.err;
}

TEST_P(Run, APolicyInTheTreeIsNotUsedUnlessItIsNamed) {
  home.write("p.json", R"({"version": 1, "exports": [{"at": "/", "from": "."}], "rules": []})");
  home.write("a", "text");
  EXPECT_EQ(inside({"cat", "a"}).out, "text\n");
  EXPECT_NE(inside({"cat", "a"}, {"--policy", "p.json"}).status, 0);
}

TEST_P(Run, ALauncherInsideASandboxRefuses) {
  As as = home.as();
  as.environment["FBROKER_IN_SANDBOX"] = "1";
  EXPECT_EQ(run({fbroker(), "run", "--", "true"}, as).status, 125);
  // Really inside, with the mark washed off.
  const fs::path kit = home.path() / "kit2";
  fs::create_directories(kit);
  fs::copy_file(fbroker(), kit / "fbroker");
  const Output output = inside({"env", "-u", "FBROKER_IN_SANDBOX", (kit / "fbroker").string(), "run", "--", "true"},
                               {"--tool", kit.string()});
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, "already inside a sandbox")) << output.err;
}

TEST_P(Run, ASignalForTheLauncherReachesTheCommand) {
  Process process = Process::start({fbroker(), "run", "-q", "--", "sh", "-c",
                                    "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"}, home.as());
  ASSERT_TRUE(process.read_until("ready\n")) << process.errors();
  process.signal(SIGTERM);
  EXPECT_TRUE(process.read_until("caught\n")) << process.errors();
  EXPECT_EQ(process.wait(), 9);
}

TEST_P(Run, LimitsHold) {
  home.write("a", "text");
  EXPECT_NE(inside({"sh", "-c", "head -c 100000 /dev/zero > /tmp/big"}, {"--max-file-size", "4KB"}).status, 0);
  EXPECT_EQ(inside({"sh", "-c", "head -c 100000 /dev/zero > /tmp/big"}).status, 0);
  EXPECT_NE(inside({"bash", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"}, {"--max-processes", "4"}).err
                .find("fork"), std::string::npos);
}

// ---- a person at a terminal ---------------------------------------------

// `fbroker run` on a terminal of its own, which we are the person at.
class Typist {
 public:
  Typist(const Home& home, const std::string& user, std::vector<std::string> arguments) {
    int master = -1, slave = -1;
    const winsize size{.ws_row = 33, .ws_col = 99, .ws_xpixel = 0, .ws_ypixel = 0};
    if (::openpty(&master, &slave, nullptr, nullptr, &size) != 0) throw std::runtime_error("openpty");
    if (::getuid() == 0) (void)::fchmod(slave, 0666);
    master_ = UniqueFd(master);
    ::tcgetattr(master, &before_);
    if (!user.empty()) arguments.insert(arguments.begin(), {"setpriv", "--reuid=" + user, "--regid=" + user, "--init-groups"});
    pid_ = ::fork();
    if (pid_ == 0) {
      ::setsid();
      ::ioctl(slave, TIOCSCTTY, 0);
      for (const int fd : {0, 1, 2}) ::dup2(slave, fd);
      for (int fd = 3; fd < 256; ++fd) ::close(fd);
      for (const auto& [name, value] : home.as().environment) ::setenv(name.c_str(), value.c_str(), 1);
      if (::chdir(home.project().c_str()) != 0) ::_exit(124);
      std::vector<char*> argv;
      for (std::string& word : arguments) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execvp(argv[0], argv.data());
      ::_exit(124);
    }
    ::close(slave);
  }
  ~Typist() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
  }

  void type(const std::string& keys) { [[maybe_unused]] const auto put = ::write(master_.get(), keys.data(), keys.size()); }
  // Everything shown until `text`, or what came when it never did.
  bool shows(const std::string& text, std::chrono::seconds bound = std::chrono::seconds(30)) {
    return wait_until([&] { read_some(); return take(text); }, bound);
  }
  // A key that comes before the job is in the foreground is the shell's: again, until it worked.
  bool press_until(const std::string& key, const std::string& text) {
    return wait_until([&] { type(key); return shows(text, std::chrono::seconds(1)); });
  }
  void resize(unsigned short rows, unsigned short columns) {
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ::ioctl(master_.get(), TIOCSWINSZ, &size);
  }
  bool raw() const {
    termios now{};
    ::tcgetattr(master_.get(), &now);
    return (now.c_lflag & static_cast<tcflag_t>(ICANON)) == 0;
  }
  bool as_before() const {
    termios now{};
    ::tcgetattr(master_.get(), &now);
    return now.c_lflag == before_.c_lflag && now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag;
  }
  int wait() {
    int status = 0;
    const bool ended = wait_until([&] { read_some(); return ::waitpid(pid_, &status, WNOHANG) == pid_; });
    if (!ended) return -1;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void signal(int number) const { ::kill(pid_, number); }
  const std::string& seen() const { return seen_; }

 private:
  void read_some() {
    pollfd ready{.fd = master_.get(), .events = POLLIN, .revents = 0};
    char buffer[4096];
    if (::poll(&ready, 1, 20) > 0)
      if (const ssize_t got = ::read(master_.get(), buffer, sizeof buffer); got > 0)
        seen_.append(buffer, static_cast<std::size_t>(got));
  }
  bool take(const std::string& text) {
    const std::size_t at = seen_.find(text);
    if (at == seen_.npos) return false;
    seen_.erase(0, at + text.size());
    return true;
  }

  pid_t pid_ = -1;
  UniqueFd master_;
  termios before_{};
  std::string seen_;
};

TEST_P(Run, AShellOnATerminalHasJobControl) {
  Typist person(home, user(), {fbroker(), "run", "-q", "--", "bash", "--norc", "-i"});
  ASSERT_TRUE(person.shows("$ ")) << person.seen();
  EXPECT_TRUE(person.raw());
  person.type("stty size; tty; echo first-$((1+1))\n");
  EXPECT_TRUE(person.shows("33 99")) << person.seen();
  EXPECT_TRUE(person.shows("/dev/pts/0")) << person.seen();
  EXPECT_TRUE(person.shows("first-2")) << person.seen();
  person.type("echo up-$((1+1)); sleep 1000\n");
  ASSERT_TRUE(person.shows("up-2")) << person.seen();
  EXPECT_TRUE(person.press_until("\x1a", "Stopped")) << person.seen();
  person.type("echo stopped-$(jobs | wc -l)\n");
  ASSERT_TRUE(person.shows("stopped-1")) << person.seen();
  person.type("fg\n");
  ASSERT_TRUE(person.shows("sleep 1000")) << person.seen();
  EXPECT_TRUE(person.press_until("\x03", "$ ")) << person.seen();
  person.type("echo left-$(jobs | wc -l)-$?\n");
  EXPECT_TRUE(person.shows("left-0-")) << person.seen();
  person.resize(40, 120);
  person.type("stty size\n");
  EXPECT_TRUE(person.shows("40 120")) << person.seen();
  person.type("exit 4\n");
  EXPECT_EQ(person.wait(), 4);
  EXPECT_TRUE(person.as_before());
}

TEST_P(Run, AWindowThatChangesTellsTheProgram) {
  Typist person(home, user(), {fbroker(), "run", "-q", "--", "bash", "-c", "trap 'echo now-$(stty size)' WINCH; echo ready-$((1+1)); while :; do sleep 0.05; done"});
  ASSERT_TRUE(person.shows("ready-2")) << person.seen();
  person.resize(50, 150);
  EXPECT_TRUE(person.shows("now-50 150")) << person.seen();
  person.type("\x03");
  EXPECT_EQ(person.wait(), 130);
  EXPECT_TRUE(person.as_before());
}

TEST_P(Run, TheTerminalIsGivenBackWhenTheLauncherIsEnded) {
  Typist person(home, user(), {fbroker(), "run", "-q", "--", "sh", "-c", "echo ready-$((1+1)); exec sleep 1000"});
  ASSERT_TRUE(person.shows("ready-2")) << person.seen();
  EXPECT_TRUE(wait_until([&] { return person.raw(); }));
  person.signal(SIGTERM);
  EXPECT_EQ(person.wait(), 128 + 15);
  EXPECT_TRUE(person.as_before());
}

TEST_P(Run, NobodyInsideTypesIntoATerminal) {
  const fs::path kit = home.path() / "kit";
  fs::create_directories(kit);
  fs::copy_file("/proc/self/exe", kit / "probe");
  Typist person(home, user(), {fbroker(), "run", "-q", "--tool", kit.string(), "--", "env", "FBROKER_TEST_PROBE=1",
                               (kit / "probe").string()});
  EXPECT_TRUE(person.shows("fds 0,1,2,")) << person.seen();
  EXPECT_TRUE(person.shows("tiocsti EPERM")) << person.seen();
  EXPECT_TRUE(person.shows("tty worked")) << person.seen();  // its own, not the person's
  EXPECT_EQ(person.wait(), 0);
}

// ATTACK: a descriptor of the person's terminal, were it handed over, could be
//   written to, read from and reconfigured.
TEST_P(Run, WhatIsLeftOfATerminalIsCarriedThroughPipes) {
  Typist person(home, user(), {"sh", "-c", fbroker() + " run -q -- sh -c 'for n in 0 1 2; do test -t $n || "
                               "echo no-$n-$((n+1)); done; read line; echo got-$line >&2' | cat"});
  for (const char* carried : {"no-0-1", "no-1-2", "no-2-3"}) EXPECT_TRUE(person.shows(carried)) << person.seen();
  EXPECT_FALSE(person.raw());
  person.type("words\n");
  EXPECT_TRUE(person.shows("got-words")) << person.seen();
  EXPECT_EQ(person.wait(), 0);

  Typist writer(home, user(), {"sh", "-c", "true | " + fbroker() + " run -q -- sh -c 'test -t 1 || echo no-1-$((1+1))'"});
  EXPECT_TRUE(writer.shows("no-1-2")) << writer.seen();
  EXPECT_EQ(writer.wait(), 0);
}

}  // namespace
}  // namespace fbroker::test
