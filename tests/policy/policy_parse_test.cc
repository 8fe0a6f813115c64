// Policy texts: what is accepted, and how what is not is told.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "policy/base_rules.h"
#include "policy/explain.h"
#include "policy/lint.h"
#include "policy/policy.h"

namespace fbroker::policy {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string with_rules(const std::string& rules) {
  return R"({"version":1,"rules":[)" + rules + "]}";
}

TEST(PolicyParse, ReadsTheDesignsExample) {
  const auto policy = parse_policy(R"({
  "version": 1,
  "exports": [ { "at": "/", "from": "." }, { "at": "/docs", "from": "~/Documents/specs", "static": true } ],
  "rules": [
    { "deny":  "all",   "paths": ["**/*.pem"], "except": ["/tests/**"], "because": "keys" },
    { "allow": ["list", "read"],  "paths": ["/**"] },
    { "deny":  "write", "match": "/migrations/[0-9]+.*" }
  ],
  "base": { "editor": "off", "env": { "except": ["/fixtures/.env"] } }
})", "p.json");
  ASSERT_TRUE(policy) << policy.error()[0].text();
  ASSERT_EQ(policy->exports.size(), 2u);
  EXPECT_TRUE(policy->exports[1].static_content);
  EXPECT_EQ(policy->rules[0].id, "policy:/rules/0");
  EXPECT_EQ(policy->rules[1].operations, (OperationSet{Operation::list, Operation::read}));
  EXPECT_EQ(policy->rules[2].match, "/migrations/[0-9]+.*");
  EXPECT_EQ(policy->source, "p.json");
  const auto has = [&](std::string_view id) {
    return std::ranges::any_of(policy->rules, [&](const Rule& rule) { return rule.id == id; });
  };
  EXPECT_FALSE(has("base:editor"));
  EXPECT_TRUE(has("base:env"));
  const auto snapshot = Snapshot::compile({policy->rules, {}, 1});
  ASSERT_TRUE(snapshot);
  EXPECT_TRUE((*snapshot)->decide(*WorkspacePath::parse("/fixtures/.env")).allows(Operation::read));
  EXPECT_FALSE((*snapshot)->decide(*WorkspacePath::parse("/x/.env")).visible());
}

TEST(PolicyTextTest, DurabilityIsNormalUnlessItSaysStrict) {
  const auto durability = [](const std::string& more) {
    const auto policy = parse_policy(R"({"version":1)" + more + "}", "p.json");
    EXPECT_TRUE(policy) << more;
    return policy ? policy->durability : Durability::normal;
  };
  EXPECT_EQ(durability(""), Durability::normal);
  EXPECT_EQ(durability(R"(,"durability":"normal")"), Durability::normal);
  EXPECT_EQ(durability(R"(,"durability":"strict")"), Durability::strict);
  EXPECT_EQ(default_policy().durability, Durability::normal);
}

TEST(PolicyTextTest, AnyOtherDurabilityIsRefusedInWords) {
  for (const char* bad : {R"("stict")", "true", "null", R"(["strict"])", R"("Strict")", R"("")"}) {
    const auto policy = parse_policy(R"({"version":1,"durability":)" + std::string(bad) + "}", "p.json");
    ASSERT_FALSE(policy) << bad;
    EXPECT_EQ(policy.error()[0].pointer, "/durability") << bad;
    EXPECT_NE(policy.error()[0].message.find("\"normal\" or \"strict\""), std::string::npos) << policy.error()[0].text();
  }
}

struct BadText {
  const char* name;
  std::string text;
  const char* pointer;
  int line, column;
  const char* words;       // part of the message
  const char* suggestion;
};
class PolicyTextRefused : public testing::TestWithParam<BadText> {};
TEST_P(PolicyTextRefused, NamesThePlaceAndTheNearestWord) {
  const auto& bad = GetParam();
  const auto policy = parse_policy(bad.text, "p.json");
  ASSERT_FALSE(policy) << bad.text;
  const Diagnostic& first = policy.error()[0];
  EXPECT_EQ(first.pointer, bad.pointer) << first.text();
  EXPECT_EQ(first.line, bad.line) << first.text();
  EXPECT_EQ(first.column, bad.column) << first.text();
  EXPECT_NE(first.message.find(bad.words), std::string::npos) << first.text();
  EXPECT_EQ(first.suggestion, bad.suggestion) << first.text();
}
INSTANTIATE_TEST_SUITE_P(
    , PolicyTextRefused,
    testing::Values(
        BadText{"Empty", "", "", 1, 1, "not valid JSON", ""},
        BadText{"NotAnObject", "[]", "", 1, 1, "found a list", ""},
        BadText{"NoVersion", "{}", "", 1, 1, "\"version\" is missing", ""},
        BadText{"OtherVersion", "{\n \"version\": 2}", "/version", 2, 13, "expected 1", ""},
        BadText{"UnknownKey", "{\"version\":1,\n  \"ruels\":[]}", "/ruels", 2, 3, "unknown key", "rules"},
        BadText{"DuplicateKey", "{\"version\":1,\n\"version\":1}", "/version", 2, 1, "twice", ""},
        BadText{"DuplicateDeep", with_rules(R"({"allow":"read","paths":["/a"],"allow":"write"})"), "/rules/0/allow", 1, 54, "twice", ""},
        BadText{"Comment", "{\n// no\n\"version\":1}", "", 2, 1, "no comments", ""},
        BadText{"Level", with_rules(R"({"allow":"raed","paths":["/"]})"), "/rules/0/allow", 1, 32, "unknown level", "read"},
        BadText{"LevelOfTheOther", with_rules(R"({"allow":"all","paths":["/"]})"), "/rules/0/allow", 1, 32, "unknown level", ""},
        BadText{"Operation", with_rules(R"({"deny":["exceute"],"paths":["/"]})"), "/rules/0/deny/0", 1, 32, "unknown operation", "execute"},
        BadText{"TwoEffects", with_rules(R"({"deny":"all","allow":"read","paths":["/"]})"), "/rules/0/deny", 1, 31, "has two", ""},
        BadText{"NoEffect", with_rules(R"({"paths":["/"]})"), "/rules/0", 1, 23, "needs one of", ""},
        BadText{"NoSubject", with_rules(R"({"deny":"all"})"), "/rules/0", 1, 23, "needs \"paths\"", ""},
        BadText{"BothSubjects", with_rules(R"({"deny":"all","paths":["/"],"match":"/a"})"), "/rules/0/match", 1, 59, "not both", ""},
        BadText{"Pattern", with_rules(R"({"deny":"all","paths":["a"]})"), "/rules/0/paths/0", 1, 46, "must start with", ""},
        BadText{"Expression", with_rules(R"({"deny":"all","match":"/("})"), "/rules/0/match", 1, 45, "not a valid RE2", ""},
        BadText{"WrongType", with_rules(R"({"deny":"all","paths":"/a"})"), "/rules/0/paths", 1, 45, "found a string", ""},
        BadText{"BaseId", R"({"version":1,"base":{"ehv":"off"}})", "/base/ehv", 1, 22, "unknown base rule", "env"},
        BadText{"BaseWord", R"({"version":1,"base":{"env":"of"}})", "/base/env", 1, 28, "unknown setting", "off"},
        BadText{"TwoExportsAtOnePlace", R"({"version":1,"exports":[{"at":"/a","from":"."},{"at":"/a","from":"b"}]})", "/exports/1/at", 1, 54, "another export", ""},
        BadText{"ExportClimbs", R"({"version":1,"exports":[{"at":"/a/..","from":"."}]})", "/exports/0/at", 1, 31, "no workspace path", ""},
        BadText{"ExportReserved", R"({"version":1,"exports":[{"at":"/.fbroker/x","from":"."}]})", "/exports/0/at", 1, 31, "granted files", ""},
        BadText{"OthersHome", R"({"version":1,"exports":[{"at":"/a","from":"~root/x"}]})", "/exports/0/from", 1, 43, "own home", ""}),
    [](const auto& c) { return c.param.name; });

TEST(PolicyParse, RefusesWhatIsTooDeepOrTooLarge) {
  const auto deep = parse_policy(std::string(100000, '['), "p.json");
  ASSERT_FALSE(deep);
  EXPECT_NE(deep.error()[0].message.find("nested deeper"), std::string::npos);
  const std::string large = with_rules("") + std::string(kMaxUserPolicyBytes, ' ');
  EXPECT_FALSE(parse_policy(large, "p.json", kMaxUserPolicyBytes));
  EXPECT_TRUE(parse_policy(large, "p.json"));
}

TEST(PolicyParse, TellsAllProblemsAtOnce) {
  const auto policy = parse_policy(R"({"version":2,"ruels":[],"base":{"x":1}})", "");
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().size(), 3u);
}

TEST(PolicySchema, IsTheFileThatEditorsRead) {
  EXPECT_EQ(policy_schema(), read_file(FBROKER_SOURCE_DIR "/policy/policy.schema.json"));
}

TEST(PolicySchema, KnowsEveryBaseRule) {
  for (const auto id : base_ids())
    EXPECT_TRUE(parse_policy(R"({"version":1,"base":{")" + std::string(id) + R"(":"off"}})", "")) << id;
}

TEST(PolicyBase, SecretsDoNotExistAndTemplatesDo) {
  const auto snapshot = Snapshot::compile({default_policy().rules, {}, 1});
  ASSERT_TRUE(snapshot) << snapshot.error().text();
  const auto visible = [&](std::string_view path) {
    return (*snapshot)->decide(*WorkspacePath::parse(path)).visible();
  };
  for (const char* path : {"/.env", "/a/.env.local", "/.ssh", "/.ssh/config", "/id_rsa", "/k/id_ed25519.old",
                           "/.aws/credentials", "/.kube/config", "/.netrc", "/.git-credentials", "/x.kdbx",
                           "/.gnupg/x", "/.docker/config.json", "/.bash_history", "/certs/privkey.pem"})
    EXPECT_FALSE(visible(path)) << path;
  for (const char* path : {"/.env.example", "/.env.local.example", "/.env.sample", "/.env.template", "/.env.dist",
                           "/id_rsa.pub", "/cacert.pem", "/.npmrc", "/environment", "/.git/config", "/.docker"})
    EXPECT_TRUE(visible(path)) << path;
}

TEST(PolicyBase, GuardsLetASessionMakeARepositoryAndNotChangeAPersons) {
  const auto snapshot = Snapshot::compile({default_policy().rules, {}, 1});
  ASSERT_TRUE(snapshot);
  const auto allows = [&](std::string_view path, Operation op, bool created) {
    return (*snapshot)->decide(*WorkspacePath::parse(path), {created}).allows(op);
  };
  for (const char* path : {"/.git/hooks/pre-commit", "/.git/config", "/s/.git/config.worktree", "/.git/commondir",
                           "/.git/config.lock", "/.git/objects/info/alternates",
                           "/.git/modules/a/b/hooks/x", "/.git/modules/a/config", "/.git/worktrees/w/commondir",
                           "/.husky/pre-commit", "/.vscode/tasks.json", "/.envrc", "/.bashrc", "/.mcp.json",
                           "/.claude/settings.json", "/bare.git/hooks/update"}) {
    EXPECT_FALSE(allows(path, Operation::write, false)) << path;
    EXPECT_FALSE(allows(path, Operation::create, false)) << path;
    EXPECT_TRUE(allows(path, Operation::read, false)) << path;
    EXPECT_TRUE(allows(path, Operation::write, true)) << path;
  }
  for (const char* path : {"/.git/HEAD", "/.git/index.lock", "/.git/refs/heads/hooks", "/.git/objects/ab/cd", "/Makefile"})
    EXPECT_TRUE(allows(path, Operation::write, false)) << path;
  EXPECT_TRUE(allows("/.git", Operation::create, false));   // git init
  EXPECT_FALSE(allows("/.git", Operation::write, false));   // a ".git" file turned round
  EXPECT_FALSE(allows("/.git", Operation::delete_, false));
}

TEST(PolicyExamples, AreValidAndLintFindsNothingWrong) {
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FBROKER_SOURCE_DIR "/examples/policies")) {
    const auto policy = parse_policy(read_file(entry.path()), entry.path().filename());
    ASSERT_TRUE(policy) << policy.error()[0].text();
    for (const Finding& finding : lint(*policy))
      EXPECT_NE(finding.level, Finding::Level::warning) << entry.path() << " " << finding.rule << " " << finding.message;
    ++seen;
  }
  EXPECT_GE(seen, 6);
}

// Decisions of a whole policy as a file: "PATH OPERATION -> EFFECT RULE".
TEST(PolicyGolden, DecisionsAreThoseWrittenDown) {
  int compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FBROKER_SOURCE_DIR "/tests/policy/golden")) {
    const auto name = entry.path().stem().string();
    const auto policy = parse_policy(read_file(FBROKER_SOURCE_DIR "/examples/policies/" + name + ".json"), name);
    ASSERT_TRUE(policy) << name;
    const auto snapshot = Snapshot::compile({policy->rules, {}, 1});
    ASSERT_TRUE(snapshot);
    std::istringstream lines(read_file(entry.path()));
    for (std::string path, operation, arrow, effect, rule; lines >> path >> operation >> arrow >> effect >> rule; ++compared) {
      const auto op = operation_named(operation);
      ASSERT_TRUE(op) << operation;
      const auto decision = (*snapshot)->decide(*WorkspacePath::parse(path));
      EXPECT_EQ(name_of(decision.of(*op).effect), effect) << name << " " << path << " " << operation;
      EXPECT_EQ((*snapshot)->reason(decision.of(*op).reason).id, rule) << name << " " << path << " " << operation;
    }
  }
  EXPECT_GE(compared, 20);
}

std::vector<std::string> lint_of(const std::string& text) {
  const auto policy = parse_policy(text, "");
  EXPECT_TRUE(policy) << (policy ? "" : policy.error()[0].text());
  std::vector<std::string> found;
  if (policy)
    for (const Finding& finding : lint(*policy)) found.push_back(finding.rule + ": " + finding.message);
  return found;
}

TEST(PolicyLint, FindsWhatCanHardlyBeMeant) {
  struct Case { std::string text; const char* words; };
  const std::string all = R"({"allow":"read","paths":["/"]},)";
  for (const Case& c : {
           Case{with_rules(""), "nothing is allowed"},
           Case{with_rules(all + R"({"deny":"all","paths":["/a"]},{"allow":"write","paths":["/a/b"]})"), "overrules all of it"},
           Case{with_rules(all + R"({"allow":"read","paths":["/a"]})"), "says it already"},
           Case{with_rules(all + R"({"deny":"all","paths":["/a"],"except":["/b"]})"), "covers nothing"},
           Case{with_rules(all + R"({"deny":"all","match":"secret.*"})"), "never matches"},
           Case{with_rules(all + R"({"deny":"all","paths":["/workspace/secret"]})"), "in a policy it is \"/secret\""},
           Case{with_rules(all + R"({"deny":"all","paths":["/a"],"except":["/workspace"]})"), "in a policy it is \"/\""},
           Case{with_rules(all + R"({"deny":"all","match":"/workspace/s.*"})"), "as the agent spells it"},
           Case{with_rules(all + R"({"deny":"all","paths":["**/*.pem"],"except":["/"]})"), "never holds"},
           Case{with_rules(all + R"({"deny":"all","paths":["**/*.pem","/a/b"],"except":["/a","**/*.pem"]})"), "never holds"},
           Case{with_rules(all + R"({"deny":"all","match":"/s.*","except":["/**"]})"), "never holds"},
           Case{R"({"version":1,"rules":[{"allow":"read","paths":["/"]}],"base":{"env":{"except":["/"]}}})", "base:env: never holds"},
           Case{R"({"version":1,"rules":[{"allow":"read","paths":["/"]}],"base":{"ssh":"off"}})", "switched off"},
           Case{R"({"version":1,"exports":[{"at":"/a","from":"."},{"at":"/a/b","from":"x"}],"rules":[{"allow":"read","paths":["/"]}]})", "hides what"},
           Case{R"({"version":1,"exports":[{"at":"/a","from":"."},{"at":"/b","from":"x"}],"rules":[{"allow":"read","paths":["/a"]}]})", "is visible"}}) {
    const auto found = lint_of(c.text);
    EXPECT_TRUE(std::ranges::any_of(found, [&](const auto& f) { return f.find(c.words) != f.npos; })) << c.text;
  }
}

TEST(PolicyLint, IsSilentWhereAllIsWell) {
  EXPECT_EQ(lint_of(with_rules(R"({"allow":"read","paths":["/"]},{"allow":"write","paths":["/src"]},)"
                               R"({"deny":"all","paths":["**/*.pem","/workspaces/x"],"except":["/tests"]})")),
            std::vector<std::string>{});
  EXPECT_EQ(lint_of(R"({"version":1,"exports":[{"at":"/workspace","from":"."}],"rules":[{"allow":"read","paths":["/workspace"]},)"
                    R"({"deny":"all","paths":["/workspace/secret"]}]})"),
            std::vector<std::string>{});
}

TEST(PolicyExplain, NamesTheRuleAndTheCommandThatLifts) {
  const auto snapshot = Snapshot::compile({default_policy().rules, {}, 1});
  ASSERT_TRUE(snapshot);
  const auto path = *WorkspacePath::parse("/.env");
  const auto decision = (*snapshot)->decide(path);
  const auto text = explain_text(**snapshot, path, Operation::read, decision);
  EXPECT_NE(text.find("read /.env: deny, by base:env"), std::string::npos) << text;
  EXPECT_NE(text.find("fbroker grant /workspace/.env --read --override-deny"), std::string::npos) << text;
  const auto allowed = *WorkspacePath::parse("/a");
  EXPECT_EQ(lifting_command(**snapshot, allowed, Operation::read, (*snapshot)->decide(allowed)), "");
}

// ATTACK: the agent chooses names that a terminal or a shell would act on.
TEST(PolicyExplain, AHostileNameStaysANameInTextAndJson) {
  const auto snapshot = Snapshot::compile({{}, {}, 1});
  ASSERT_TRUE(snapshot);
  const auto path = *WorkspacePath::parse("/\x1b[2J'; rm -rf \xff\n");
  const auto decision = (*snapshot)->decide(path);
  const auto text = explain_text(**snapshot, path, Operation::read, decision);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("$'/workspace/\\x1b[2J\\'; rm -rf \\xff\\x0a'"), std::string::npos) << text;
  EXPECT_NE(explain_json(**snapshot, path, Operation::read, decision).find("b64"), std::string::npos);
}

}  // namespace
}  // namespace fbroker::policy
