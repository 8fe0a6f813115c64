// From specification to bubblewrap's command line.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "container/backends/bwrap.h"

namespace fbroker::container {
namespace {

using Argv = std::vector<std::string>;

SandboxSpec small() {
  SandboxSpec spec;
  spec.uid = 1000;
  spec.gid = 1001;
  spec.socket_directory = {.source = "/run/user/1000/fbroker/web", .fd = 7, .at = kSocketDirectory};
  spec.init_program = {.source = "/b/fbroker-init", .fd = 8, .at = "/run/fbroker-init/fbroker-init"};
  spec.fuse_program = {.source = "/b/fbroker-fuse", .fd = 9, .at = "/run/fbroker-init/fbroker-fuse"};
  spec.fuse_device = {.source = "/dev/fuse", .at = "/run/fbroker-init/device", .mode = Mount::Mode::device};
  spec.root = {{.source = "/usr", .at = "/usr"}};
  spec.links = {{"usr/bin", "/bin"}};
  spec.files = {{.fd = 5, .at = "/etc/passwd"}};
  spec.environment = {{"PATH", "/usr/bin"}};
  spec.status_fd = 11;
  spec.command = {"bash", "-c", "--share-net"};
  return spec;
}

std::size_t place(const Argv& argv, const Argv& words) {
  const auto found = std::search(argv.begin(), argv.end(), words.begin(), words.end());
  return static_cast<std::size_t>(found - argv.begin());
}
bool has(const Argv& argv, const Argv& words) { return place(argv, words) < argv.size(); }

TEST(BwrapArgv, IsExactlyThis) {
  const Argv expected{
      "bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--unshare-pid",
      "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try", "--hostname", "fbroker",
      "--die-with-parent", "--as-pid-1", "--clearenv", "--setenv", "PATH", "/usr/bin",
      "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
      "--perms", "0644", "--file", "5", "/etc/passwd",
      "--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
      "--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/var/tmp",
      "--perms", "0700", "--tmpfs", "/home/agent",
      "--ro-bind-fd", "7", "/run/fbroker", "--tmpfs", "/run/fbroker-init",
      "--ro-bind-fd", "8", "/run/fbroker-init/fbroker-init",
      "--ro-bind-fd", "9", "/run/fbroker-init/fbroker-fuse",
      "--dev-bind", "/dev/fuse", "/run/fbroker-init/device",
      "--dir", "/workspace", "--remount-ro", "/",
      "--", "/run/fbroker-init/fbroker-init", "--fuse", "/run/fbroker-init/fbroker-fuse",
      "--device", "/run/fbroker-init/device", "--socket", "/run/fbroker/broker.sock",
      "--transport", "auto", "--mount", "/workspace", "--chdir", "/workspace", "--uid", "1000", "--gid", "1001",
      "--hide", "/run/fbroker-init", "--limit", "processes=4096", "--status-fd", "11",
      "--", "bash", "-c", "--share-net"};
  EXPECT_EQ(bwrap_argv(small()), expected);
}

TEST(BwrapArgv, NoOptionOfOursSharesAnything) {
  SandboxSpec spec = small();
  spec.tools = {{.source = "/t", .fd = 12, .at = "/t"}};
  spec.home_directory = Mount{.source = "/h", .fd = 13, .at = "/home/agent", .mode = Mount::Mode::writable};
  spec.command = {"true"};
  const Argv argv = bwrap_argv(spec);
  for (const char* option : {"--share-net", "--bind", "--dev-bind-try", "--bind-try"})
    EXPECT_EQ(std::count(argv.begin(), argv.end(), option), 0) << option;
  // The only writable host directory is the agent's HOME.
  EXPECT_EQ(std::count(argv.begin(), argv.end(), "--bind-fd"), 1);
  EXPECT_TRUE(has(argv, {"--bind-fd", "13", "/home/agent"}));
  EXPECT_FALSE(has(argv, {"--tmpfs", "/home/agent"}));
}

TEST(BwrapArgv, ToolsAreReadOnlyAndMountedAfterThePrivatePlaces) {
  SandboxSpec spec = small();
  spec.tools = {{.source = "/tmp/kit", .fd = 12, .at = "/tmp/kit"}};
  const Argv argv = bwrap_argv(spec);
  const std::size_t tool = place(argv, {"--ro-bind-fd", "12", "/tmp/kit"});
  ASSERT_LT(tool, argv.size());
  EXPECT_LT(place(argv, {"--tmpfs", "/tmp"}), tool);
  EXPECT_LT(tool, place(argv, {"--remount-ro", "/"}));
}

TEST(BwrapArgv, WhatIsKeptLiesInAPrivateHomeAndIsAllThatCanBeWritten) {
  SandboxSpec spec = small();
  spec.kept = {{.source = "/s", .fd = 14, .at = "/home/agent/.demo", .mode = Mount::Mode::writable}};
  const Argv argv = bwrap_argv(spec);
  const std::size_t kept = place(argv, {"--bind-fd", "14", "/home/agent/.demo"});
  ASSERT_LT(kept, argv.size());
  EXPECT_LT(place(argv, {"--tmpfs", "/home/agent"}), kept);
  EXPECT_EQ(std::count(argv.begin(), argv.end(), "--bind-fd"), 1);
}

TEST(BwrapArgv, LinksBetweenToolsComeAfterThem) {
  SandboxSpec spec = small();
  spec.tools = {{.source = "/tmp/kit", .fd = 12, .at = "/tmp/kit"}};
  spec.tool_links = {{.target = "kit", .at = "/tmp/current"}};
  const Argv argv = bwrap_argv(spec);
  EXPECT_TRUE(has(argv, {"--ro-bind-fd", "12", "/tmp/kit", "--symlink", "kit", "/tmp/current"}));
}

// ATTACK: a command line is anybody's to read.
TEST(BwrapArgv, SecretsStandOnNoCommandLine) {
  SandboxSpec spec = small();
  spec.secrets = {{"KEY", "hunter2"}, {"OTHER", "a\nb"}};
  spec.secrets_fd = 15;
  const Argv argv = bwrap_argv(spec);
  for (const std::string& word : argv) EXPECT_EQ(word.find("hunter2"), word.npos);
  const std::size_t args = place(argv, {"--args", "15"});
  ASSERT_LT(args, argv.size());
  EXPECT_LT(place(argv, {"--clearenv"}), args);
  using namespace std::string_literals;
  EXPECT_EQ(bwrap_secrets(spec), "--setenv\0KEY\0hunter2\0--setenv\0OTHER\0a\nb\0"s);
}

TEST(BwrapArgv, OnTheStageNamesTakeThePlaceOfDescriptors) {
  SandboxSpec spec = small();
  spec.socket_directory.source = "/mnt/0";
  spec.socket_directory.fd = -1;
  EXPECT_TRUE(has(bwrap_argv(spec), {"--ro-bind", "/mnt/0", "/run/fbroker"}));
}

TEST(BwrapArgv, ATerminalIsMadeInsideWithItsSize) {
  SandboxSpec spec = small();
  EXPECT_FALSE(has(bwrap_argv(spec), {"--console-fd"}));
  spec.console_fd = 14;
  spec.terminal = {.wanted = true, .keep_stderr = true, .rows = 24, .columns = 80};
  EXPECT_TRUE(has(bwrap_argv(spec), {"--console-fd", "14", "--size", "24x80", "--keep-stderr"}));
}

TEST(BwrapArgv, TheRelayIsAskedForOnlyWhenItIsWanted) {
  SandboxSpec spec = small();
  EXPECT_FALSE(has(bwrap_argv(spec), {"--proxy"}));
  EXPECT_FALSE(has(bwrap_argv(spec), {"--publish-fd"}));
  spec.proxy = "127.0.0.1:3128";
  spec.publish_fd = 15;
  EXPECT_TRUE(has(bwrap_argv(spec), {"--proxy", "127.0.0.1:3128", "--publish-fd", "15", "--", "bash"}));
}

TEST(BwrapArgv, LimitsReachTheFirstProcess) {
  SandboxSpec spec = small();
  spec.limits = {.processes = 64, .memory = 1u << 30, .file_size = 4096};
  EXPECT_TRUE(has(bwrap_argv(spec), {"--limit", "processes=64", "--limit", "memory=1073741824", "--limit",
                                     "file-size=4096"}));
}

TEST(BwrapArgv, DescriptorsOfTheLauncherAreNamed) {
  SandboxSpec spec = small();
  spec.info_fd = 20;
  spec.block_fd = 21;
  EXPECT_TRUE(has(bwrap_argv(spec), {"--info-fd", "20", "--block-fd", "21", "--"}));
}

}  // namespace
}  // namespace fbroker::container
