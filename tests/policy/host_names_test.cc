// Base rules of an export that begins inside what they name.
#include <gtest/gtest.h>

#include "policy/host_names.h"
#include "policy/policy.h"
#include "policy/snapshot.h"

namespace fbroker::policy {
namespace {

using enum Operation;

WorkspacePath at(std::string_view path) { return WorkspacePath::parse(path).value(); }

std::shared_ptr<const Snapshot> shown(std::vector<HostName> exports, std::string_view base = "{}") {
  auto policy = parse_policy(R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]}],"base":)" +
                                 std::string(base) + "}", "p.json").value();
  add_host_names(policy.rules, exports);
  return Snapshot::compile({std::move(policy.rules), {}, 1}).value();
}

struct Case {
  const char* root;
  const char* path;       // seen below "/"
  Operation operation;
  bool allowed;
};

class HostNames : public testing::TestWithParam<Case> {};

TEST_P(HostNames, CountForBaseRules) {
  const auto [root, path, operation, allowed] = GetParam();
  const auto snapshot = shown({{at("/"), root}});
  EXPECT_EQ(snapshot->decide(at(path)).allows(operation), allowed) << root << " " << path;
}

INSTANTIATE_TEST_SUITE_P(Prefixes, HostNames, testing::Values(
    // the pattern's first names lie above the root
    Case{"/home/u/.config", "/gh/hosts.yml", read, false},
    Case{"/home/u/.config", "/nvim/init.lua", read, true},
    Case{"/home/u/.config", "/fish/config.fish", write, false},
    Case{"/home/u/.config", "/fish/config.fish", read, true},
    Case{"/home/u/.claude", "/.credentials.json", list, false},
    Case{"/home/u/.claude", "/settings.json", create, false},
    Case{"/home/u/.claude", "/notes.md", create, true},
    Case{"/home/u/.docker", "/config.json", list, false},
    Case{"/home/u/.docker", "/other.json", list, true},
    Case{"/home/u/.local", "/share/keyrings/login.keyring", list, false},
    Case{"/home/u/.local/share", "/keyrings/login.keyring", list, false},
    Case{"/home/u/.local/share", "/applications/a.desktop", list, true},
    // and where nothing is cut off they say what they always did
    Case{"/home/u", "/.config/gh/hosts.yml", read, false},
    Case{"/home/u", "/gh/hosts.yml", read, true},
    Case{"/home/u/.configs", "/gh/hosts.yml", read, true},
    Case{"/home/.config/u", "/gh/hosts.yml", read, true},
    // inside
    Case{"/home/u/.config/gh", "/hosts.yml", list, false},
    Case{"/home/u/.aws", "/credentials", list, false},
    Case{"/home/u/.aws/sso/cache", "/x", list, false},
    Case{"/home/u/p/.git", "/config", write, false},
    Case{"/home/u/p/.git", "/config", read, true},
    Case{"/home/u/p/.git", "/hooks/pre-commit", create, false},
    Case{"/home/u/p/.git", "/modules/a/b/hooks/pre-commit", create, false},
    Case{"/home/u/p/.git/modules", "/a/b/hooks/pre-commit", create, false},
    Case{"/home/u/p/.git/modules/a", "/config", write, false},
    Case{"/home/u/p/.git/hooks", "/pre-commit", create, false},
    Case{"/home/u/p/.git", "/refs/heads/x", create, true},
    Case{"/home/u/p/.git", "/HEAD", write, true},
    Case{"/home/u/p/.vscode", "/tasks.json", write, false},
    Case{"/home/u/p/.vscode", "/tasks.json", read, true},
    Case{"/home/u/p", "/config", write, true}));

TEST(HostNamesOfExports, AnExportElsewhereHasThemBelowItsOwnPlace) {
  const auto snapshot = shown({{at("/"), "/home/u/p"}, {at("/conf[1]"), "/home/u/.config"}});
  EXPECT_FALSE(snapshot->decide(at("/conf[1]/gh/hosts.yml")).allows(read));
  EXPECT_TRUE(snapshot->decide(at("/conf1/gh/hosts.yml")).allows(read));
  EXPECT_TRUE(snapshot->decide(at("/gh/hosts.yml")).allows(read));
}

TEST(HostNamesOfExports, AGuardDoesNotGiveWayThereToWhatTheSessionMakes) {
  const auto snapshot = shown({{at("/"), "/home/u/p/.git"}});
  const Facts created{.created_by_session = true};
  EXPECT_FALSE(snapshot->decide(at("/modules/new/config"), created).allows(create));
  EXPECT_TRUE(snapshot->decide(at("/x/y.git/config"), created).allows(create));
}

TEST(HostNamesOfExports, ASwitchedOffOrNarrowedRuleStaysSo) {
  EXPECT_TRUE(shown({{at("/"), "/home/u/.aws"}}, R"({"cloud":"off"})")->decide(at("/credentials")).allows(read));
  const auto narrowed = shown({{at("/"), "/home/u/.aws"}}, R"({"cloud":{"except":["/config"]}})");
  EXPECT_TRUE(narrowed->decide(at("/config")).allows(read));
  EXPECT_FALSE(narrowed->decide(at("/credentials")).allows(read));
}

TEST(HostNamesOfExports, AnExportThatASecretHidesWholeIsNamed) {
  const auto hidden = [](const char* root, std::string_view base = "{}") {
    auto policy = parse_policy(R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[{"allow":"write","paths":["/"]}],"base":)" +
                                   std::string(base) + "}", "p.json").value();
    add_host_names(policy.rules, std::vector<HostName>{{at("/"), root}});
    return hidden_whole(policy.rules, at("/"));
  };
  EXPECT_EQ(hidden("/home/u/.aws"), "base:cloud");
  EXPECT_EQ(hidden("/home/u/.ssh/old"), "base:ssh");
  EXPECT_EQ(hidden("/home/u/.aws", R"({"cloud":"off"})"), std::nullopt);
  EXPECT_EQ(hidden("/home/u/.aws", R"({"cloud":{"except":["/"]}})"), std::nullopt);
  EXPECT_EQ(hidden("/home/u/.config"), std::nullopt) << "only parts of it are";
  EXPECT_EQ(hidden("/home/u/p/.vscode"), std::nullopt) << "guards leave it readable";
  EXPECT_EQ(hidden("/home/u/p"), std::nullopt);
}

}  // namespace
}  // namespace fbroker::policy
