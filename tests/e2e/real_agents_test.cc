// Five real coding agents at work: each as `fbroker run --agent NAME` starts
// it, headless, with a scripted model (tests/agents/model_server.py) that it
// reaches through an alias and nothing else. They list, read, edit, write,
// search and run commands; a hidden file is absent for them; one is granted in
// the middle of the run.
//
// The agents come from the npm registry: tests/agents/install.sh.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kSecret[] = "correct-horse-battery-staple";
constexpr char kPrompt[] = "Do the scripted work.";

struct RealAgent {
  const char* name;
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  // A file in what the agent keeps, as a person would have written it.
  std::string configuration, content;
};

const std::vector<RealAgent>& agents() {
  static const std::vector<RealAgent> list{
      {"claude", {"-p", kPrompt, "--dangerously-skip-permissions"},
       {"ANTHROPIC_BASE_URL=http://llm.local:11434", "ANTHROPIC_API_KEY=any"}, "", ""},
      {"codex", {"exec", "--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check", kPrompt}, {"LLM_API_KEY=any"},
       ".codex/config.toml",
       "model = \"gpt-5.5\"\nmodel_provider = \"llm\"\ncheck_for_update_on_startup = false\n[analytics]\nenabled = false\n"
       "[features]\nplugins = false\napps = false\n[model_providers.llm]\nname = \"llm\"\n"
       "base_url = \"http://llm.local:11434/v1\"\nenv_key = \"LLM_API_KEY\"\nwire_api = \"responses\"\n"},
      {"gemini", {"-y", "-m", "gemini-2.5-pro", "-p", kPrompt},
       {"GOOGLE_GEMINI_BASE_URL=http://llm.local:11434", "GEMINI_API_KEY=any", "GEMINI_CLI_TRUST_WORKSPACE=true"},
       ".gemini/settings.json",
       R"({"security":{"auth":{"selectedType":"gemini-api-key"}},"privacy":{"usageStatisticsEnabled":false},"telemetry":{"enabled":false},)"
       R"("general":{"enableAutoUpdate":false,"enableAutoUpdateNotification":false}})"},
      {"qwen", {"-y", "-p", kPrompt},
       {"OPENAI_BASE_URL=http://llm.local:11434/v1", "OPENAI_API_KEY=any", "OPENAI_MODEL=test-model"}, ".qwen/settings.json",
       R"({"privacy":{"usageStatisticsEnabled":false},"telemetry":{"enabled":false},"general":{"enableAutoUpdate":false}})"},
      {"opencode", {"run", kPrompt}, {}, ".config/opencode/opencode.json",
       R"({"$schema":"https://opencode.ai/config.json","model":"llm/test-model","small_model":"llm/test-model","autoupdate":false,)"
       R"("share":"disabled","permission":"allow","provider":{"llm":{"npm":"@ai-sdk/openai-compatible","name":"llm",)"
       R"("options":{"baseURL":"http://llm.local:11434/v1","apiKey":"any"},"models":{"test-model":{"name":"test-model"}}}}})"},
  };
  return list;
}

std::string agents_directory() {
  const char* given = std::getenv("FBROKER_AGENTS");
  return given != nullptr && *given != '\0' ? given : "/var/tmp/fbroker-agents";
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Case {
  std::size_t agent;
  bool root;
};

class RealAgents : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(fs::exists(agents_directory() + "/node_modules/.bin/claude"))
        << "the agents are not installed in " << agents_directory() << ": tests/agents/install.sh";
    home_.emplace(GetParam().root || ::getuid() != 0 ? "" : "fbroker-test");
    home_->write("main.c", "#include <stdio.h>\n\nint main(void) {\n    puts(\"hello\");\n    return 0;\n}\n");
    home_->write("Makefile", "hello: main.c\n\tcc -o hello main.c\n");
    home_->write("notes.txt", "the harbour is closed on Mondays\n");
    home_->write(".env", std::string("TOKEN=") + kSecret + "\n");
    home_->write("../tmp/spec.txt", "the lighthouse opens at nine\n");
    home_->shell("git init -q . && git add main.c Makefile notes.txt && git -c user.name=t -c user.email=t@example.com commit -qm first");
    if (!agent().configuration.empty())
      home_->write("../state/fbroker/.agents/" + std::string(agent().name) + "/w/" + agent().configuration, agent().content);
    log_ = (home_->path() / "model.log").string();
    model_.emplace(Process::start({"python3", FBROKER_SOURCE_DIR "/tests/agents/model_server.py", "--log", log_, "--forbid", kSecret}));
    const auto said = model_->read_until("\n", 20s);
    ASSERT_TRUE(said) << model_->errors();
    port_ = json::parse(*said)["port"].get<int>();
  }

  const RealAgent& agent() const { return agents()[GetParam().agent]; }
  std::vector<json> logged(const std::string& event) const {
    std::vector<json> found;
    std::ifstream log(log_);
    for (std::string line; std::getline(log, line);)
      if (auto one = json::parse(line, nullptr, false); one.is_object() && one.value("event", "") == event) found.push_back(one);
    return found;
  }
  bool has_served(const std::string& step) const {
    for (const json& request : logged("request"))
      if (request.value("served", "") == step) return true;
    return false;
  }
  Process start_agent() const {
    std::vector<std::string> argv{programs_directory() + "/fbroker", "run", "--name", "w", "--agent", agent().name,
                                  "--alias", "llm.local:11434=127.0.0.1:" + std::to_string(port_)};
    for (const std::string& variable : agent().environment) argv.insert(argv.end(), {"--env", variable});
    argv.push_back("--");
    argv.insert(argv.end(), agent().arguments.begin(), agent().arguments.end());
    As as = home_->as();
    as.environment["PATH"] = agents_directory() + "/node_modules/.bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
    Process process = Process::start(argv, as);
    process.close_input();
    return process;
  }
  std::vector<json> records() const {
    std::vector<json> found;
    std::istringstream lines(home_->fbroker({"audit", "search", "-s", "w", "--json"}).out);
    for (std::string line; std::getline(lines, line);) found.push_back(json::parse(line));
    return found;
  }

  std::optional<Home> home_;
  std::optional<Process> model_;
  std::string log_;
  int port_ = 0;
};

INSTANTIATE_TEST_SUITE_P(, RealAgents,
                         testing::Values(Case{0, false}, Case{1, false}, Case{2, false}, Case{3, false}, Case{4, false},
                                         Case{0, true}, Case{1, true}),
                         [](const auto& c) { return std::string(agents()[c.param.agent].name) + (c.param.root ? "StartedByRoot" : ""); });

TEST_P(RealAgents, WorksInTheWorkspaceAndReachesItsModelAlone) {
  Process run = start_agent();
  const bool reached = wait_until([&] { return has_served("wait_for_grant"); }, 120s);
  if (reached) {
    const Output granted = home_->fbroker({"grant", "-s", "w", (home_->path() / "tmp/spec.txt").string(), "--for", "5m"});
    EXPECT_EQ(granted.status, 0) << granted.err;
  }
  const int status = run.wait(120s);
  const auto verdicts = logged("verdict");
  ASSERT_EQ(verdicts.size(), 1u) << "the agent did not come to its end\n" << run.errors() << text_of(log_);
  EXPECT_TRUE(verdicts[0]["ok"]) << verdicts[0].dump(1) << "\n" << run.errors();
  EXPECT_TRUE(logged("leak").empty());
  EXPECT_EQ(status, 0) << run.errors();

  // What it did is there.
  EXPECT_EQ(text_of(home_->project() / "out/hello.txt"), "hello, agent\n");
  EXPECT_NE(text_of(home_->project() / "out/agent.txt").find("written by the agent"), std::string::npos);
  EXPECT_NE(text_of(home_->project() / "main.c").find("hello, agent"), std::string::npos);

  // And on the record: the hidden file refused, the granted one read, no host but the model's.
  std::size_t hidden = 0, read_granted = 0, connections = 0;
  for (const json& record : records()) {
    const std::string path = record.contains("path") && record["path"].is_string() ? record["path"].get<std::string>() : "";
    if (path == "/.env") {
      EXPECT_NE(record.value("decision", ""), "allow") << record;
      hidden += record.value("reason", "") == "base:env" ? 1 : 0;
    }
    if (path == "/.fbroker/granted/spec.txt" && record["operation"] == "open") read_granted += record.value("reason", "") == "g1" ? 1 : 0;
    // What asked for more was allowed by its profile at most to be looked up in vain.
    if (record["operation"] == "connect" && record["decision"] == "allow" && !record.contains("error")) {
      ++connections;
      EXPECT_EQ(record["host"], "llm.local") << record;
    }
  }
  EXPECT_GT(hidden, 0u);
  EXPECT_GT(read_granted, 0u);
  EXPECT_GT(connections, 0u);
  EXPECT_EQ(home_->fbroker({"audit", "verify", "-s", "w"}).status, 0);
}

}  // namespace
}  // namespace fbroker::test
