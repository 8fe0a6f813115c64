// Design section 4, sentence by sentence: each "allowed" beside its "refused".
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "policy/glob.h"
#include "policy/policy.h"
#include "policy/snapshot.h"

namespace fbroker::policy {
namespace {

using enum Operation;

WorkspacePath at(std::string_view path) {
  auto parsed = WorkspacePath::parse(path);
  EXPECT_TRUE(parsed) << path;
  return parsed ? *parsed : WorkspacePath();
}

Rule rule(Effect effect, std::string_view level, std::vector<std::string> paths,
          std::vector<std::string> except = {}) {
  Rule rule;
  rule.id = std::string(name_of(effect)) + ":" + (paths.empty() ? "" : paths[0]);
  rule.effect = effect;
  rule.operations = *level_of(effect, level);
  rule.paths = std::move(paths);
  rule.except = std::move(except);
  return rule;
}
Rule allow(std::string_view level, std::vector<std::string> paths, std::vector<std::string> except = {}) {
  return rule(Effect::allow, level, std::move(paths), std::move(except));
}
Rule deny(std::string_view level, std::vector<std::string> paths, std::vector<std::string> except = {}) {
  return rule(Effect::deny, level, std::move(paths), std::move(except));
}
Rule ask(std::string_view level, std::vector<std::string> paths) {
  return rule(Effect::ask, level, std::move(paths));
}
Rule match(Effect effect, std::string_view level, std::string expression) {
  Rule made = rule(effect, level, {});
  made.id = "match";
  made.match = std::move(expression);
  return made;
}
Grant grant(std::string path, std::uint64_t order, OperationSet operations = *level_of(Effect::allow, "read")) {
  Grant made;
  made.id = "g" + std::to_string(order);
  made.path = at(path);
  made.order = order;
  made.operations = operations;
  return made;
}
Grant override_grant(std::string path, std::uint64_t order) {
  Grant made = grant(std::move(path), order);
  made.override_deny = true;
  return made;
}
Grant session_deny(std::string path, std::uint64_t order) {
  Grant made = grant(std::move(path), order, OperationSet::all());
  made.id = "r" + std::to_string(order);
  made.effect = Effect::deny;
  return made;
}

std::shared_ptr<const Snapshot> compile(std::vector<Rule> rules, std::vector<Grant> grants = {}) {
  auto made = Snapshot::compile({std::move(rules), std::move(grants), 1});
  EXPECT_TRUE(made) << (made ? "" : made.error().text());
  return made ? *made : nullptr;
}

bool allows(const std::shared_ptr<const Snapshot>& policy, std::string_view path, Operation op) {
  return policy->decide(at(path)).allows(op);
}
Effect effect(const std::shared_ptr<const Snapshot>& policy, std::string_view path, Operation op) {
  return policy->decide(at(path)).of(op).effect;
}
std::string by(const std::shared_ptr<const Snapshot>& policy, std::string_view path, Operation op) {
  return std::string(policy->reason(policy->decide(at(path)).of(op).reason).id);
}

// ---- levels and order

struct LevelCase {
  Effect effect;
  const char* level;
  OperationSet operations;
};
class PolicyLevel : public testing::TestWithParam<LevelCase> {};
TEST_P(PolicyLevel, MeansItsOperationsAndNoOthers) {
  const auto& [effect_of, level, operations] = GetParam();
  std::vector<Rule> rules{rule(effect_of, level, {"/x"})};
  if (effect_of != Effect::allow) {
    rules.push_back(allow("write", {"/"}));
  }
  const auto policy = compile(rules);
  for (std::size_t op = 0; op < kOperations; ++op) {
    const auto operation = static_cast<Operation>(op);
    const Effect otherwise = effect_of == Effect::allow ? Effect::deny : Effect::allow;
    EXPECT_EQ(effect(policy, "/x", operation), operations.has(operation) ? effect_of : otherwise)
        << level << " " << name_of(operation);
  }
}
INSTANTIATE_TEST_SUITE_P(
    , PolicyLevel,
    testing::Values(LevelCase{Effect::allow, "list", {list}},
                    LevelCase{Effect::allow, "read", {list, read, execute}},
                    LevelCase{Effect::allow, "write", OperationSet::all()},
                    LevelCase{Effect::deny, "read", {read, execute}},
                    LevelCase{Effect::deny, "write", {write, create, delete_}},
                    LevelCase{Effect::deny, "all", OperationSet::all()},
                    LevelCase{Effect::ask, "read", {read, execute}},
                    LevelCase{Effect::ask, "write", {write, create, delete_}},
                    LevelCase{Effect::ask, "all", OperationSet::all()}));

TEST(PolicyOrder, NothingIsAllowedWithoutARule) {
  const auto policy = compile({});
  EXPECT_FALSE(allows(policy, "/", list));
  EXPECT_FALSE(policy->decide(at("/")).visible());
  EXPECT_EQ(by(policy, "/a", read), "default");
}

TEST(PolicyOrder, DenyWinsThenAskThenAllowInWhateverOrder) {
  std::vector<Rule> rules{allow("write", {"/"}), ask("write", {"/b", "/a"}), deny("write", {"/a"})};
  for (int turn = 0; turn < 3; ++turn) {
    const auto policy = compile(rules);
    EXPECT_EQ(effect(policy, "/a", write), Effect::deny);
    EXPECT_EQ(effect(policy, "/b", write), Effect::ask);
    EXPECT_EQ(effect(policy, "/c", write), Effect::allow);
    EXPECT_EQ(by(policy, "/a", write), "deny:/a");
    EXPECT_EQ(by(policy, "/b", write), "ask:/b");
    EXPECT_EQ(by(policy, "/c", write), "allow:/");
    std::rotate(rules.begin(), rules.begin() + 1, rules.end());
  }
}

// ---- patterns

struct PatternCase {
  const char* pattern;
  std::vector<const char*> holds;
  std::vector<const char*> not_for;
};
class PolicyPattern : public testing::TestWithParam<PatternCase> {};
TEST_P(PolicyPattern, HoldsForThisAndNotForThat) {
  const auto& [pattern, holds, not_for] = GetParam();
  const auto policy = compile({allow("read", {pattern})});
  for (const char* path : holds) EXPECT_TRUE(allows(policy, path, read)) << pattern << " " << path;
  for (const char* path : not_for) EXPECT_FALSE(allows(policy, path, read)) << pattern << " " << path;
}
INSTANTIATE_TEST_SUITE_P(
    , PolicyPattern,
    testing::Values(
        PatternCase{"/", {"/", "/a", "/a/b"}, {}},
        PatternCase{"/src", {"/src", "/src/a", "/src/a/b"}, {"/", "/srcs", "/src-evil", "/a/src"}},
        PatternCase{"/src/*.c", {"/src/a.c", "/src/.c", "/src/a.c/below"}, {"/src", "/src/a.h", "/src/x/a.c"}},
        PatternCase{"**/*.c", {"/a.c", "/x/a.c", "/x/y/a.c"}, {"/a.h", "/"}},
        PatternCase{"/**/a", {"/a", "/x/a", "/x/y/a/z"}, {"/x", "/ab"}},
        PatternCase{"/x/**/y", {"/x/y", "/x/a/y", "/x/a/b/y/c"}, {"/x", "/x/a", "/y", "/a/x/y"}},
        PatternCase{"/x/**", {"/x", "/x/a"}, {"/", "/y"}},
        PatternCase{"/*", {"/a", "/.hidden", "/a/b"}, {"/"}},
        PatternCase{"/a/*/b", {"/a/x/b"}, {"/a/b", "/a/x/y/b"}},
        PatternCase{"/?", {"/a", "/-"}, {"/", "/ab"}},
        PatternCase{"/[a-c]x", {"/ax", "/cx"}, {"/dx", "/x", "/-x"}},
        PatternCase{"/[!a]", {"/b", "/\xff"}, {"/a"}},
        PatternCase{"/[]]", {"/]"}, {"/["}},
        PatternCase{"/[*]", {"/*"}, {"/a", "/["}},
        PatternCase{"/[\\]", {"/\\"}, {"/a"}},
        PatternCase{"/a*b*c", {"/abc", "/aXbYc", "/abbcc"}, {"/ab", "/acb"}},
        PatternCase{"**/.env.*", {"/.env.x", "/a/.env."}, {"/.env", "/xenv.a"}}),
    [](const auto& c) { return "p" + std::to_string(c.index); });

class PolicyPatternRefused : public testing::TestWithParam<const char*> {};
TEST_P(PolicyPatternRefused, WithWordsThatHelp) {
  const auto glob = parse_glob(GetParam());
  ASSERT_FALSE(glob) << GetParam();
  EXPECT_GT(glob.error().what.size(), 10u);
  EXPECT_FALSE(Snapshot::compile({{allow("read", {GetParam()})}, {}, 1}));
}
INSTANTIATE_TEST_SUITE_P(, PolicyPatternRefused,
                         testing::Values("", "src", "*.c", "./src", "../x", "~/x", "!/a", "**", "/a//b",
                                         "/a/", "/a/./b", "/a/../b", "/a**", "/**b/c", "/{a,b}", "/[a",
                                         "/[z-a]", "/a\\*", "/[[:alpha:]]"),
                         [](const auto& c) { return "p" + std::to_string(c.index); });

TEST(PolicyPatterns, AnUnanchoredPatternSuggestsBothSpellings) {
  const auto glob = parse_glob("src/x");
  ASSERT_FALSE(glob);
  EXPECT_NE(glob.error().what.find("\"/src/x\""), std::string::npos) << glob.error().what;
  EXPECT_NE(glob.error().what.find("\"**/src/x\""), std::string::npos) << glob.error().what;
}

TEST(PolicyPatterns, DenyAndAskHoldForEverythingBelow) {
  const auto policy = compile({allow("write", {"/"}), deny("all", {"**/*.d"}), ask("read", {"/q?"})});
  EXPECT_FALSE(allows(policy, "/x.d/deep/er", list));
  EXPECT_EQ(effect(policy, "/qq/deep", read), Effect::ask);
  EXPECT_TRUE(allows(policy, "/x.c/deep", list));
}

TEST(PolicyPatterns, AnExceptionHoldsForWhatItMatchesAndBelow) {
  const auto policy = compile({allow("read", {"/"}), deny("all", {"**/*.pem"}, {"/tests/**", "/one.pem"})});
  EXPECT_FALSE(allows(policy, "/a.pem", read));
  EXPECT_FALSE(allows(policy, "/src/a.pem", read));
  EXPECT_TRUE(allows(policy, "/tests/x/a.pem", read));
  EXPECT_TRUE(allows(policy, "/one.pem", read));
  EXPECT_TRUE(allows(policy, "/one.pem/b.pem", read));
}

TEST(PolicyPatterns, AnExceptionOfOneRuleLiftsNoOther) {
  const auto policy = compile({allow("read", {"/"}), deny("read", {"/k"}, {"/k/a"}), deny("read", {"/k/a/b"})});
  EXPECT_TRUE(allows(policy, "/k/a", read));
  EXPECT_FALSE(allows(policy, "/k/a/b", read));
}

// Names are bytes: every one of them meets the same decision in a glob and in a match.
TEST(PolicyBytes, EveryByteInANameMatchesInGlobsAndInExpressionsAlike) {
  const auto globs = compile({allow("read", {"/"}), deny("all", {"/x?y", "/p*q"})});
  const auto expressions = compile({allow("read", {"/"}), match(Effect::deny, "all", "/x.y|/p.*q")});
  for (int byte = 1; byte < 256; ++byte) {
    if (byte == '/') continue;
    for (const auto& [shape, hidden] : {std::pair{"/x@y", true}, std::pair{"/p@q", true},
                                        std::pair{"/x@y/below", true}, std::pair{"/p@@q", true},
                                        std::pair{"/x@", false}, std::pair{"/@y", false}}) {
      std::string path = shape;
      for (char& c : path)
        if (c == '@') c = static_cast<char>(byte);
      EXPECT_EQ(!allows(globs, path, list), hidden) << byte << " " << shape;
      EXPECT_EQ(!allows(expressions, path, list), hidden) << byte << " " << shape;
    }
  }
}

TEST(PolicyBytes, ALiteralPatternMatchesItsOwnBytesOnly) {
  for (int byte = 1; byte < 256; ++byte) {
    if (std::string_view("/*?[{}\\.").find(static_cast<char>(byte)) != std::string_view::npos) continue;
    const std::string name = std::string("/n") + static_cast<char>(byte);
    const auto policy = compile({allow("read", {name})});
    EXPECT_TRUE(allows(policy, name, read)) << byte;
    EXPECT_FALSE(allows(policy, name + "x", read)) << byte;
    EXPECT_FALSE(allows(policy, "/n", read)) << byte;
  }
}

// ---- match

TEST(PolicyMatch, IsOverTheWholePath) {
  const auto policy = compile({match(Effect::allow, "read", "/a/[0-9]+")});
  EXPECT_TRUE(allows(policy, "/a/12", read));
  for (const char* path : {"/a/12x", "/a/12/b", "/x/a/12", "/a"}) EXPECT_FALSE(allows(policy, path, read)) << path;
}

TEST(PolicyMatch, DenyHoldsBelowWhetherOrNotAnchorsAreWritten) {
  for (const char* expression : {"/s", "^/s$", "^/s\\z", "(/s|/t)"}) {
    const auto policy = compile({allow("read", {"/"}), match(Effect::deny, "all", expression)});
    EXPECT_FALSE(allows(policy, "/s", read)) << expression;
    EXPECT_FALSE(allows(policy, "/s/deep/er", read)) << expression;
    EXPECT_TRUE(allows(policy, "/sx", read)) << expression;
    EXPECT_TRUE(allows(policy, "/s-x/y", read)) << expression;
  }
}

TEST(PolicyMatch, DenyOfTheRootDeniesEverything) {
  const auto policy = compile({allow("read", {"/"}), match(Effect::deny, "all", "/")});
  EXPECT_FALSE(allows(policy, "/a/b", read));
}

TEST(PolicyMatch, WhatCouldBeReadInTwoWaysIsRefused) {
  for (const char* expression : {"(?:/a$|/b)", "/a\\Qx", "(", "/a{2000}", "(?:/a)?"})
    EXPECT_FALSE(Snapshot::compile({{match(Effect::deny, "all", expression)}, {}, 1})) << expression;
}

TEST(PolicyMatch, NeverOpensParents) {
  const auto policy = compile({match(Effect::allow, "read", "/a/b")});
  EXPECT_TRUE(allows(policy, "/a/b", read));
  EXPECT_FALSE(policy->decide(at("/a")).visible());
}

// ATTACK: the agent's paths drive the automaton into more states than fit.
TEST(PolicyMatch, APathThatExhaustsTheAutomatonIsAnsweredRightlyOrDenied) {
  const auto policy = compile({allow("write", {"/"}), match(Effect::deny, "all", "/never.*(a|b)[^x]{600}c"),
                               match(Effect::deny, "all", "/never2.*(b|c)[^y]{600}d")});
  std::mt19937 random(3);
  for (int i = 0; i < 50; ++i) {
    std::string path;
    while (path.size() < 4000) path += "/" + std::string(1, static_cast<char>('a' + random() % 4)) + "b";
    const PathDecision decision = policy->decide(at(path));
    // Either the answer is right (nothing denies it) or it is the error's.
    if (!decision.allows(read)) {
      EXPECT_EQ(policy->reason(decision.of(read).reason).id, "match-error");
    }
  }
}

// ---- what can be seen

TEST(PolicyVisible, DirectoriesThatLeadToAnAllowedPathOnlyLead) {
  const auto policy = compile({allow("read", {"/a/b/c"})});
  for (const char* path : {"/", "/a", "/a/b"}) {
    EXPECT_TRUE(policy->decide(at(path)).leads_to_visible) << path;
    EXPECT_FALSE(allows(policy, path, list)) << path;
  }
  for (const char* path : {"/x", "/a/x", "/a/b/x"}) EXPECT_FALSE(policy->decide(at(path)).visible()) << path;
}

TEST(PolicyVisible, WildcardsOpenWhatTheyCanPassThrough) {
  const auto policy = compile({allow("read", {"/x/**/y", "/src/*.c"})});
  for (const char* path : {"/", "/x", "/x/any/where", "/src"}) EXPECT_TRUE(policy->decide(at(path)).leads_to_visible) << path;
  for (const char* path : {"/z", "/src/sub"}) EXPECT_FALSE(policy->decide(at(path)).visible()) << path;
}

TEST(PolicyVisible, OnlyADirectoryLeadsOn) {
  const PathDecision other = compile({allow("read", {"**/*.md"})})->decide(at("/src/main.c"));
  EXPECT_TRUE(other.visible_as(true));
  EXPECT_FALSE(other.visible_as(false));
}

TEST(PolicyVisible, AHiddenDirectoryStaysHiddenWhateverIsAllowedBelow) {
  const auto policy = compile({deny("all", {"/s"}), allow("read", {"/s/x", "/s/*/z", "/t"})});
  EXPECT_FALSE(policy->decide(at("/s")).visible());
  EXPECT_FALSE(policy->decide(at("/s/x")).visible());
  EXPECT_TRUE(policy->decide(at("/")).leads_to_visible);
}

TEST(PolicyVisible, AnExceptionByNameOpensItsParents) {
  const auto policy = compile({allow("read", {"/"}), deny("all", {"**/.ssh"}, {"/h/.ssh/config"})});
  EXPECT_TRUE(policy->decide(at("/h/.ssh")).leads_to_visible);
  EXPECT_FALSE(allows(policy, "/h/.ssh/id", list));
  EXPECT_FALSE(policy->decide(at("/other/.ssh")).visible());
}

// ---- grants and session denies

TEST(PolicyGrant, LiftsAskAndTheDefaultButNoDeny) {
  const auto policy = compile({ask("read", {"/q"}), deny("read", {"/d"})},
                              {grant("/q", 1), grant("/d", 2), grant("/n", 3)});
  EXPECT_EQ(by(policy, "/q/x", read), "g1");
  EXPECT_TRUE(allows(policy, "/n", read));
  EXPECT_FALSE(allows(policy, "/n", write));
  EXPECT_FALSE(allows(policy, "/d", read));
  EXPECT_EQ(by(policy, "/d", read), "deny:/d");
}

TEST(PolicyGrant, LiftsADenyOnlyWithOverride) {
  const std::vector<Rule> rules{allow("read", {"/"}), deny("all", {"**/.env"})};
  EXPECT_FALSE(allows(compile(rules, {grant("/.env", 1)}), "/.env", read));
  EXPECT_TRUE(allows(compile(rules, {override_grant("/.env", 1)}), "/.env", read));
}

TEST(PolicyGrant, OpensItsParents) {
  const auto policy = compile({deny("all", {"/s"})}, {override_grant("/s/deep/file", 1)});
  for (const char* path : {"/", "/s", "/s/deep"}) EXPECT_TRUE(policy->decide(at(path)).leads_to_visible) << path;
  EXPECT_FALSE(policy->decide(at("/s/other")).visible());
  EXPECT_FALSE(compile({deny("all", {"/s"})}, {grant("/s/deep/file", 1)})->decide(at("/s")).visible());
}

TEST(PolicyGrant, TheNewestSessionDenyBeatsEverythingOlder) {
  const std::vector<Rule> rules{allow("write", {"/"})};
  const auto policy = compile(rules, {grant("/a", 1), session_deny("/a", 2)});
  EXPECT_FALSE(policy->decide(at("/a/x")).visible());
  EXPECT_EQ(by(policy, "/a/x", read), "r2");
  EXPECT_TRUE(allows(policy, "/ab", write));
  EXPECT_FALSE(allows(compile(rules, {override_grant("/a", 1), session_deny("/a", 2)}), "/a", read));
}

TEST(PolicyGrant, AGrantNewerThanTheSessionDenyAllows) {
  const auto policy = compile({allow("write", {"/"})}, {session_deny("/a", 1), grant("/a/f", 2)});
  EXPECT_TRUE(allows(policy, "/a/f", read));
  EXPECT_FALSE(allows(policy, "/a/f", write));
  EXPECT_FALSE(allows(policy, "/a/g", read));
  EXPECT_TRUE(policy->decide(at("/a")).leads_to_visible);
}

// ---- guards

std::vector<Rule> guarded() {
  Rule guard = deny("write", {"**/.git/hooks"});
  guard.id = "base:git";
  guard.unless_created = true;
  return {allow("write", {"/"}), guard};
}

TEST(PolicyGuard, HoldsForWhatTheSessionDidNotCreate) {
  const auto policy = compile(guarded());
  const PathDecision theirs = policy->decide(at("/.git/hooks/pre-commit"), {false});
  EXPECT_FALSE(theirs.allows(write));
  EXPECT_TRUE(theirs.of(write).guard);
  EXPECT_TRUE(theirs.allows(read));
  const PathDecision own = policy->decide(at("/.git/hooks/pre-commit"), {true});
  EXPECT_TRUE(own.allows(write));
  EXPECT_FALSE(own.of(write).guard);
}

TEST(PolicyGuard, IsNamedAsOneOnlyWhereItAloneDenies) {
  auto rules = guarded();
  rules.push_back(deny("write", {"/.git"}));
  EXPECT_FALSE(compile(rules)->decide(at("/.git/hooks/x")).of(write).guard);
  EXPECT_FALSE(compile(rules)->decide(at("/.git/hooks/x"), {true}).allows(write));
  EXPECT_FALSE(compile({guarded()[1]})->decide(at("/.git/hooks/x")).of(write).guard);
}

// ---- renames

struct RenameCase {
  const char* name;
  const char* from;
  const char* to;
  bool directory;
  bool widens;
};
class PolicyRename : public testing::TestWithParam<RenameCase> {};
TEST_P(PolicyRename, IsRefusedWhereItWouldWiden) {
  const auto& c = GetParam();
  auto rules = guarded();
  for (Rule more : {deny("all", {"**/.env"}), deny("write", {"/frozen"}), deny("read", {"/a/secret"}),
                    allow("list", {"/l"}), match(Effect::deny, "write", "/m/[0-9].*")})
    rules.push_back(std::move(more));
  EXPECT_EQ(compile(rules)->would_widen(at(c.from), at(c.to), c.directory, {}, {}), c.widens);
}
INSTANTIATE_TEST_SUITE_P(
    , PolicyRename,
    testing::Values(RenameCase{"PlainFile", "/x", "/y", false, false},
                    RenameCase{"PlainDirectory", "/x", "/y", true, false},
                    RenameCase{"IntoASubdirectory", "/x", "/d/y", true, false},
                    RenameCase{"OutOfFrozen", "/frozen/x", "/x", false, true},
                    RenameCase{"IntoFrozen", "/x", "/frozen/x", false, false},
                    RenameCase{"SecretGetsAName", "/.env", "/env", false, true},
                    RenameCase{"DirectoryWithASecretBelow", "/a", "/b", true, true},
                    RenameCase{"OntoADirectoryWithASecretBelow", "/b", "/a", true, false},
                    RenameCase{"GuardedRepository", "/.git", "/git2", true, true},
                    RenameCase{"UnseenFolderUnderAGuard", "/git2", "/.git", true, true},
                    RenameCase{"DirectoryThatHoldsARepository", "/p", "/q", true, false},
                    RenameCase{"WhatAMatchCouldMeet", "/m", "/n", true, true},
                    RenameCase{"WhatNoMatchCanMeet", "/k", "/n", true, false},
                    RenameCase{"OntoWhatAMatchRestricts", "/n", "/m", true, false}),
    [](const auto& c) { return c.param.name; });

TEST(PolicyRenames, AnExceptionMetOnTheWayCounts) {
  const auto strict = compile({allow("read", {"/"}), deny("all", {"**/*.pem"}, {"/e"})});
  EXPECT_TRUE(strict->would_widen(at("/f"), at("/e"), true, {}, {}));
  EXPECT_FALSE(strict->would_widen(at("/e"), at("/f"), true, {}, {}));
  const auto wide = compile({allow("list", {"/"}), allow("read", {"**/*.md"}, {"/e"})});
  EXPECT_TRUE(wide->would_widen(at("/e"), at("/f"), true, {}, {}));
  EXPECT_FALSE(wide->would_widen(at("/f"), at("/e"), true, {}, {}));
}

// An allow by expression is for that path alone, and vouches for nothing below.
TEST(PolicyRenames, AnAllowByExpressionDoesNotHoldBelow) {
  const auto policy = compile({allow("read", {"/g"}), match(Effect::allow, "read", "/a")});
  EXPECT_TRUE(policy->would_widen(at("/a"), at("/g"), true, {}, {}));
  EXPECT_FALSE(policy->would_widen(at("/a"), at("/g"), false, {}, {}));
}

TEST(PolicyRenames, WhatCountsAsCreatedWouldLoseItsGuards) {
  const auto policy = compile(guarded());
  EXPECT_TRUE(policy->would_widen(at("/p"), at("/new/p"), true, {false}, {true}));
  EXPECT_FALSE(policy->would_widen(at("/p"), at("/new/p"), true, {true}, {true}));
  EXPECT_FALSE(policy->would_widen(at("/p"), at("/q"), true, {true}, {false}));
  EXPECT_FALSE(policy->would_widen(at("/f"), at("/new/f"), false, {false}, {true}));
}

TEST(PolicyCache, AKnownNodeIsDecidedAgainUnderANewGeneration) {
  const auto first = Snapshot::compile({{allow("read", {"/"})}, {}, 1});
  const auto second = Snapshot::compile({{}, {}, 2});
  ASSERT_TRUE(first && second);
  CachedDecision cached;
  EXPECT_TRUE(cached.get(**first, at("/a"), {}).allows(read));
  EXPECT_FALSE(cached.get(**second, at("/a"), {}).allows(read));
}

TEST(PolicyCost, TheDeepestPathUnderTenThousandRulesIsDecided) {
  std::vector<Rule> rules{allow("read", {"/"})};
  for (int i = 0; i < 10000; ++i) rules.push_back(deny("all", {"**/a" + std::to_string(i) + "/**/x"}));
  const auto policy = compile(std::move(rules));
  std::string path;
  for (int i = 0; path.size() < 4000; ++i) path += "/a" + std::to_string(i);
  EXPECT_TRUE(allows(policy, path, read));
  EXPECT_FALSE(allows(policy, path + "/x", read));
}

}  // namespace
}  // namespace fbroker::policy
