#include "policy/lint.h"

#include <algorithm>
#include <span>

#include "policy/base_rules.h"
#include "policy/glob.h"
#include "policy/words.h"

namespace fbroker::policy {
namespace {

using Components = std::span<const GlobComponent>;
using Kind = GlobComponent::Kind;
using Level = Finding::Level;

bool is_base(const Rule& rule) { return rule.id.starts_with("base:"); }

bool may_be_same_name(const GlobComponent& a, const GlobComponent& b) {
  if (a.kind == Kind::literal) return b.matches(a.text);
  if (b.kind == Kind::literal) return a.matches(b.text);
  return true;  // two wildcards: perhaps
}

// Whether some path can lie at or below what both match. True when in doubt.
bool may_meet(Components a, Components b) {
  if (a.empty() || b.empty()) return true;
  // "**" can stand for whatever the other still asks for.
  if (a.front().kind == Kind::tree || b.front().kind == Kind::tree) return true;
  return may_be_same_name(a.front(), b.front()) && may_meet(a.subspan(1), b.subspan(1));
}

// Whether everything at or below `inner` is at or below `outer`. False when in doubt.
bool covers(const Glob& outer, const Glob& inner) {
  if (!outer.is_literal() || inner.components.size() < outer.components.size()) return false;
  for (std::size_t i = 0; i < outer.components.size(); ++i) {
    const GlobComponent& name = inner.components[i];
    if (name.kind != Kind::literal || name.text != outer.components[i].text) return false;
  }
  return true;
}

std::vector<Glob> globs(const std::vector<std::string>& patterns) {
  std::vector<Glob> out;
  for (const std::string& pattern : patterns)
    if (auto glob = parse_glob(pattern)) out.push_back(std::move(*glob));
  return out;
}

bool all_covered(const Rule& outer, const Rule& inner) {
  const auto outers = globs(outer.paths);
  return std::ranges::all_of(globs(inner.paths), [&](const Glob& glob) {
    return std::ranges::any_of(outers, [&](const Glob& o) { return covers(o, glob); });
  });
}

class Linter {
 public:
  explicit Linter(const Policy& policy) : policy_(policy) {}

  std::vector<Finding> run() {
    exports();
    for (const Rule& rule : policy_.rules) {
      if (!is_base(rule)) overruled(rule);
      excepts(rule);
      excepts_everything(rule);
      agents_spelling(rule);
      if (rule.match) unanchored(rule);
    }
    nothing_allowed();
    base_off();
    network();
    durability();
    return std::move(found_);
  }

 private:
  void add(Level level, std::string rule, std::string message) {
    found_.push_back({level, std::move(rule), std::move(message)});
  }

  void exports() {
    for (const Export& inner : policy_.exports)
      for (const Export& outer : policy_.exports)
        if (inner.at != outer.at && inner.at.is_at_or_below(outer.at) && !outer.at.is_root())
          add(Level::warning, "exports",
              in_quotes(inner.at.bytes()) + " hides what " + in_quotes(outer.at.bytes()) +
                  " has at that place");
    const auto snapshot = Snapshot::compile({policy_.rules, {}, 1});
    if (!snapshot) {
      add(Level::warning, "rules", snapshot.error().text());
      return;
    }
    for (const Export& e : policy_.exports)
      if (!(*snapshot)->decide(e.at).visible())
        add(Level::warning, "exports",
            "nothing of " + in_quotes(e.at.bytes()) + " is visible: no rule allows it");
  }

  // A rule that another one makes pointless, for the operations and the places it names.
  void overruled(const Rule& rule) {
    if (rule.paths.empty()) return;
    for (const Rule& other : policy_.rules) {
      if (&other == &rule || other.unless_created || other.paths.empty()) continue;
      if (!other.except.empty() || !other.match_except.empty()) continue;
      if (!other.operations.has_all(rule.operations) || !all_covered(other, rule)) continue;
      if (other.effect < rule.effect) {
        add(Level::warning, rule.id, "never takes effect: " + other.id + " overrules all of it");
        return;
      }
      // Of two equal rules the later one is the one too many.
      const bool equal = all_covered(rule, other) && rule.operations.has_all(other.operations) &&
                         rule.except.empty();
      if (other.effect == rule.effect && (!equal || &other < &rule)) {
        add(Level::note, rule.id, "adds nothing: " + other.id + " says it already");
        return;
      }
    }
  }

  void excepts(const Rule& rule) {
    if (rule.paths.empty()) return;
    const auto paths = globs(rule.paths);
    for (const std::string& pattern : rule.except) {
      const auto except = parse_glob(pattern);
      if (!except) continue;
      const bool meets = std::ranges::any_of(
          paths, [&](const Glob& path) { return may_meet(path.components, except->components); });
      if (!meets)
        add(Level::warning, rule.id,
            "the exception " + in_quotes(pattern) + " covers nothing that the rule is about");
    }
  }

  // Together with what the rule is about nothing is left.
  void excepts_everything(const Rule& rule) {
    const auto excepts = globs(rule.except);
    const auto is_lifted = [&](const std::string& pattern) {
      const auto glob = parse_glob(pattern);
      return std::ranges::find(rule.except, pattern) != rule.except.end() ||
             (glob && std::ranges::any_of(excepts, [&](const Glob& except) { return covers(except, *glob); }));
    };
    const auto is_root = [](const Glob& except) { return except.components.empty(); };
    const bool all = rule.match ? std::ranges::any_of(excepts, is_root)
                                : !rule.paths.empty() && std::ranges::all_of(rule.paths, is_lifted);
    if (all && !excepts.empty())
      add(Level::warning, rule.id, "never holds: its exceptions cover all that it is about");
  }

  // Inside the sandbox the workspace lies at /workspace; a policy speaks of what
  // is below. A rule that hides "/workspace/secret" would hide nothing.
  void agents_spelling(const Rule& rule) {
    constexpr std::string_view kInside = "/workspace";
    const auto shows = [&](const Export& e) { return !e.at.is_root() && e.at.bytes().starts_with(kInside); };
    if (std::ranges::any_of(policy_.exports, shows)) return;   // there is one of that name
    const auto look = [&](const std::string& pattern) {
      if (pattern != kInside && !pattern.starts_with(std::string(kInside) + "/")) return;
      const std::string meant = pattern == kInside ? "/" : pattern.substr(kInside.size());
      add(Level::warning, rule.id,
          in_quotes(pattern) + " is how the agent spells it; in a policy it is " + in_quotes(meant));
    };
    for (const std::string& pattern : rule.paths) look(pattern);
    for (const std::string& pattern : rule.except) look(pattern);
    if (rule.match && (rule.match->starts_with("/workspace/") || rule.match->starts_with("^/workspace/")))
      add(Level::warning, rule.id, in_quotes(*rule.match) + " begins with /workspace, as the agent spells it; in a policy paths begin behind that");
  }

  // Paths start with "/" and the whole path is matched.
  void unanchored(const Rule& rule) {
    std::string_view text = *rule.match;
    for (const std::string_view start : {"(?i)", "(?s)", "^", "\\A"})
      if (text.starts_with(start)) text.remove_prefix(start.size());
    if (text.empty() || std::string_view("/.([\\").find(text.front()) != text.npos) return;
    add(Level::warning, rule.id,
        "never matches: the expression is matched against the whole path, which starts with \"/\"; "
        "for anywhere write \".*" + std::string(text) + "\"");
  }

  void nothing_allowed() {
    const auto allows = [](const Rule& rule) { return rule.effect == Effect::allow; };
    if (std::ranges::none_of(policy_.rules, allows))
      add(Level::warning, "rules", "nothing is allowed: everything waits for a grant");
  }

  void base_off() {
    for (const std::string_view id : base_ids()) {
      const std::string name = "base:" + std::string(id);
      const auto is = [&](const Rule& rule) { return rule.id == name; };
      if (std::ranges::none_of(policy_.rules, is))
        add(Level::note, "base", name + " is switched off");
    }
  }

  void network() {
    for (const HostRule& rule : policy_.network) {
      for (const HostRule& other : policy_.network)
        if (&other != &rule && !other.instead && !rule.instead && other.pattern.covers(rule.pattern) &&
            other.tls == rule.tls && (!rule.pattern.covers(other.pattern) || &other < &rule)) {
          add(Level::note, rule.id, "adds nothing: " + other.id + " allows " + in_quotes(rule.pattern.text()) + " already");
          break;
        }
      if (rule.tls == TlsCheck::off && !rule.instead)
        add(Level::note, rule.id, "\"tls\": \"off\" lets any bytes pass, to whatever " +
                                      in_quotes(rule.pattern.text()) + " resolves to");
    }
  }

  void durability() {
    if (policy_.durability == Durability::strict)
      add(Level::note, "durability",
          "\"strict\": every open and change waits for the disk; only a power loss needs that");
  }

  const Policy& policy_;
  std::vector<Finding> found_;
};

}  // namespace

std::vector<Finding> lint(const Policy& policy) { return Linter(policy).run(); }

std::vector<Hidden> hidden_files(const Snapshot& snapshot,
                                 const std::vector<WorkspacePath>& tracked) {
  std::vector<Hidden> hidden;
  for (const WorkspacePath& path : tracked) {
    const PathDecision decision = snapshot.decide(path);
    if (decision.allows(Operation::list)) continue;
    const Reason reason = snapshot.reason(decision.of(Operation::list).reason);
    hidden.push_back({path, std::string(reason.id)});
  }
  return hidden;
}

}  // namespace fbroker::policy
