#include "policy/host_names.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string_view>

#include "policy/glob.h"
#include "policy/snapshot.h"

namespace fbroker::policy {
namespace {

using Kind = GlobComponent::Kind;

std::vector<std::string> names_of(std::string_view path) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    if (slash > at) names.emplace_back(path.substr(at, slash - at));
    at = slash + 1;
  }
  return names;
}

// How much of the pattern the host's names may have used up; size() = all of it.
std::set<std::size_t> used_up(const Glob& glob, const std::vector<std::string>& host) {
  const auto& parts = glob.components;
  std::set<std::size_t> at;
  const auto reach = [&](auto& set, std::size_t i) {
    while (set.insert(i).second && i < parts.size() && parts[i].kind == Kind::tree) ++i;
  };
  reach(at, 0);
  for (const std::string& name : host) {
    std::set<std::size_t> next;
    for (const std::size_t i : at) {
      // What it matches includes what lies below.
      if (i == parts.size() || parts[i].kind == Kind::tree) reach(next, i);
      else if (parts[i].matches(name)) reach(next, i + 1);
    }
    at = std::move(next);
  }
  return at;
}

// Patterns below `at` that say what `pattern` does, seen from the host's root.
std::vector<std::string> left_of(const std::string& pattern, const HostName& shown) {
  std::vector<std::string> left;
  const auto glob = parse_glob(pattern);
  if (!glob || glob->components.empty() || glob->components.front().kind != Kind::tree) return left;
  const std::vector<std::string> parts = names_of(pattern);   // as they are written
  const std::string place = shown.at.is_root() ? "" : literal_pattern(shown.at.bytes());
  for (const std::size_t used : used_up(*glob, names_of(shown.path))) {
    if (used <= 1) continue;   // nothing of it: the pattern itself says that
    std::string rest = place;
    for (std::size_t i = used; i < parts.size(); ++i) rest += "/" + parts[i];
    left.push_back(rest.empty() ? "/" : rest);
  }
  return left;
}

std::vector<std::string> left_of(const std::vector<std::string>& patterns, std::span<const HostName> exports) {
  std::vector<std::string> all;
  for (const HostName& shown : exports)
    for (const std::string& pattern : patterns)
      for (std::string& left : left_of(pattern, shown))
        if (std::ranges::find(all, left) == all.end()) all.push_back(std::move(left));
  return all;
}

std::string place_of(const WorkspacePath& at) { return at.is_root() ? "/" : literal_pattern(at.bytes()); }

bool is_base(const Rule& rule) { return rule.id.starts_with("base:"); }

}  // namespace

// A guard does not give way there to what the session makes: what lies inside a
// person's .git is no repository of the session's own. (It stays a guard beside
// that: no directory is renamed to come under one.)
Rule always(Rule guard) {
  guard.unless_created = false;
  return guard;
}

void add_host_names(std::vector<Rule>& rules, std::span<const HostName> exports) {
  std::vector<Rule> more;
  for (Rule& rule : rules) {
    if (!is_base(rule)) continue;
    const auto except = left_of(rule.except, exports);
    rule.except.insert(rule.except.end(), except.begin(), except.end());
    auto paths = left_of(rule.paths, exports);
    if (paths.empty()) continue;
    Rule left = rule;
    left.paths = std::move(paths);
    if (rule.unless_created) more.push_back(always(left));
    more.push_back(std::move(left));
  }
  rules.insert(rules.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

std::optional<std::string> hidden_whole(std::span<const Rule> rules, const WorkspacePath& at) {
  for (const Rule& rule : rules) {
    if (!is_base(rule) || !rule.operations.has(Operation::list)) continue;
    if (std::ranges::find(rule.paths, place_of(at)) == rule.paths.end()) continue;
    Rule everything;
    everything.id = "everything";
    everything.effect = Effect::allow;
    everything.operations = OperationSet::all();
    everything.paths = {"/"};
    const auto snapshot = Snapshot::compile({{rule, everything}, {}, 1});
    if (!snapshot || !(*snapshot)->decide(at).visible()) return rule.id;
  }
  return std::nullopt;
}

std::string literal_pattern(const std::string& path) {
  std::string pattern;
  for (const char c : path) {
    if (std::string_view("*?[\\{}").find(c) == std::string_view::npos) pattern += c;
    else pattern += std::string("[") + c + "]";
  }
  return pattern;
}

}  // namespace fbroker::policy
