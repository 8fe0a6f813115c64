// Profiles: the shipped ones say what they must, and what may stand in one.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "container/agents/builtin.h"
#include "container/agents/catalog.h"
#include "container/agents/launch.h"
#include "tests/support/temp_tree.h"

namespace fbroker::container::agents {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

json smallest() {
  return {{"version", 1}, {"name", "demo"}, {"title", "Demo"}, {"install", "npm install -g demo"},
          {"program", {{"names", {"demo"}}}}};
}

std::string refusal(const json& profile) {
  const auto parsed = parse_profile(profile.dump(), "demo.json");
  return parsed ? "(accepted)" : parsed.error().text();
}

// ---- shipped ----

TEST(BuiltinProfiles, AreTheSevenAndEachFitsTheSchema) {
  std::vector<std::string> names;
  for (const Builtin& one : builtin_profiles()) {
    const auto profile = parse_profile(one.text, std::string(one.name) + ".json");
    ASSERT_TRUE(profile) << profile.error().text();
    names.push_back(profile->name);
    EXPECT_FALSE(profile->domains.empty()) << one.name;
    EXPECT_FALSE(profile->state.empty()) << one.name;
    EXPECT_FALSE(profile->pass.empty()) << one.name;
    EXPECT_FALSE(profile->program.places.empty()) << one.name;
  }
  EXPECT_THAT(names, ElementsAre("aider", "claude", "codex", "cursor", "gemini", "opencode", "qwen"));
}

TEST(BuiltinProfiles, AreTheFilesInTheTree) {
  for (const Builtin& one : builtin_profiles()) {
    std::ifstream file(std::string(FBROKER_SOURCE_DIR) + "/container/agents/" + std::string(one.name) + ".json");
    std::ostringstream text;
    text << file.rdbuf();
    EXPECT_EQ(text.str(), one.text) << one.name;
  }
}

TEST(BuiltinProfiles, KeepWhatIsTheirsAlone) {
  // No agent keeps a directory that another one of them keeps too, or all of HOME's settings.
  std::map<std::string, std::string> owner;
  for (const Builtin& one : builtin_profiles()) {
    const auto profile = parse_profile(one.text, std::string(one.name) + ".json");
    ASSERT_TRUE(profile);
    for (const std::string& directory : profile->state) {
      EXPECT_TRUE(owner.emplace(directory, one.name).second) << directory << " is kept by " << owner[directory] << " too";
      for (const char* broad : {".config", ".local", ".cache", ".local/share", ".ssh"}) EXPECT_NE(directory, broad);
    }
  }
}

TEST(BuiltinProfiles, ClaudeKeepsItsSettingsInOneDirectoryAndSendsNoTelemetry) {
  const auto claude = load_profile("claude", "");
  ASSERT_TRUE(claude);
  EXPECT_EQ(claude->title, "Claude Code");
  EXPECT_THAT(claude->state, ElementsAre(".claude"));
  EXPECT_THAT(claude->pass, Contains("ANTHROPIC_API_KEY"));
  EXPECT_THAT(claude->set, Contains(std::pair<std::string, std::string>("CLAUDE_CONFIG_DIR", "/home/agent/.claude")));
  for (const char* off : {"DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"})
    EXPECT_THAT(claude->set, Contains(std::pair<std::string, std::string>(off, "1")));
  EXPECT_EQ(claude->login.callback, "");
  const auto codex = load_profile("codex", "");
  ASSERT_TRUE(codex);
  EXPECT_EQ(codex->login.callback, "127.0.0.1:1455");
}

// ---- what may stand in one ----

TEST(AgentProfile, AllOfItIsRead) {
  json all = smallest();
  all["program"] = {{"names", {"demo", "demo2"}}, {"places", {"~/.demo/bin/demo"}}, {"shows", "directory"},
                    {"node", 22}, {"arguments", {"--quiet"}}};
  all["state"] = {".demo", ".config/demo"};
  all["login"] = {{"files", {".demo/auth.json"}}, {"domains", {"login.example.com"}}, {"callback", "127.0.0.1:1455"}};
  all["environment"] = {{"pass", {"DEMO_KEY"}}, {"set", {{"DEMO_TELEMETRY", "0"}}}};
  all["settings"] = {{"demo.json", {{"telemetry", false}}}};
  all["domains"] = {"api.example.com", "*.example.org:8443"};
  all["notes"] = {"A note."};
  const auto profile = parse_profile(all.dump(), "/x/demo.json");
  ASSERT_TRUE(profile) << profile.error().text();
  EXPECT_THAT(profile->program.names, ElementsAre("demo", "demo2"));
  EXPECT_THAT(profile->program.places, ElementsAre("~/.demo/bin/demo"));
  EXPECT_TRUE(profile->program.directory);
  EXPECT_EQ(profile->program.node, 22);
  EXPECT_THAT(profile->program.arguments, ElementsAre("--quiet"));
  EXPECT_THAT(profile->state, ElementsAre(".demo", ".config/demo"));
  EXPECT_THAT(profile->login.files, ElementsAre(".demo/auth.json"));
  EXPECT_EQ(profile->login.callback, "127.0.0.1:1455");
  EXPECT_THAT(profile->pass, ElementsAre("DEMO_KEY"));
  EXPECT_THAT(profile->set, ElementsAre(std::pair<std::string, std::string>("DEMO_TELEMETRY", "0")));
  ASSERT_EQ(profile->settings.size(), 1u);
  EXPECT_EQ(profile->settings[0].first, "demo.json");
  EXPECT_EQ(json::parse(profile->settings[0].second), json::parse(R"({"telemetry": false})"));
  EXPECT_THAT(profile->domains, ElementsAre("api.example.com", "*.example.org:8443"));
  EXPECT_TRUE(parse_profile(smallest().dump(), "demo.json"));
}

struct Mistake {
  const char* name;
  const char* pointer;   // where it is put
  json value;
  const char* says;      // what the error must hold
};

class AgentProfileRefuses : public testing::TestWithParam<Mistake> {};

TEST_P(AgentProfileRefuses, AndSaysWhereAndWhatWasExpected) {
  json profile = smallest();
  profile[json::json_pointer(GetParam().pointer)] = GetParam().value;
  const std::string text = refusal(profile);
  EXPECT_THAT(text, HasSubstr("demo.json:1:"));
  EXPECT_THAT(text, HasSubstr(GetParam().pointer));
  EXPECT_THAT(text, HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    , AgentProfileRefuses,
    testing::Values(
        Mistake{"UnknownKey", "/domain", json::array(), "did you mean \"domains\"?"},
        Mistake{"UnknownKeyBelow", "/program/name", "demo", "did you mean \"names\"?"},
        Mistake{"AnotherVersion", "/version", 2, "expected the format's version, 1"},
        Mistake{"WrongType", "/title", 7, "found a number, expected the product's name"},
        Mistake{"NoName", "/program/names", json::array(), "expected an array of 1 to 8 names"},
        Mistake{"NameWithASlash", "/program/names/0", "../demo", "expected a file name without \"/\""},
        Mistake{"NameOfAnotherFile", "/name", "other", "expected \"demo\", the file's own name"},
        Mistake{"NameThatClimbs", "/name", "../demo", "expected what --agent is given"},
        Mistake{"PlaceThatClimbs", "/program/places", json{"~/../root/demo"}, "without \"..\""},
        Mistake{"PlaceThatIsRelative", "/program/places", json{"bin/demo"}, "starts with \"~/\" or \"/\""},
        Mistake{"StateThatClimbs", "/state", json{"../claude/default/.claude"}, "expected a path relative to HOME"},
        Mistake{"StateThatIsAbsolute", "/state", json{"/root/.ssh"}, "expected a path relative to HOME"},
        Mistake{"StateThatIsAllOfHome", "/state", json{"."}, "expected a path relative to HOME"},
        Mistake{"StateInState", "/state", json{".demo", ".demo/cache"}, "lies in \".demo\""},
        Mistake{"StateTwice", "/state", json{".demo", ".demo"}, "twice"},
        Mistake{"StateWithASlashAtItsEnd", "/state", json{".demo/"}, "expected a path relative to HOME"},
        Mistake{"LoginOutsideOfState", "/login", json{{"files", {".ssh/id_ed25519"}}}, "in one of the directories of state"},
        Mistake{"CallbackElsewhere", "/login", json{{"callback", "0.0.0.0:1455"}}, "127.0.0.1:PORT"},
        Mistake{"EveryDomain", "/domains", json{"*"}, "/domains/0"},
        Mistake{"AnAddressInAnotherSpelling", "/domains", json{"0x7f.1"}, "/domains/0"},
        Mistake{"LoginDomain", "/login", json{{"domains", {"a b"}}}, "/login/domains/0"},
        Mistake{"PathIsTheSandboxes", "/environment", json{{"set", {{"PATH", "/evil"}}}}, "is set by the sandbox"},
        Mistake{"LoaderVariable", "/environment", json{{"set", {{"LD_PRELOAD", "/x.so"}}}}, "are loaded"},
        Mistake{"OurOwnVariable", "/environment", json{{"pass", {"FBROKER_CONTROL"}}}, "belongs to fbroker"},
        Mistake{"NoVariable", "/environment", json{{"pass", {"A=B"}}}, "expected a variable's name"},
        Mistake{"SettingsThatClimb", "/settings", json{{"../passwd", json::object()}}, "expected a file's name"},
        Mistake{"SettingsThatAreNoObject", "/settings", json{{"demo.json", "x"}}, "an object: the file's JSON text"},
        Mistake{"NodeOfNoVersion", "/program/node", 0, "least major version"}),
    [](const auto& at) { return at.param.name; });

TEST(AgentProfile, WhatIsNoProfileAtAllIsRefused) {
  for (const char* text : {"", "[]", "7", "{", R"({"version": 1})", R"({"version":1,"version":1})"})
    EXPECT_FALSE(parse_profile(text, "demo.json")) << text;
  EXPECT_FALSE(parse_profile(std::string(70'000, ' '), "demo.json"));
  EXPECT_THAT(parse_profile("[]", "demo.json").error().text(), HasSubstr("expected an object"));
}

// ---- a person's own ----

class OwnProfiles : public testing::Test {
 protected:
  OwnProfiles() {
    ::setenv("XDG_CONFIG_HOME", tree.path("config").c_str(), 1);
    tree.mkdir("config/fbroker/agents");
    mode("", 0755);
  }
  ~OwnProfiles() override { ::unsetenv("XDG_CONFIG_HOME"); }
  void put(const std::string& name, const json& profile) {
    tree.write("config/fbroker/agents/" + name + ".json", profile.dump());
    mode(name + ".json", 0644);
  }
  void mode(const std::string& name, mode_t bits) {
    ASSERT_EQ(::chmod(tree.path("config/fbroker/agents/" + name).c_str(), bits), 0);
  }
  std::string error_for(const std::string& name, const std::string& root = "") {
    const auto profile = load_profile(name, root);
    return profile ? "(accepted)" : profile.error().text();
  }
  test::TempTree tree;
};

TEST_F(OwnProfiles, AddToTheShippedOnesAndReplaceThem) {
  put("demo", smallest());
  json claude = smallest();
  claude["name"] = "claude";
  claude["title"] = "Mine";
  put("claude", claude);
  EXPECT_THAT(profile_names(), Contains("demo"));
  EXPECT_EQ(profile_names().size(), 8u);
  EXPECT_EQ(load_profile("demo", "")->origin, tree.path("config/fbroker/agents/demo.json"));
  EXPECT_EQ(load_profile("claude", "")->title, "Mine");
  EXPECT_EQ(load_profile("codex", "")->origin, "");
}

TEST_F(OwnProfiles, AMistakeInOneIsNotPassedOverForTheShippedOne) {
  put("claude", {{"version", 1}});
  EXPECT_THAT(error_for("claude"), HasSubstr(tree.path("config/fbroker/agents/claude.json") + ":1:1"));
  EXPECT_EQ(error_for("codex"), "(accepted)");
}

TEST_F(OwnProfiles, WhatOthersCanWriteIsRefused) {
  put("demo", smallest());
  EXPECT_EQ(error_for("demo"), "(accepted)");
  mode("demo.json", 0664);
  EXPECT_THAT(error_for("demo"), HasSubstr("can be written by others"));
  mode("demo.json", 0644);
  mode("", 0777);
  EXPECT_THAT(error_for("demo"), HasSubstr("can be written by others"));
  mode("", 0755);
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(tree.path("config/fbroker/agents/demo.json").c_str(), 65534, 65534), 0);
  EXPECT_THAT(error_for("demo"), HasSubstr("belongs to uid 65534"));
}

// ATTACK: an agent in a workspace that holds the person's settings.
TEST_F(OwnProfiles, OneInTheWorkspaceIsRefused) {
  put("demo", smallest());
  EXPECT_EQ(error_for("demo", tree.path("project")), "(accepted)");
  EXPECT_THAT(error_for("demo", std::filesystem::canonical(tree.path()).string()), HasSubstr("lies in the workspace"));
  tree.mkdir("project");
  tree.write("project/demo.json", smallest().dump());
  std::filesystem::remove(tree.path("config/fbroker/agents/demo.json"));
  std::filesystem::create_symlink(tree.path("project/demo.json"), tree.path("config/fbroker/agents/demo.json"));
  EXPECT_THAT(error_for("demo", std::filesystem::canonical(tree.path("project")).string()), HasSubstr("lies in the workspace"));
}

TEST_F(OwnProfiles, OnlyARegularFileIsRead) {
  ASSERT_EQ(::mkfifo(tree.path("config/fbroker/agents/demo.json").c_str(), 0600), 0);
  EXPECT_THAT(error_for("demo"), HasSubstr("is not a regular file"));
}

TEST_F(OwnProfiles, AnUnknownNameIsToldTheNearest) {
  EXPECT_THAT(error_for("cluade"), testing::AllOf(HasSubstr("--agent cluade"), HasSubstr("did you mean \"claude\"?"),
                                                  HasSubstr("\"opencode\"")));
  for (const char* name : {"../claude", "", "Claude", "a/b", ".hidden"}) EXPECT_NE(error_for(name), "(accepted)") << name;
}

// ---- the command line's ----

TEST(EnvOption, PassesByNameAndSetsByValue) {
  ::setenv("FB_TEST_KEY", "s3cret", 1);
  const auto variables = variables_of({"FB_TEST_KEY", "MODE=a=b", "EMPTY="});
  ASSERT_TRUE(variables) << variables.error().text();
  EXPECT_THAT(*variables, ElementsAre(std::pair<std::string, std::string>("FB_TEST_KEY", "s3cret"),
                                      std::pair<std::string, std::string>("MODE", "a=b"),
                                      std::pair<std::string, std::string>("EMPTY", "")));
  ::unsetenv("FB_TEST_KEY");
}

TEST(EnvOption, RefusesWhatIsNotSetOrNotThePersons) {
  EXPECT_THAT(variables_of({"FB_TEST_NONE"}).error().text(), HasSubstr("is not set here"));
  for (const char* wrong : {"PATH=/x", "HOME=/x", "LD_PRELOAD=/x", "LD_LIBRARY_PATH=/x", "FBROKER_SOCKET=/x",
                            "GLIBC_TUNABLES=x", "=x", "", "A-B=x", "1A=x"})
    EXPECT_FALSE(variables_of({wrong})) << wrong;
}

TEST(AliasOption, IsANameAndAnAddressWithTheirPorts) {
  const auto aliases = aliases_of({"llm.local:11434=127.0.0.1:11434"});
  ASSERT_TRUE(aliases);
  EXPECT_EQ(aliases->front().first, "llm.local:11434");
  EXPECT_EQ(aliases->front().second, "127.0.0.1:11434");
  for (const char* wrong : {"", "a:1", "a=b", "a:1=b", "a=b:1", ":1=b:1", "a:=b:1", "a:x=b:1"})
    EXPECT_FALSE(aliases_of({wrong})) << wrong;
}

TEST(AgentHosts, AreTheProfilesDomainsUnderItsName) {
  Agent agent;
  agent.profile.name = "demo";
  agent.profile.domains = {"api.example.com"};
  agent.profile.login.domains = {"login.example.com"};
  const auto hosts = agent.hosts();
  ASSERT_EQ(hosts.size(), 2u);
  EXPECT_EQ(hosts[0].id, "agent:demo");
  EXPECT_EQ(hosts[0].host, "api.example.com");
  EXPECT_EQ(hosts[1].host, "login.example.com");
  EXPECT_EQ(hosts[0].tls, "sni");
}

}  // namespace
}  // namespace fbroker::container::agents
