// The same broker and shims in a container of somebody else's making.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class RunPodman : public testing::Test {
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
  Output example(std::vector<std::string> arguments) const {
    As as = home.as();
    as.environment.erase("XDG_STATE_HOME");
    as.environment["FBROKER_BIN"] = programs_directory();
    as.environment["TMPDIR"] = (home.path() / "tmp").string();
    arguments.insert(arguments.begin(), examples_directory() + "/podman.sh");
    return run(arguments, as);
  }

  Home home{::getuid() == 0 ? "fbroker-test" : ""};
};

TEST_F(RunPodman, TheExampleWorksInTheWorkspace) {
  const Output output = example({});
  EXPECT_EQ(output.status, 0) << output.err;
  for (const char* part : {"/workspace\n", "hello from the host\n", "made in the container\n"})
    EXPECT_TRUE(has(output.out, part)) << part << " is not in:\n" << output.out;
  // busybox and coreutils word it differently; the error is the same.
  EXPECT_THAT(output.err, testing::ContainsRegex("cat: [^\n]*\\.env[^\n]*: No such file or directory"));
  EXPECT_TRUE(has(output.err, "base:env")) << output.err;
}

TEST_F(RunPodman, TheAgentHasNoCapabilityAndThePersonsFilesChange) {
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

TEST_F(RunPodman, RootIsToldToBeAnOrdinaryUser) {
  if (::getuid() != 0) GTEST_SKIP() << "needs root";
  const Output output = run({examples_directory() + "/podman.sh"});
  EXPECT_EQ(output.status, 2);
  EXPECT_TRUE(has(output.err, "ordinary user"));
}

}  // namespace
}  // namespace fbroker::test
