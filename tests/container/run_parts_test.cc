// The launcher's decisions: what may be shown, exported, inherited, and what a
// person reads about it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "container/host_root.h"
#include "container/run.h"
#include "container/sandbox.h"
#include "container/terminal/raw_mode.h"
#include "container/terminal/relay.h"
#include "container/tools.h"
#include "container/words.h"

namespace fbroker::container {
namespace {

const Forbidden kForbidden{.home = "/home/alice",
                           .workspace_root = "/home/alice/web",
                           .own = {"/home/alice/.local/state/fbroker", "/run/user/1000/fbroker"}};

TEST(ToolPath, AToolchainMayBeShown) {
  for (const char* path : {"/opt/go", "/home/alice/.local/node", "/home/alice/web-tools", "/usr/local/cuda",
                           "/tmp/kit", "/home/alicebob"})
    EXPECT_TRUE(check_tool_path(path, kForbidden)) << path;
}

TEST(ToolPath, WhatIsPrivateOrTheSandboxesOwnMayNot) {
  for (const char* path : {"/", "/home", "/home/alice", "/home/alice/web", "/home/alice/web/node_modules",
                           "/home/alice/.local", "/home/alice/.local/state/fbroker/x", "/run/user/1000",
                           "/etc", "/etc/ssl", "/proc", "/dev/shm", "/run", "/sys", "/workspace/x"})
    EXPECT_FALSE(check_tool_path(path, kForbidden)) << path;
}

TEST(ToolPath, ASymlinkIsJudgedByWhereItLeads) {
  char name[] = "/tmp/fbroker-tool-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string link = std::string(name) + "/kit";
  std::filesystem::create_directories(std::string(name) + "/real/bin");
  std::filesystem::create_directory_symlink("/etc", link);
  EXPECT_FALSE(open_tool(link, kForbidden));
  std::filesystem::remove(link);
  std::filesystem::create_directory_symlink(std::string(name) + "/real", link);
  auto tool = open_tool(link, kForbidden);
  ASSERT_TRUE(tool) << tool.error().text();
  EXPECT_EQ(tool->mount.at, std::string(name) + "/real");
  EXPECT_EQ(tool->programs, std::string(name) + "/real/bin");
  EXPECT_EQ(tool->mount.mode, Mount::Mode::read_only);
  EXPECT_FALSE(open_tool(std::string(name) + "/missing", kForbidden));
  std::filesystem::remove_all(name);
}

TEST(RunRoot, AProjectMayBeExportedWithoutAPolicy) {
  for (const char* root : {"/home/alice/web", "/srv/x", "/home/alicebob"})
    EXPECT_TRUE(check_root(root, "/home/alice")) << root;
}

TEST(RunRoot, TheMachineAndTheHomeMayNot) {
  for (const char* root : {"/", "/home", "/home/alice"}) EXPECT_FALSE(check_root(root, "/home/alice")) << root;
}

TEST(RunWorkspace, AFreePlace) {
  for (const char* path : {"/workspace", "/home/alice/web", "/data"}) EXPECT_TRUE(check_workspace(path)) << path;
}

TEST(RunWorkspace, NotASystemDirectoryAndNotARelativeOne) {
  for (const char* path : {"/", "workspace", "/a/../etc", "/etc", "/usr/x", "/proc", "/run/fbroker", "/tmp",
                           "/home", "/home/agent", "", "/workspace/"})
    EXPECT_FALSE(check_workspace(path)) << path;
}

TEST(Environment, OnlyTerminalLanguageAndZoneAreKept) {
  const char* const host[]{"TERM=xterm-256color", "LANG=de_DE.UTF-8", "LC_TIME=C", "TZ=UTC", "COLUMNS=80",
                           "AWS_SECRET_ACCESS_KEY=x", "SSH_AUTH_SOCK=/s", "LD_PRELOAD=/evil.so",
                           "PATH=/home/alice/bin", "HOME=/home/alice", "DBUS_SESSION_BUS_ADDRESS=x",
                           "FBROKER_CONTROL=/c", "XTERM=1", "TERMX=1", "novalue", nullptr};
  SandboxSpec spec;
  const auto pairs = environment_inside(host, spec, {"/opt/go/bin"});
  const std::map<std::string, std::string> inside(pairs.begin(), pairs.end());
  const std::map<std::string, std::string> expected{
      {"PATH", "/opt/go/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"},
      {"HOME", "/home/agent"}, {"USER", "agent"}, {"LOGNAME", "agent"}, {"SHELL", "/bin/bash"},
      {"PWD", "/workspace"}, {"TMPDIR", "/tmp"}, {"FBROKER_IN_SANDBOX", "1"},
      {"TERM", "xterm-256color"}, {"LANG", "de_DE.UTF-8"}, {"LC_TIME", "C"}, {"TZ", "UTC"}, {"COLUMNS", "80"}};
  EXPECT_EQ(inside, expected);
}

TEST(Environment, TheProxyIsNamedWhereThereIsOne) {
  SandboxSpec spec;
  spec.proxy = "127.0.0.1:3128";
  const auto pairs = environment_inside(nullptr, spec, {});
  const std::map<std::string, std::string> inside(pairs.begin(), pairs.end());
  EXPECT_EQ(inside.size(), pairs.size()) << "each name once";
  for (const char* name : {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
                           "GIT_CONFIG_VALUE_0"})
    EXPECT_EQ(inside.at(name), "http://127.0.0.1:3128") << name;
  for (const char* name : {"NO_PROXY", "no_proxy"}) EXPECT_EQ(inside.at(name), "localhost,127.0.0.1,::1");
  EXPECT_EQ(inside.at("NODE_USE_ENV_PROXY"), "1");
  EXPECT_EQ(inside.at("GIT_CONFIG_COUNT"), "1");
  EXPECT_EQ(inside.at("GIT_CONFIG_KEY_0"), "http.proxy");
}

TEST(HostSystem, ShowsNothingSecretAndNothingOfThePerson) {
  SandboxSpec spec;
  add_host_system(spec);
  for (const Mount& mount : spec.root) {
    EXPECT_EQ(mount.mode, Mount::Mode::read_only) << mount.at;
    EXPECT_TRUE(mount.at == "/usr" || mount.at.starts_with("/etc/") || mount.at.starts_with("/lib") ||
                mount.at == "/bin" || mount.at == "/sbin") << mount.at;
    for (const char* secret : {"/etc/shadow", "/etc/ssh", "/etc/ssl/private", "/etc/ssl", "/etc", "/etc/sudoers"})
      EXPECT_NE(mount.at, secret);
  }
}

TEST(WrittenFiles, TheAgentIsTheOnlyUser) {
  const auto files = written_files(1000, 1001, "/home/agent");
  const std::map<std::string, std::string> by_name(files.begin(), files.end());
  EXPECT_TRUE(by_name.at("/etc/passwd").starts_with("agent:x:1000:1001:agent:/home/agent:/bin/bash\n"));
  EXPECT_EQ(by_name.at("/etc/passwd").find("root"), std::string::npos);
}

control::Session example() {
  control::Session session;
  session.name = "web-1";
  session.exports = {{"/", "/home/alice/web", true}, {"/docs", "/srv/docs", false}};
  session.hidden = {"/.env", "/a.pem", "/b.pem", "/c.pem"};
  session.hidden_count = 4;
  return session;
}

TEST(Banner, SaysWhatIsThereWhatIsHiddenAndWhatToDo) {
  EXPECT_EQ(banner(example(), {.workspace = "/workspace", .home = "/home/alice"}),
            "session web-1 · /workspace = ~/web (rw), /workspace/docs = /srv/docs (ro) · "
            "4 hidden: .env, a.pem, b.pem … · network none · other terminal: fbroker grant PATH --read\n");
}

TEST(Banner, NamesTheBrokerThePolicyTheNetworkAndWhatGitTracks) {
  control::Session session = example();
  session.network = {"a.example", "*.b.example", "c.example:8443", "d.example"};
  const std::string text = banner(session, {.workspace = "/w", .home = "/home/alice", .broker = "default",
                                            .policy = "/home/alice/p.json", .tracked_hidden = 1});
  EXPECT_NE(text.find("session web-1 on broker default · /w = ~/web (rw), /w/docs = /srv/docs (ro) by ~/p.json · 4 hidden"),
            std::string::npos) << text;
  EXPECT_NE(text.find(" · network a.example, *.b.example, c.example:8443 … · other terminal: fbroker grant -s web-1 PATH"),
            std::string::npos) << text;
  EXPECT_NE(text.find("\n  git tracks 1 file that is hidden: "), std::string::npos) << text;
  session.offline = true;
  EXPECT_NE(banner(session, {.workspace = "/w"}).find("network offline"), std::string::npos);
}

TEST(EndReport, TellsWhatWentThroughTheGate) {
  control::Report report;
  report.connections = 2;
  report.received = 2048;
  report.sent = 100;
  report.refused = {{2, "connect", "a.example:443", "default", "fbroker grant --domain a.example --for 15m"}};
  EXPECT_EQ(end_report(example(), report),
            "session web-1 ended · 0 files read (0 B) · 0 changes (0 B written) · 2 connections (2.0 KiB in, 100 B out) · refused:\n"
            "  refused 2× connect a.example:443 (default) → fbroker grant --domain a.example --for 15m\n");
}

TEST(EndReport, NamesEachRefusalWithItsRuleAndTheCommandThatLiftsIt) {
  control::Report report;
  report.read = 3;
  report.bytes_read = 1536;
  report.changed = 1;
  report.refused = {{4, "read", "/.env", "base:env", "fbroker grant .env --read --override-deny --for 15m"},
                    {1, "write", "/x", "default", ""}};
  report.created_guarded = {"/sub/.git/hooks/pre-commit"};
  EXPECT_EQ(end_report(example(), report),
            "session web-1 ended · 3 files read (1.5 KiB) · 1 change (0 B written) · refused:\n"
            "  refused 4× read /.env (base:env) → fbroker grant .env --read --override-deny --for 15m\n"
            "  refused 1× write /x (default)\n"
            "  created, and may run code on this machine: /sub/.git/hooks/pre-commit\n");
}

TEST(EndReport, IsBoundedWhateverTheAgentDid) {
  control::Report report;
  for (int i = 0; i < 1000; ++i) report.refused.push_back({1, "read", "/f", "default", ""});
  const std::string text = end_report(example(), report);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 22);
  EXPECT_NE(text.find("and 980 more"), std::string::npos);
}

TEST(Printable, NoNameSpeaksToTheTerminal) {
  EXPECT_EQ(printable("a\x1b]52;c;x\x07\n\r\t\x7f"), "a\\x1b]52;c;x\\x07\\x0a\\x0d\\x09\\x7f");
  EXPECT_EQ(printable("\xff\xc2\x9b\xe2\x80\xae"), "\\xff\\xc2\\x9b\\xe2\\x80\\xae");  // bad, CSI, RLO
  for (const char* unseen : {"\u00ad", "\u061c", "\u200b", "\u200f", "\u2028", "\u2066", "\ufeff"})
    EXPECT_TRUE(printable(unseen).starts_with("\\x")) << printable(unseen);
  EXPECT_EQ(printable("größe 日本 🙂"), "größe 日本 🙂");
}

struct Ends {
  UniqueFd out, in;
};
Ends make_pipe() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

TEST(RelayChannel, CopiesEverythingThenClosesTheTarget) {
  Ends source = make_pipe(), target = make_pipe();
  const int read_end = target.out.get();
  Channel channel(std::move(source.out), std::move(target.in));
  std::string sent, got;
  for (int round = 0; round < 200; ++round) {
    const std::string piece(1000 + static_cast<std::size_t>(round), static_cast<char>('a' + round % 26));
    ASSERT_EQ(::write(source.in.get(), piece.data(), piece.size()), static_cast<ssize_t>(piece.size()));
    sent += piece;
    channel.pump();
    char buffer[8192];
    const ssize_t size = ::read(read_end, buffer, sizeof buffer);
    ASSERT_GT(size, 0);
    got.append(buffer, static_cast<std::size_t>(size));
  }
  source.in = UniqueFd();
  channel.pump();
  EXPECT_TRUE(channel.ended());
  char rest[8192];
  for (ssize_t size; (size = ::read(read_end, rest, sizeof rest)) > 0;) got.append(rest, static_cast<std::size_t>(size));
  EXPECT_EQ(got, sent);
}

TEST(RelayChannel, WhoWritesToAReaderThatIsGoneLearnsOfIt) {
  ::signal(SIGPIPE, SIG_IGN);
  Ends source = make_pipe(), target = make_pipe();
  target.out = UniqueFd();
  Channel channel(std::move(source.out), std::move(target.in));
  ASSERT_EQ(::write(source.in.get(), "x", 1), 1);
  channel.pump();
  EXPECT_TRUE(channel.ended());
  EXPECT_EQ(channel.error(), 0);
  EXPECT_EQ(::write(source.in.get(), "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
}

TEST(RelayChannel, WhatCannotBeWrittenIsNotLostInSilence) {
  Ends source = make_pipe();
  Channel channel(std::move(source.out), UniqueFd(::open("/dev/full", O_WRONLY | O_CLOEXEC)));
  ASSERT_EQ(::write(source.in.get(), "x", 1), 1);
  channel.pump();
  EXPECT_TRUE(channel.ended());
  EXPECT_EQ(channel.error(), ENOSPC);
}

TEST(RelayChannel, ATerminalThatIsGoneDoesNotHoldTheWriterUp) {
  ::signal(SIGPIPE, SIG_IGN);
  Ends source = make_pipe(), target = make_pipe();
  target.out = UniqueFd();
  Channel channel(std::move(source.out), std::move(target.in), Channel::TargetGone::go_on);
  for (int round = 0; round < 100; ++round) {
    const std::string piece(16000, 'x');
    ASSERT_EQ(::write(source.in.get(), piece.data(), piece.size()), static_cast<ssize_t>(piece.size()));
    channel.pump();
    channel.pump();
  }
  EXPECT_FALSE(channel.ended());
}

TEST(RawMode, GivesTheTerminalBackAsItWas) {
  int master = -1, slave = -1;
  ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  const UniqueFd a(master), b(slave);
  termios before{}, during{}, after{};
  ::tcgetattr(slave, &before);
  {
    RawMode raw;
    ASSERT_TRUE(raw.enter(slave));
    ::tcgetattr(slave, &during);
    EXPECT_EQ(during.c_lflag & static_cast<tcflag_t>(ICANON | ECHO | ISIG), 0u);
  }
  ::tcgetattr(slave, &after);
  EXPECT_EQ(before.c_lflag, after.c_lflag);
  EXPECT_EQ(before.c_iflag, after.c_iflag);
  EXPECT_EQ(before.c_oflag, after.c_oflag);
  RawMode none;
  EXPECT_FALSE(none.enter(make_pipe().out.get()));
}

TEST(SandboxUser, RootNeverRunsASandboxAsItself) {
  const HostUser user = sandbox_user("/");
  EXPECT_NE(user.uid, 0u);
  EXPECT_NE(user.gid, ::geteuid() == 0 ? 0u : static_cast<gid_t>(-1));
}

}  // namespace
}  // namespace fbroker::container
