// fbroker run --agent: what an agent's profile really shows, keeps and passes
// on. The agents are small scripts, laid out as npm, nvm and installers lay
// real ones out. Real broker, real FUSE, real bubblewrap; as root and as an
// ordinary user.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// A Node that runs shell scripts.
constexpr char kNode[] =
    "#!/bin/sh\n"
    "if [ \"$1\" = --version ]; then echo v22.3.0; else exec /bin/sh \"$@\"; fi\n";

// "demo CMD ARGS": the agent runs CMD, so that a test can look around in its place.
constexpr char kAgent[] = "#!/usr/bin/env node\nexec \"$@\"\n";

constexpr char kProfile[] = R"({
  "version": 1, "name": "NAME", "title": "Demo", "install": "npm install -g demo",
  "program": {"names": ["NAME"], "places": ["~/.NAME/bin/NAME"], "node": 22, "arguments": ["env", "STARTED=yes"]},
  "state": [".NAME", ".config/NAME"],
  "login": {"files": [".NAME/auth.json"], "domains": ["login.demo.example"], "callback": "127.0.0.1:1455"},
  "environment": {"pass": ["DEMO_KEY", "DEMO_URL"], "set": {"DEMO_TELEMETRY": "0"}},
  "settings": {"demo.json": {"telemetry": false}},
  "domains": ["api.demo.example"]
})";

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != text.npos; at += by.size()) text.replace(at, what.size(), by);
  return text;
}

class Agents : public testing::TestWithParam<std::string> {
 protected:
  Agents() {
    home.write("../.nvm/v22/bin/node", kNode);
    for (const char* name : {"demo", "demo2"}) install(name);
    home.shell("chmod 755 ../.nvm/v22/bin/node; mkdir -p ../.demo; echo personal >../.demo/settings");
  }
  void SetUp() override {
    if (GetParam() == "ordinary" && ::getuid() != 0) GTEST_SKIP() << "we are the ordinary user already";
  }
  // As `npm install -g` with nvm's Node: a link in bin, the package beside others.
  void install(const std::string& name) {
    home.write("../.nvm/v22/lib/node_modules/" + name + "/cli.js", kAgent);
    home.write("../.config/fbroker/agents/" + name + ".json", replaced(kProfile, "NAME", name));
    home.shell("cd ../.nvm/v22; chmod 755 lib/node_modules/" + name + "/cli.js; ln -s ../lib/node_modules/" + name +
               "/cli.js bin/" + name + "; chmod 755 ../../.config/fbroker/agents; chmod 644 ../../.config/fbroker/agents/*");
  }
  std::string at(const std::string& below) const { return fs::canonical(home.path()).string() + "/" + below; }
  As as() const {
    As person = home.as();
    person.environment["PATH"] = at(".nvm/v22/bin") + ":/usr/local/bin:/usr/bin:/bin";
    return person;
  }
  static std::string program() { return programs_directory() + "/fbroker"; }
  Output agent(std::vector<std::string> options, std::vector<std::string> arguments, const As& person) const {
    std::vector<std::string> argv{program(), "run", "--agent"};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.push_back("--");
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return run(argv, person);
  }
  Output agent(std::vector<std::string> options, std::vector<std::string> arguments) const {
    return agent(std::move(options), std::move(arguments), as());
  }
  Output demo(const std::string& script) const { return agent({"demo", "-q"}, {"sh", "-c", script}); }

  Home home{GetParam() == "ordinary" ? "fbroker-test" : ""};
};

INSTANTIATE_TEST_SUITE_P(, Agents, testing::Values(::getuid() == 0 ? "root" : "self", "ordinary"),
                         [](const auto& as) { return as.param; });

TEST_P(Agents, RunWithTheirArgumentsAndGiveTheirStatus) {
  const Output output = agent({"demo"}, {"sh", "-c", "echo $STARTED \"$@\"; pwd; cat a; exit 7", "-", "one", "two words"});
  EXPECT_EQ(output.status, 7) << output.err;
  EXPECT_EQ(output.out, "yes one two words\n/workspace\n") << output.err;
  home.write("a", "text");
  EXPECT_EQ(demo("cat a; echo changed >b").out, "text\n");
  EXPECT_EQ(home.shell("cat b").out, "changed\n");
}

TEST_P(Agents, FindTheirSettingsAndCannotChangeThem) {
  const Output output = demo("cat /etc/agent/demo.json; echo x >>/etc/agent/demo.json || echo refused; ls -A /etc/agent");
  EXPECT_EQ(output.out, "{\n  \"telemetry\": false\n}\nrefused\ndemo.json\n") << output.err;
}

TEST_P(Agents, NeedNoCommand) {
  // `env` alone: the profile's own arguments are all there is.
  const Output output = run({program(), "run", "-q", "--agent", "demo"}, as());
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_TRUE(has(output.out, "STARTED=yes\n")) << output.out;
}

TEST_P(Agents, SeeTheirProgramReadOnlyAndNothingElseOfHome) {
  home.write("../secret", "private");
  const std::string tree = at("");
  EXPECT_EQ(demo("cat " + at("secret") + "; ls -A " + tree + " " + at(".nvm/v22") + " " + at(".nvm/v22/bin")).out,
            tree + ":\n.nvm\n\n" + at(".nvm/v22") + ":\nbin\nlib\n\n" + at(".nvm/v22/bin") + ":\ndemo\nnode\n");
  // Even where the mode would let them: as an ordinary user the files are the agent's own.
  home.shell("chmod -R a+w ../.nvm/v22");
  for (const char* file : {".nvm/v22/lib/node_modules/demo/cli.js", ".nvm/v22/bin/node"}) {
    EXPECT_TRUE(has(demo("echo x >>" + at(file)).err, "Read-only file system")) << file;
    EXPECT_NE(demo("rm -f " + at(file)).status, 0) << file;
  }
  EXPECT_TRUE(has(demo("echo x >" + at(".nvm/v22/lib/node_modules/new")).err, "Read-only file system"));
  EXPECT_EQ(home.shell("cat ../.nvm/v22/bin/node").out, std::string(kNode) + "\n");
}

TEST_P(Agents, OneFileIsShownAsOneFile) {
  home.write("../.solo/versions/1", "#!/bin/sh\nls -A \"$(dirname \"$0\")\"\necho \"$0\"\n");
  home.write("../.solo/versions/other", "private");
  home.shell("chmod 755 ../.solo/versions/1; mkdir ../.solo/bin; ln -s ../versions/1 ../.solo/bin/solo");
  home.write("../.config/fbroker/agents/solo.json",
             R"({"version":1,"name":"solo","title":"Solo","install":"x","program":{"names":["solo"],"places":["~/.solo/bin/solo"]}})");
  home.shell("chmod 644 ../.config/fbroker/agents/solo.json");
  const Output output = agent({"solo", "-q"}, {});
  EXPECT_EQ(output.out, "1\n" + at(".solo/versions/1") + "\n") << output.err;
}

TEST_P(Agents, KeepTheirStateAndNothingElse) {
  EXPECT_EQ(demo("ls -A ~ ~/.demo ~/.config").out, "/home/agent:\n.config\n.demo\n\n/home/agent/.config:\ndemo\n\n/home/agent/.demo:\n")
      << "the person's own ~/.demo is not there";
  EXPECT_EQ(demo("echo one >~/.demo/note; echo two >~/.config/demo/note; echo three >~/loose; echo four >~/.config/loose").status, 0);
  EXPECT_EQ(demo("cat ~/.demo/note ~/.config/demo/note; ls ~ ~/.config").out, "one\ntwo\n/home/agent:\n\n/home/agent/.config:\ndemo\n");
  EXPECT_EQ(home.shell("cat ../.demo/settings; ls ../.demo").out, "personal\nsettings\n") << "the person's own is untouched";
  EXPECT_EQ(agent({"demo", "-q", "--name", "other"}, {"cat", "/home/agent/.demo/note"}).out, "") << "another name, another state";
}

TEST_P(Agents, NeverSeeAnothersState) {
  EXPECT_EQ(demo("echo mine >~/.demo/note").status, 0);
  const Output other = agent({"demo2", "-q"}, {"sh", "-c", "ls -A ~; ls -A ~/.demo2; find / -name note -not -path '/proc/*' 2>/dev/null"});
  EXPECT_EQ(other.out, ".config\n.demo2\n") << other.err;
  // A profile of the person's that says it keeps the other's directory gets one of its own.
  std::string greedy = replaced(replaced(kProfile, "NAME", "demo"), "\"name\": \"demo\"", "\"name\": \"greedy\"");
  home.write("../.config/fbroker/agents/greedy.json", greedy);
  home.shell("chmod 644 ../.config/fbroker/agents/greedy.json");
  EXPECT_EQ(agent({"greedy", "-q"}, {"sh", "-c", "ls -A ~/.demo"}).out, "");
}

TEST_P(Agents, ANamedHomeIsNotAnAgents) {
  const auto plain = run({program(), "run", "-q", "--name", "n", "--", "sh", "-c", "echo shell >~/file; mkdir ~/.demo; echo x >~/.demo/file"}, as());
  EXPECT_EQ(plain.status, 0) << plain.err;
  EXPECT_EQ(agent({"demo", "-q", "--name", "n"}, {"sh", "-c", "ls -A ~ ~/.demo"}).out, "/home/agent:\n.config\n.demo\n\n/home/agent/.demo:\n");
}

TEST_P(Agents, GetTheirVariablesByNameAndNoOthers) {
  As person = as();
  person.environment["DEMO_KEY"] = "hunter2";
  person.environment["AWS_SECRET_ACCESS_KEY"] = "hunter3";
  person.environment["DEMO2_KEY"] = "hunter4";
  const Output output = agent({"demo", "--env", "MODE=fast"}, {"env"}, person);
  for (const char* line : {"DEMO_KEY=hunter2\n", "DEMO_TELEMETRY=0\n", "MODE=fast\n", "HOME=/home/agent\n"})
    EXPECT_TRUE(has(output.out, line)) << line << output.out << output.err;
  for (const char* other : {"hunter3", "hunter4", "DEMO_URL"}) EXPECT_FALSE(has(output.out, other)) << other;
  EXPECT_TRUE(has(output.err, "passed on: DEMO_KEY\n")) << output.err;
  EXPECT_FALSE(has(output.err, "hunter")) << output.err;
  const Output named = agent({"demo", "-q", "--env", "AWS_SECRET_ACCESS_KEY"}, {"env"}, person);
  EXPECT_TRUE(has(named.out, "AWS_SECRET_ACCESS_KEY=hunter3\n")) << named.err;
  const Output unset = agent({"demo", "--env", "NOT_THERE"}, {"env"}, person);
  EXPECT_EQ(unset.status, 125);
  EXPECT_TRUE(has(unset.err, "--env NOT_THERE: is not set here")) << unset.err;
}

// ATTACK: every user of the machine reads every process's command line.
TEST_P(Agents, NoSecretStandsOnACommandLine) {
  As person = as();
  person.environment["DEMO_KEY"] = "hunter2-on-no-command-line";
  Process running = Process::start({program(), "run", "-q", "--agent", "demo", "--", "sh", "-c", "echo ready; cat"}, person);
  ASSERT_TRUE(running.read_until("ready\n")) << running.errors();
  std::size_t seen = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline");
    std::stringstream text;
    text << file.rdbuf();
    seen += has(text.str(), "fbroker-init");
    EXPECT_FALSE(has(text.str(), "hunter2-on-no-command-line")) << entry.path();
  }
  EXPECT_GT(seen, 0u) << "the sandbox's processes were looked at";
  running.close_input();
  EXPECT_EQ(running.wait(), 0);
}

TEST_P(Agents, ALoginIsSharedOnlyWhenAskedAndAlone) {
  home.write("../.demo/auth.json", "token");
  const Output before = agent({"demo"}, {"ls", "-A", "/home/agent/.demo"});
  EXPECT_EQ(before.out, "");
  EXPECT_TRUE(has(before.err, "no login is kept: --share-login copies yours, or log in inside (login: use --publish 127.0.0.1:1455)"))
      << before.err;
  const Output shared = agent({"demo", "-q", "--share-login"}, {"sh", "-c", "ls -A ~/.demo; cat ~/.demo/auth.json"});
  EXPECT_EQ(shared.out, "auth.json\ntoken\n") << shared.err;
  EXPECT_TRUE(has(shared.err, "--share-login: copied ~/.demo/auth.json into ")) << shared.err;
  const Output after = agent({"demo"}, {"sh", "-c", "echo renewed >~/.demo/auth.json; cat ~/.demo/auth.json"});
  EXPECT_EQ(after.out, "renewed\n");
  EXPECT_FALSE(has(after.err, "no login is kept")) << after.err;
  EXPECT_EQ(home.shell("cat ../.demo/auth.json").out, "token\n") << "the person's own stays as it was";
}

TEST_P(Agents, ALoginThatIsALinkOrMissingStopsTheRun) {
  const Output missing = agent({"demo", "--share-login"}, {"touch", "started"});
  EXPECT_EQ(missing.status, 125);
  EXPECT_TRUE(has(missing.err, "nothing to copy: ~/.demo/auth.json does not exist")) << missing.err;
  home.write("../secret", "private");
  home.shell("ln -s ../secret ../.demo/auth.json");
  const Output link = agent({"demo", "--share-login"}, {"touch", "started"});
  EXPECT_EQ(link.status, 125);
  EXPECT_TRUE(has(link.err, "auth.json is a symbolic link")) << link.err;
  if (GetParam() == "ordinary") {
    fs::remove(home.path() / ".demo/auth.json");
    std::ofstream(home.path() / ".demo/auth.json") << "another's";   // root's, and readable
    const Output others = agent({"demo", "--share-login"}, {"touch", "started"});
    EXPECT_EQ(others.status, 125);
    EXPECT_TRUE(has(others.err, "belongs to uid 0, not to us")) << others.err;
  }
  EXPECT_FALSE(fs::exists(home.project() / "started"));
  EXPECT_EQ(run({program(), "run", "--share-login", "--", "true"}, as()).status, 125);
}

// ATTACK: what the agent of the last run left in its state.
TEST_P(Agents, ALinkInTheStateLeadsNowhereOnTheHost) {
  home.write("../victim", "untouched");
  home.write("../.demo/auth.json", "token");
  EXPECT_EQ(demo("ln -s " + at("victim") + " ~/.demo/auth.json").status, 0);
  EXPECT_EQ(agent({"demo", "-q", "--share-login"}, {"cat", "/home/agent/.demo/auth.json"}).out, "token\n");
  EXPECT_EQ(home.shell("cat ../victim").out, "untouched\n");
}

TEST_P(Agents, OfflineSharesItsStateWithNobody) {
  Process running = Process::start({program(), "run", "-q", "--agent", "demo", "--", "sh", "-c", "echo ready; cat"}, as());
  ASSERT_TRUE(running.read_until("ready\n")) << running.errors();
  const Output refused = agent({"demo", "-q", "--offline"}, {"true"});
  EXPECT_EQ(refused.status, 125);
  EXPECT_TRUE(has(refused.err, "take another --name")) << refused.err;
  EXPECT_EQ(agent({"demo", "-q", "--offline", "--name", "alone"}, {"true"}).status, 0);
  running.close_input();
  EXPECT_EQ(running.wait(), 0);
  EXPECT_EQ(agent({"demo", "-q", "--offline"}, {"true"}).status, 0);
}

TEST_P(Agents, ADirectoryInTheLoginsPlaceIsSaid) {
  home.write("../.demo/auth.json", "token");
  EXPECT_EQ(demo("mkdir ~/.demo/auth.json").status, 0);
  const Output output = agent({"demo", "-q", "--share-login"}, {"true"});
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, "is a directory inside")) << output.err;
}

TEST_P(Agents, ReachTheirDomainsByTheirProfilesName) {
  Process running = Process::start({program(), "run", "-q", "--agent", "demo", "--name", "net", "--domain", "more.example.com",
                                    "--alias", "llm.local:11434=127.0.0.1:11434", "--", "sh", "-c", "echo ready; cat"}, as());
  ASSERT_TRUE(running.read_until("ready\n")) << running.errors();
  const auto decision = [&](const std::string& host) { return run({program(), "check", "-s", "net", "--domain", host}, as()); };
  for (const auto& [host, rule] : {std::pair{"api.demo.example", "agent:demo"}, std::pair{"login.demo.example", "agent:demo"},
                                   std::pair{"more.example.com", "run"}}) {
    EXPECT_EQ(decision(host).status, 0) << host;
    EXPECT_TRUE(has(decision(host).out, rule)) << decision(host).out << decision(host).err;
  }
  EXPECT_EQ(decision("llm.local:11434").status, 0);
  EXPECT_EQ(decision("other.example.com").status, 1);
  EXPECT_EQ(decision("sub.api.demo.example").status, 1);
  running.close_input();
  EXPECT_EQ(running.wait(), 0);
  const Output wrong = agent({"demo", "--domain", "http://x/"}, {"touch", "started"});
  EXPECT_EQ(wrong.status, 125);
  EXPECT_TRUE(has(wrong.err, "--domain: \"http://x/\": is no host")) << wrong.err;
  EXPECT_EQ(agent({"demo", "--alias", "llm.local=127.0.0.1"}, {"touch", "started"}).status, 125);
  EXPECT_FALSE(fs::exists(home.project() / "started"));
}

TEST_P(Agents, WhatIsNotThereIsExplained) {
  const Output unknown = agent({"dmeo"}, {"true"});
  EXPECT_EQ(unknown.status, 125);
  EXPECT_TRUE(has(unknown.err, "did you mean \"demo\"?")) << unknown.err;
  const Output absent = agent({"codex"}, {"true"});
  EXPECT_EQ(absent.status, 125);
  EXPECT_TRUE(has(absent.err, "install it: npm install -g @openai/codex")) << absent.err;
  home.write("../.nvm/v22/bin/claude", "#!/bin/sh\n");
  home.shell("chmod 755 ../.nvm/v22/bin/claude");
  const Output plain = run({program(), "run", "--", "claude"}, as());
  EXPECT_EQ(plain.status, 125);
  EXPECT_TRUE(has(plain.err, "claude is at ~/.nvm/v22/bin, which the sandbox does not show: use --agent claude or --tool DIR")) << plain.err;
  EXPECT_EQ(run({program(), "run"}, as()).status, 2) << "neither command nor agent";
}

// ATTACK: what an agent puts into the workspace becomes neither program nor Node nor profile.
TEST_P(Agents, NothingOutOfTheWorkspaceIsTrusted) {
  home.write("bin/node", "#!/bin/sh\ntouch " + at("was-run") + "\necho v22.0.0\n");
  home.write("bin/demo", "#!/bin/sh\n");
  home.shell("chmod 755 bin/node bin/demo");
  As person = as();
  person.environment["PATH"] = home.project().string() + "/bin:" + person.environment["PATH"];
  Output output = agent({"demo"}, {"true"}, person);
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, "overlaps the workspace")) << output.err;
  home.shell("rm bin/demo");
  output = agent({"demo"}, {"true"}, person);
  EXPECT_EQ(output.status, 125);
  EXPECT_FALSE(fs::exists(home.path() / "was-run"));
  home.shell("mkdir -p cfg/fbroker/agents; cp ../.config/fbroker/agents/demo.json cfg/fbroker/agents");
  person = as();
  person.environment["XDG_CONFIG_HOME"] = home.project().string() + "/cfg";
  output = agent({"demo"}, {"true"}, person);
  EXPECT_EQ(output.status, 125);
  EXPECT_TRUE(has(output.err, "lies in the workspace")) << output.err;
}

TEST_P(Agents, AreListedWithWhatIsInstalledHere) {
  demo("true");
  const Output list = run({program(), "agents"}, as());
  EXPECT_EQ(list.status, 0) << list.err;
  EXPECT_TRUE(has(list.out, "NAME ")) << list.out;
  std::istringstream lines(list.out);
  std::string found, claude;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("demo ")) found = line;
    if (line.starts_with("claude ")) claude = line;
  }
  EXPECT_TRUE(has(found, "~/.nvm/v22/bin/demo")) << found;
  EXPECT_TRUE(has(found, "yes")) << found;
  EXPECT_TRUE(has(claude, "Claude Code")) << claude;
  const Output one = run({program(), "agents", "demo"}, as());
  for (const char* part : {"~/.nvm/v22/lib/node_modules/", "~/.nvm/v22/bin/node", "~/.config/demo", "DEMO_KEY", "DEMO_TELEMETRY=0",
                           "api.demo.example", "login.demo.example", "~/.demo/auth.json", "--publish 127.0.0.1:1455"})
    EXPECT_TRUE(has(one.out, part)) << part << " is not in:\n" << one.out;
  const Output json = run({program(), "agents", "--json"}, as());
  EXPECT_TRUE(has(json.out, "\"name\":\"qwen\"")) << json.out;
  EXPECT_EQ(run({program(), "agents", "nobody"}, as()).status, 1);
}

}  // namespace
}  // namespace fbroker::test
