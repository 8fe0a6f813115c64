// The compiled policy against a naive one that reads the same rules, on random
// rules and paths. The seed is in every message; FBROKER_SEED repeats it.
#include <gtest/gtest.h>
#include <re2/re2.h>

#include <cstdlib>
#include <random>

#include "policy/snapshot.h"

namespace fbroker::policy {
namespace {

using Names = std::vector<std::string>;

Names split(const std::string& path) {
  Names names;
  for (std::size_t at = path.front() == '/' ? 1 : 0; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    names.push_back(path.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

// ---- the naive policy

bool name_matches(const char* glob, const char* name) {
  if (*glob == '\0') return *name == '\0';
  if (*glob == '*') return name_matches(glob + 1, name) || (*name != '\0' && name_matches(glob, name + 1));
  if (*name == '\0') return false;
  if (*glob == '?') return name_matches(glob + 1, name + 1);
  if (*glob == '[') {
    const char* end = glob + 2;
    while (*end != ']') ++end;
    const bool negated = glob[1] == '!';
    bool in = false;
    for (const char* c = glob + (negated ? 2 : 1); c != end; ++c) in = in || *c == *name;
    return in != negated && name_matches(end + 1, name + 1);
  }
  return *glob == *name && name_matches(glob + 1, name + 1);
}

// Whether the pattern matches the path or a directory above it.
bool path_matches(std::span<const std::string> glob, std::span<const std::string> path) {
  if (glob.empty()) return true;
  if (glob[0] == "**")
    return path_matches(glob.subspan(1), path) ||
           (!path.empty() && path_matches(glob, path.subspan(1)));
  return !path.empty() && name_matches(glob[0].c_str(), path[0].c_str()) &&
         path_matches(glob.subspan(1), path.subspan(1));
}

bool any_matches(const std::vector<std::string>& globs, const std::string& path) {
  return std::ranges::any_of(
      globs, [&](const std::string& glob) { return path_matches(split(glob), split(path)); });
}

bool expression_matches(const std::string& text, const std::string& path, bool below) {
  const RE2 re(text, RE2::Latin1);
  if (RE2::FullMatch(path, re)) return true;
  for (std::size_t slash = path.find('/', 1); below && slash != path.npos; slash = path.find('/', slash + 1))
    if (RE2::FullMatch(path.substr(0, slash), re)) return true;
  return below && RE2::FullMatch("/", re);
}

bool rule_holds(const Rule& rule, const std::string& path, Operation op, Facts facts) {
  if (!rule.operations.has(op)) return false;
  if (rule.unless_created && facts.created_by_session) return false;
  if (any_matches(rule.except, path)) return false;
  for (const auto& except : rule.match_except)
    if (expression_matches(except, path, true)) return false;
  return any_matches(rule.paths, path) ||
         (rule.match && expression_matches(*rule.match, path, rule.effect != Effect::allow));
}

bool below(const std::string& path, const std::string& at) {
  return at == "/" || path == at || path.starts_with(at + "/");
}

Effect naive(const SnapshotInput& input, const std::string& path, Operation op, Facts facts) {
  bool deny = false, ask = false, allow = false;
  for (const Rule& rule : input.rules) {
    if (!rule_holds(rule, path, op, facts)) continue;
    (rule.effect == Effect::deny ? deny : rule.effect == Effect::ask ? ask : allow) = true;
  }
  std::uint64_t denied = 0, granted = 0, overridden = 0;
  for (const Grant& grant : input.grants) {
    if (!below(path, grant.path.bytes()) || !grant.operations.has(op)) continue;
    if (grant.effect == Effect::deny) denied = std::max(denied, grant.order);
    else granted = std::max(granted, grant.order);
    if (grant.effect == Effect::allow && grant.override_deny)
      overridden = std::max(overridden, grant.order);
  }
  if (deny) return overridden > denied ? Effect::allow : Effect::deny;
  if (granted > denied) return Effect::allow;
  if (denied > 0) return Effect::deny;
  return ask ? Effect::ask : allow ? Effect::allow : Effect::deny;
}

// ---- random rules and paths over few names, so that they meet

class RandomPolicy : public testing::TestWithParam<int> {
 protected:
  RandomPolicy() {
    const char* given = std::getenv("FBROKER_SEED");
    seed_ = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : std::random_device()();
    seed_ += static_cast<unsigned>(GetParam());
    random_.seed(seed_);
  }

  std::size_t roll(std::size_t sides) { return random_() % sides; }
  template <class T>
  const T& pick(const std::vector<T>& from) { return from[roll(from.size())]; }

  std::string pattern() {
    static const Names parts{"a", "b", "ab", ".c", "*", "**", "a*", "*b", "?", "[ab]*", "[!a]", "*.c"};
    std::string out;
    for (std::size_t i = 0, n = roll(4); i <= n; ++i) out += "/" + pick(parts);
    return out;
  }
  std::string path(std::size_t longest = 4) {
    static const Names names{"a", "b", "ab", ".c", "a.c"};
    std::string out;
    for (std::size_t i = 0, n = roll(longest + 1); i < n; ++i) out += "/" + pick(names);
    return out.empty() ? "/" : out;
  }
  OperationSet operations() {
    OperationSet set;
    for (std::size_t op = 0; op < kOperations; ++op)
      if (roll(2) == 0) set.add(static_cast<Operation>(op));
    return set;
  }

  Rule rule(bool with_match) {
    static const Names expressions{"/a/.*", "/b", "/a/b.*", ".*c", "/ab/[ab]", "/(a|b)", "^/a$"};
    Rule rule;
    rule.id = "r";
    rule.effect = static_cast<Effect>(roll(5) < 3 ? 2 : roll(2));
    rule.operations = operations();
    if (with_match && roll(3) == 0) rule.match = pick(expressions);
    else
      for (std::size_t i = 0; i <= roll(2); ++i) rule.paths.push_back(pattern());
    if (roll(4) == 0) rule.except.push_back(pick(excepts_));
    if (rule.match && roll(4) == 0) rule.match_except.push_back(pick(expressions));
    rule.unless_created = rule.effect == Effect::deny && roll(4) == 0;
    return rule;
  }

  SnapshotInput input() {
    SnapshotInput input;
    const bool with_match = roll(2) == 0;
    excepts_ = {pattern(), pattern()};
    for (std::size_t i = 0, n = 1 + roll(6); i < n; ++i) input.rules.push_back(rule(with_match));
    for (std::size_t i = 0, n = roll(4); i < n; ++i) {
      Grant grant;
      grant.id = "g";
      grant.effect = roll(2) == 0 ? Effect::allow : Effect::deny;
      grant.path = *WorkspacePath::parse(path(3));
      grant.operations = operations();
      grant.override_deny = roll(2) == 0;
      grant.order = i + 1;
      input.grants.push_back(grant);
    }
    return input;
  }

  std::string describe(const SnapshotInput& input) const {
    std::string out = "seed " + std::to_string(seed_ - static_cast<unsigned>(GetParam())) + "\n";
    for (const Rule& rule : input.rules) {
      out += std::string(name_of(rule.effect)) + (rule.unless_created ? " guard " : " ") +
             std::to_string(rule.operations.bits());
      for (const auto& p : rule.paths) out += " " + p;
      if (rule.match) out += " match " + *rule.match;
      for (const auto& p : rule.except) out += " except " + p;
      for (const auto& p : rule.match_except) out += " match_except " + p;
      out += "\n";
    }
    for (const Grant& g : input.grants)
      out += "grant " + std::string(name_of(g.effect)) + " " + g.path.bytes() + " " +
             std::to_string(g.operations.bits()) + (g.override_deny ? " override\n" : "\n");
    return out;
  }

  unsigned seed_;
  std::mt19937 random_;
  Names excepts_;
};

const Facts kFacts[] = {Facts{false}, Facts{true}};

TEST_P(RandomPolicy, DecidesAsTheNaiveOneDoes) {
  for (int round = 0; round < 60; ++round) {
    const SnapshotInput rules = input();
    const auto snapshot = Snapshot::compile(rules);
    ASSERT_TRUE(snapshot) << snapshot.error().text();
    for (int i = 0; i < 40; ++i) {
      const std::string at = path();
      for (const Facts facts : kFacts) {
        const PathDecision decision = (*snapshot)->decide(*WorkspacePath::parse(at), facts);
        for (std::size_t op = 0; op < kOperations; ++op) {
          const auto operation = static_cast<Operation>(op);
          const auto& entry = decision.of(operation);
          ASSERT_EQ(entry.effect, naive(rules, at, operation, facts))
              << at << " " << name_of(operation) << "\n" << describe(rules);
          const bool lifted = naive(rules, at, operation, {true}) != Effect::deny;
          ASSERT_EQ(entry.guard, entry.effect == Effect::deny && lifted && !facts.created_by_session)
              << at << " " << name_of(operation) << "\n" << describe(rules);
        }
      }
    }
  }
}

TEST_P(RandomPolicy, OpensTheParentsOfWhatAGrantMakesVisible) {
  for (int round = 0; round < 60; ++round) {
    const SnapshotInput rules = input();
    const auto snapshot = Snapshot::compile(rules);
    ASSERT_TRUE(snapshot);
    for (const Grant& grant : rules.grants) {
      if (grant.effect == Effect::deny || !grant.operations.has(Operation::list)) continue;
      if (!(*snapshot)->decide(grant.path).allows(Operation::list)) continue;
      for (WorkspacePath at = grant.path; !at.is_root();) {
        at = at.parent();
        ASSERT_TRUE((*snapshot)->decide(at).visible()) << at.bytes() << "\n" << describe(rules);
      }
    }
  }
}

Names everything_below(std::size_t depth) {
  Names all{""};
  for (std::size_t from = 0; depth-- > 0;) {
    const std::size_t to = all.size();
    for (; from < to; ++from)
      for (const char* name : {"/a", "/b", "/ab", "/.c", "/a.c"}) all.push_back(all[from] + name);
  }
  return all;
}

std::string joined(const std::string& directory, const std::string& below) {
  if (directory != "/") return directory + below;
  return below.empty() ? "/" : below;
}

// INVARIANT under test: where a rename is let through, nothing at or below the
// new place is allowed that was not at the old one.
TEST_P(RandomPolicy, ARenameThatIsLetThroughWidensNothing) {
  const Names suffixes = everything_below(3);
  int let_through = 0;
  for (int round = 0; round < 60; ++round) {
    const SnapshotInput rules = input();
    const auto snapshot = Snapshot::compile(rules);
    ASSERT_TRUE(snapshot);
    for (int i = 0; i < 8; ++i) {
      const std::string from = path(2), to = path(2);
      const Facts from_facts{roll(2) == 0}, to_facts{roll(2) == 0};
      if ((*snapshot)->would_widen(*WorkspacePath::parse(from), *WorkspacePath::parse(to), true, from_facts, to_facts))
        continue;
      ++let_through;
      for (const std::string& suffix : suffixes) {
        for (const bool item_created : {false, true}) {
          const Facts before{from_facts.created_by_session || item_created};
          const Facts after{to_facts.created_by_session || item_created};
          const auto old_place = (*snapshot)->decide(*WorkspacePath::parse(joined(from, suffix)), before);
          const auto new_place = (*snapshot)->decide(*WorkspacePath::parse(joined(to, suffix)), after);
          for (std::size_t op = 0; op < kOperations; ++op) {
            const auto operation = static_cast<Operation>(op);
            // A single created item below a place is judged at the place itself alone.
            if (suffix.empty() && item_created) continue;
            ASSERT_FALSE(new_place.allows(operation) && !old_place.allows(operation))
                << from << " -> " << to << " + " << suffix << " " << name_of(operation) << "\n"
                << describe(rules);
          }
        }
      }
    }
  }
  EXPECT_GT(let_through, 0) << "everything was refused: nothing was tested";
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomPolicy, testing::Range(0, 8));

}  // namespace
}  // namespace fbroker::policy
