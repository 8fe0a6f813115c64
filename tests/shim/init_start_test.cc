// fbroker-init's refusals: whatever is missing, no command runs.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/process.h"

namespace fbroker::test {
namespace {

struct Wrong {
  const char* name;
  std::vector<std::string> options;
  const char* says;
};

std::ostream& operator<<(std::ostream& out, const Wrong& wrong) { return out << wrong.name; }

std::string init() { return programs_directory() + "/fbroker-init"; }

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class InitRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(InitRefuses, AndRunsNothing) {
  if (!std::filesystem::exists(init())) GTEST_SKIP() << "fbroker-init is not built";
  std::vector<std::string> argv{init()};
  argv.insert(argv.end(), GetParam().options.begin(), GetParam().options.end());
  argv.insert(argv.end(), {"--", "/bin/echo", "it ran"});
  const Output output = run(argv);
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, GetParam().says)) << output.err;
  EXPECT_FALSE(has(output.out, "it ran"));
}

INSTANTIATE_TEST_SUITE_P(, InitRefuses, testing::Values(
    Wrong{"NoSocket", {}, "--socket"},
    Wrong{"RelativeSocket", {"--socket", "s"}, "absolute"},
    Wrong{"RelativeMount", {"--socket", "/s", "--mount", "w"}, "absolute"},
    Wrong{"UidWithoutGid", {"--socket", "/s", "--uid", "1"}, "both or neither"},
    Wrong{"UidIsNoNumber", {"--socket", "/s", "--uid", "root", "--gid", "0"}, "expected a number"},
    Wrong{"NegativeUid", {"--socket", "/s", "--uid", "-1", "--gid", "0"}, "expected a number"},
    Wrong{"UnknownOption", {"--socket", "/s", "--privileged"}, "fbroker-init --socket"},
    Wrong{"UnknownLimit", {"--socket", "/s", "--limit", "cpu=3"}, "processes=N"},
    Wrong{"TwoTerminals", {"--socket", "/s", "--tty", "--console-fd", "3"}, "not both"},
    Wrong{"BadSize", {"--socket", "/s", "--size", "24"}, "ROWSxCOLUMNS"},
    Wrong{"ProxyForEverybody", {"--socket", "/s", "--proxy", "0.0.0.0:3128"}, "127.0.0.1:PORT"},
    Wrong{"ProxyWithoutPort", {"--socket", "/s", "--proxy", "127.0.0.1"}, "127.0.0.1:PORT"},
    Wrong{"ProxyPortTooLarge", {"--socket", "/s", "--proxy", "127.0.0.1:70000"}, "1 to 65535"},
    Wrong{"PublishFdIsNoNumber", {"--socket", "/s", "--publish-fd", "x"}, "expected a number"},
    Wrong{"NoDevice", {"--socket", "/s", "--device", "/nonexistent"}, "--device /dev/fuse"},
    Wrong{"NotTheFuseDevice", {"--socket", "/s", "--device", "/dev/null", "--mount", "/tmp"}, "cannot mount"}),
    [](const auto& wrong) { return std::string(wrong.param.name); });

TEST(InitStart, NoCommandIsAnError) {
  if (!std::filesystem::exists(init())) GTEST_SKIP() << "fbroker-init is not built";
  const Output output = run({init(), "--socket", "/s"});
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, "no command")) << output.err;
}

// In namespaces of its own, with nobody behind the socket.
TEST(InitStart, ABrokerThatDoesNotAnswerEndsItInBoundedTime) {
  if (!std::filesystem::exists(init())) GTEST_SKIP() << "fbroker-init is not built";
  const Output output = run({"unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc",
                             init(), "--socket", "/nonexistent/broker.sock", "--mount", "/tmp", "--wait", "1",
                             "--", "/bin/echo", "it ran"});
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, "/tmp")) << output.err;
  EXPECT_FALSE(has(output.out, "it ran"));
}

}  // namespace
}  // namespace fbroker::test
