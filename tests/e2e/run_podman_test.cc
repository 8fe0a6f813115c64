// The same broker and shims in a container of somebody else's making, over the
// device and over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class RunPodman : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (run({"sh", "-c", "command -v podman"}).status != 0) GTEST_SKIP() << "podman is not installed";
    const std::string name = ::getuid() == 0 ? "fbroker-test" : run({"id", "-un"}).out;
    if (!has(run({"cat", "/etc/subuid"}).out, name.substr(0, name.find('\n')) + ":"))
      GTEST_SKIP() << "no subordinate ids for " << name;
  }
  void TearDown() override {
    // Podman keeps a process and files of subordinate ids.
    home.shell("podman rmi -af >/dev/null 2>&1; podman unshare rm -rf ~/.local/share/containers; "
               "podman system migrate >/dev/null 2>&1 || true");
  }
  As as() const {
    As as = home.as();
    as.environment.erase("XDG_STATE_HOME");
    as.environment["FBROKER_BIN"] = programs_directory();
    as.environment["FBROKER_TRANSPORT"] = GetParam();
    as.environment["TMPDIR"] = (home.path() / "tmp").string();
    return as;
  }
  static std::vector<std::string> command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), examples_directory() + "/podman.sh");
    return arguments;
  }
  Output example(std::vector<std::string> arguments) const { return run(command(std::move(arguments)), as()); }

  // In the other terminal.
  Output person(std::vector<std::string> arguments) const {
    As as = home.as();
    for (const auto& entry : std::filesystem::directory_iterator(home.path() / "tmp"))
      if (entry.path().filename().string().starts_with("fbroker-podman-"))
        as.environment["XDG_RUNTIME_DIR"] = (entry.path() / "run").string();
    arguments.insert(arguments.begin(), programs_directory() + "/fbroker");
    return run(arguments, as);
  }
  bool appears(const std::string& name) const {
    return wait_until([&] { return std::filesystem::exists(home.project() / name); }, std::chrono::seconds(100));
  }

  Home home{::getuid() == 0 ? "fbroker-test" : ""};
};

INSTANTIATE_TEST_SUITE_P(, RunPodman, testing::Values("device", "http"), [](const auto& way) { return way.param; });

TEST_P(RunPodman, TheExampleWorksInTheWorkspace) {
  const Output output = example({});
  EXPECT_EQ(output.status, 0) << output.err;
  for (const char* part : {"/workspace\n", "hello from the host\n", "made in the container\n"})
    EXPECT_TRUE(has(output.out, part)) << part << " is not in:\n" << output.out;
  // busybox and coreutils word it differently; the error is the same.
  EXPECT_THAT(output.err, testing::ContainsRegex("cat: [^\n]*\\.env[^\n]*: No such file or directory"));
  EXPECT_TRUE(has(output.err, "base:env")) << output.err;
  EXPECT_EQ(has(output.err, "adopt-device"), GetParam() == "device") << output.err;
}

TEST_P(RunPodman, AGrantAndARevokeReachTheRunningContainer) {
  home.write("held", "held");
  home.write(".env", "TOKEN=1");
  Process container = Process::start(
      command({home.project().string(), "--", "/bin/sh", "-c",
               "exec 7<held; cat held; cat .env && echo LEAK; echo x >ready; until [ -e granted ]; do :; done; cat .env; "
               "echo x >seen; until [ -e revoked ]; do :; done; cat <&7 && echo LEAK; cat held .env && echo LEAK; echo end"}),
      as());
  ASSERT_TRUE(appears("ready")) << container.errors();
  const Output granted = person({"grant", ".env", "--read", "--override-deny"});
  EXPECT_EQ(granted.status, 0) << granted.err;
  home.write("granted", "");
  ASSERT_TRUE(appears("seen")) << container.errors();
  for (const char* path : {".env", "held"}) {
    const Output revoked = person({"revoke", path});
    EXPECT_EQ(revoked.status, 0) << revoked.out << revoked.err;
  }
  home.write("revoked", "");
  const auto out = container.read_until("end\n", std::chrono::seconds(100));
  ASSERT_TRUE(out) << container.rest() << container.errors();
  EXPECT_EQ(*out, "held\nTOKEN=1\n");
  EXPECT_EQ(container.wait(), 0) << container.errors();
}

TEST_P(RunPodman, TheAgentHasNoCapabilityAndThePersonsFilesChange) {
  home.write("a", "text");
  const Output output = example({home.project().string(), "--", "/bin/sh", "-c",
                                 "cat a; grep Cap /proc/self/status; id; echo x > made; exit 9"});
  EXPECT_EQ(output.status, 9) << output.err;
  EXPECT_TRUE(has(output.out, "text\n"));
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    EXPECT_TRUE(has(output.out, std::string(set) + ":\t0000000000000000")) << output.out;
  EXPECT_FALSE(has(output.out, "uid=0"));
  EXPECT_TRUE(std::filesystem::exists(home.project() / "made"));
}

TEST_P(RunPodman, RootIsToldToBeAnOrdinaryUser) {
  if (::getuid() != 0) GTEST_SKIP() << "needs root";
  const Output output = run({examples_directory() + "/podman.sh"});
  EXPECT_EQ(output.status, 2);
  EXPECT_TRUE(has(output.err, "ordinary user"));
}

}  // namespace
}  // namespace fbroker::test
