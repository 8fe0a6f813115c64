// What an agent calls a file reaches the person's terminal as letters alone.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

TEST(TerminalNames, NoVerbPrintsAControlOrTurningCharacterOfAnAgentsName) {
  Home home("");
  // C1's CSI, and "right to left" (which makes it read as another name).
  home.shell("mkdir -p \"$(printf 'd\\302\\23331m\\342\\200\\256x')\"; ln -s \"$(printf 'd\\302\\23331m\\342\\200\\256x')\" a; touch a/f");
  Process broker = Process::start({programs_directory() + "/fbroker", "serve"}, home.as());
  ASSERT_TRUE(wait_until([&] { return home.fbroker({"status"}).status == 0; }, 20s)) << broker.errors();
  std::string said;
  for (const std::vector<std::string>& verb :
       {std::vector<std::string>{"grant", "a/f", "--for", "1s"}, {"grants"}, {"check", "a/f", "read"}, {"revoke", "a"},
        {"grants"}, {"check", "a/f", "read"}, {"grant", "a/g"}, {"grants", "--json"}, {"revoke", "a", "--json"}, {"status", "--json"}, {"policy", "show", "a/f"}}) {
    const Output output = home.fbroker(verb);
    said += output.out + output.err;
  }
  EXPECT_EQ(said.find("\xc2\x9b"), said.npos) << said;
  EXPECT_EQ(said.find("\xe2\x80\xae"), said.npos) << said;
  EXPECT_NE(said.find("\\u{9b}31m\\u{202e}x"), said.npos) << said;
}

}  // namespace
}  // namespace fbroker::test
