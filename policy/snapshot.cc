#include "policy/snapshot.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "policy/glob.h"
#include "policy/match_set.h"
#include "policy/trie.h"

namespace fbroker::policy {
namespace {

using Operations = std::array<std::uint32_t, kOperations>;
constexpr std::uint32_t kNothing = std::numeric_limits<std::uint32_t>::max();

// What a rule can say of an operation. A guard is a deny that holds only for
// what the session did not create.
enum class Verdict : std::uint8_t { deny, guard, ask, allow };
constexpr std::size_t kVerdicts = 4;
using Verdicts = std::initializer_list<Verdict>;

Verdict verdict_of(const Rule& rule) {
  if (rule.effect == Effect::ask) return Verdict::ask;
  if (rule.effect == Effect::allow) return Verdict::allow;
  return rule.unless_created ? Verdict::guard : Verdict::deny;
}

// What many rules say together: per verdict and operation the first rule that
// says it (its reason index), or kNothing.
struct Tally {
  std::array<Operations, kVerdicts> first;

  Tally() {
    for (auto& row : first) row.fill(kNothing);
  }
  void add(Verdict verdict, OperationSet operations, std::uint32_t reason) {
    for (std::size_t op = 0; op < kOperations; ++op)
      if (operations.has(static_cast<Operation>(op))) lower(at(verdict)[op], reason);
  }
  void add(const Tally& other) {
    for (std::size_t verdict = 0; verdict < kVerdicts; ++verdict)
      for (std::size_t op = 0; op < kOperations; ++op)
        lower(first[verdict][op], other.first[verdict][op]);
  }
  bool says(Verdict verdict, std::size_t op) const { return at(verdict)[op] != kNothing; }
  bool says(Verdict verdict) const {
    return std::ranges::any_of(at(verdict), [](auto reason) { return reason != kNothing; });
  }
  bool restricts() const {
    return says(Verdict::deny) || says(Verdict::guard) || says(Verdict::ask);
  }
  Operations& at(Verdict verdict) { return first[static_cast<std::size_t>(verdict)]; }
  const Operations& at(Verdict verdict) const { return first[static_cast<std::size_t>(verdict)]; }

 private:
  static void lower(std::uint32_t& a, std::uint32_t b) { a = std::min(a, b); }
};

// The newest grant, override and session deny, per operation, as (order,
// reason); order 0 = none.
struct Live {
  struct Newest {
    std::uint64_t order = 0;
    std::uint32_t reason = 0;
    void take(const Newest& other) {
      if (other.order > order) *this = other;
    }
  };
  std::array<Newest, kOperations> deny, grant, override_;

  void add(const Grant& entry, std::uint32_t reason) {
    for (std::size_t op = 0; op < kOperations; ++op) {
      if (!entry.operations.has(static_cast<Operation>(op))) continue;
      const Newest newest{entry.order, reason};
      if (entry.effect != Effect::allow) {
        deny[op].take(newest);
        continue;
      }
      grant[op].take(newest);
      if (entry.override_deny) override_[op].take(newest);
    }
  }
  void add(const Live& other) {
    for (std::size_t op = 0; op < kOperations; ++op) {
      deny[op].take(other.deny[op]);
      grant[op].take(other.grant[op]);
      override_[op].take(other.override_[op]);
    }
  }
};

// Rules with the same exceptions form a group: what they say holds unless one
// of the group's exceptions was met on the way. Group 0 has no exceptions.
using GroupId = std::uint32_t;
struct Group {
  bool restricts = false;  // has a rule that denies, guards or asks
  bool allows = false;
};

struct Conditional {
  GroupId group;
  std::uint32_t tally;
  bool operator==(const Conditional&) const = default;
};

// What reaching a node means. Ranges lie in Impl's flat vectors.
struct NodeFacts {
  std::uint32_t tally = kNothing;  // group 0
  std::uint32_t live = kNothing;
  std::uint32_t first_conditional = 0, conditionals = 0;
  std::uint32_t first_except = 0, excepts = 0;
  bool shows_below = false;       // some path below, known by name, may be listed
  bool may_show_below = false;    // an allow with wildcards lies below
  bool guards_below = false;      // strictly below: a guard,
  bool restricts_below = false;   //   something that takes away …
  bool widens_below = false;      //   … or that gives
};

// Everything known of one path at the end of its walk.
struct Place {
  Trie::States states;
  Tally tally;
  Live live;
  boost::container::small_vector<Conditional, 16> conditionals;
  boost::container::small_vector<Conditional, 4> here;  // by `match`, for this path alone:
                                                        // an allow does not hold below
  boost::container::small_vector<GroupId, 16> excepted;
  bool failed = false;  // the `match` rules could not be run

  bool is_excepted(GroupId group) const {
    return std::ranges::find(excepted, group) != excepted.end();
  }
};

void add_new(auto& set, const auto& value) {
  if (std::ranges::find(set, value) == set.end()) set.push_back(value);
}

struct Expression {  // one entry of the MatchSet
  bool except = false;
  std::uint32_t tally = 0;
  GroupId group = 0;
};

}  // namespace

struct Snapshot::Impl {
  SnapshotInput input;
  Trie trie;
  MatchSet match;
  std::vector<Expression> expressions;
  std::vector<NodeFacts> nodes;
  std::vector<Tally> tallies;
  std::vector<Live> lives;
  std::vector<Conditional> conditionals;
  std::vector<GroupId> excepts;
  std::vector<Group> groups{1};

  // Reason indexes: 0 default, then rules, then grants, then a failed match.
  std::uint32_t rule_reason(std::size_t rule) const { return static_cast<std::uint32_t>(1 + rule); }
  std::uint32_t grant_reason(std::size_t grant) const {
    return static_cast<std::uint32_t>(1 + input.rules.size() + grant);
  }
  std::uint32_t failed_reason() const {
    return static_cast<std::uint32_t>(1 + input.rules.size() + input.grants.size());
  }

  bool has_guards = false;

  class Builder;

  Place place(std::string_view path) const;
  PathDecision decide(const Place& place, Facts facts) const;
  bool may_widen_below(const WorkspacePath& from, const Place& at_from, const WorkspacePath& to,
                       const Place& at_to) const;
  bool comes_under_guard(const Place& from, const Place& to) const;

 private:
  void reach(NodeId node, Place& place) const;
  void run_match(std::string_view path, Place& place) const;
  Tally settled(const Place& place) const;
  bool keeps(Verdicts verdicts, const Place& from, const Place& to) const;
  bool keeps_what_allows(const Place& from, const Place& to) const;
  bool match_may_widen(std::string_view from, std::string_view to) const;
  PathDecision::Entry entry(std::size_t op, const Tally& rules, const Live& live,
                            bool guards_hold) const;
};

// ---- deciding ----------------------------------------------------------------

void Snapshot::Impl::reach(NodeId id, Place& place) const {
  const NodeFacts& node = nodes[id];
  if (node.tally != kNothing) place.tally.add(tallies[node.tally]);
  if (node.live != kNothing) place.live.add(lives[node.live]);
  for (std::uint32_t i = 0; i < node.conditionals; ++i)
    add_new(place.conditionals, conditionals[node.first_conditional + i]);
  for (std::uint32_t i = 0; i < node.excepts; ++i)
    add_new(place.excepted, excepts[node.first_except + i]);
}

void Snapshot::Impl::run_match(std::string_view path, Place& place) const {
  if (match.empty()) return;
  std::vector<int> found;
  if (!match.find(path, found)) {
    place.failed = true;
    return;
  }
  for (const int index : found) {
    const Expression& expression = expressions[static_cast<std::size_t>(index)];
    if (expression.except)
      add_new(place.excepted, expression.group);
    else if (tallies[expression.tally].says(Verdict::allow))
      place.here.push_back({expression.group, expression.tally});
    else if (expression.group == 0)
      place.tally.add(tallies[expression.tally]);
    else
      add_new(place.conditionals, Conditional{expression.group, expression.tally});
  }
}

Place Snapshot::Impl::place(std::string_view path) const {
  Place place;
  const auto visit = [&](NodeId node) { reach(node, place); };
  trie.start(place.states, visit);
  for (std::size_t at = 1; at < path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    trie.step(place.states, path.substr(at, slash - at), visit);
    at = slash + 1;
  }
  run_match(path, place);
  return place;
}

// What the rules say here, exceptions taken into account.
Tally Snapshot::Impl::settled(const Place& place) const {
  Tally tally = place.tally;
  for (const Conditional& conditional : place.conditionals)
    if (!place.is_excepted(conditional.group)) tally.add(tallies[conditional.tally]);
  for (const Conditional& allowed : place.here)
    if (!place.is_excepted(allowed.group)) tally.add(tallies[allowed.tally]);
  return tally;
}

// INVARIANT: any matching deny wins, then ask, then allow, and what is left
//   over is denied. Grants and session denies stand above that: the newest
//   session deny beats all that is older; a grant newer than it lifts ask and
//   the default, and a rule's deny only with override_deny.
PathDecision::Entry Snapshot::Impl::entry(std::size_t op, const Tally& rules, const Live& live,
                                          bool guards_hold) const {
  const auto& denied = live.deny[op];
  const auto newer = [&](const Live::Newest& grant) { return grant.order > denied.order; };
  std::uint32_t deny = rules.at(Verdict::deny)[op];
  if (guards_hold) deny = std::min(deny, rules.at(Verdict::guard)[op]);
  if (deny != kNothing) {
    if (newer(live.override_[op])) return {Effect::allow, live.override_[op].reason, false};
    return {Effect::deny, deny, false};
  }
  const bool asked = rules.says(Verdict::ask, op);
  const bool allowed = !asked && rules.says(Verdict::allow, op);
  if (allowed && denied.order == 0) return {Effect::allow, rules.at(Verdict::allow)[op], false};
  if (newer(live.grant[op])) return {Effect::allow, live.grant[op].reason, false};
  if (denied.order != 0) return {Effect::deny, denied.reason, false};
  if (asked) return {Effect::ask, rules.at(Verdict::ask)[op], false};
  return {Effect::deny, 0, false};
}

PathDecision Snapshot::Impl::decide(const Place& place, Facts facts) const {
  PathDecision decision;
  // INVARIANT: an error in the gate means denied.
  if (place.failed) {
    decision.entries.fill({Effect::deny, failed_reason(), false});
    return decision;
  }
  const Tally rules = settled(place);
  for (std::size_t op = 0; op < kOperations; ++op) {
    auto& said = decision.entries[op];
    said = entry(op, rules, place.live, !facts.created_by_session);
    if (facts.created_by_session || !rules.says(Verdict::guard, op)) continue;
    said.guard = said.effect == Effect::deny &&
                 entry(op, rules, place.live, false).effect != Effect::deny;
  }
  const auto& list = decision.of(Operation::list);
  if (list.effect == Effect::allow) return decision;
  // A wildcard opens only what nothing forbids; a path known by name and
  // found listable opens its parents whatever hides their other children.
  const bool undecided = list.effect == Effect::deny && list.reason == 0;
  const auto leads = [&](NodeId node) {
    return nodes[node].shows_below || (undecided && nodes[node].may_show_below);
  };
  decision.leads_to_visible = std::ranges::any_of(place.states.passing, leads) ||
                              std::ranges::any_of(place.states.trees, leads);
  return decision;
}

// ---- renaming ------------------------------------------------------------------

namespace {

// What says at least as much as `verdict` does.
Verdicts as_strict_as(Verdict verdict) {
  static constexpr Verdicts deny{Verdict::deny};
  static constexpr Verdicts guard{Verdict::guard, Verdict::deny};
  static constexpr Verdicts ask{Verdict::ask, Verdict::deny};
  return verdict == Verdict::deny ? deny : verdict == Verdict::guard ? guard : ask;
}

bool grants_keep(const Live& from, const Live& to) {
  for (std::size_t op = 0; op < kOperations; ++op)
    if (from.deny[op].order > to.deny[op].order || from.grant[op].order < to.grant[op].order ||
        from.override_[op].order < to.override_[op].order)
      return false;
  return true;
}

bool in(NodeId node, const Trie::States& states) {
  return std::ranges::find(states.passing, node) != states.passing.end() ||
         std::ranges::find(states.trees, node) != states.trees.end();
}

// Whether a state of `these` that `others` lack satisfies the test.
bool any_missing(const Trie::States& these, const Trie::States& others, const auto& test) {
  const auto bad = [&](NodeId node) { return test(node) && !in(node, others); };
  return std::ranges::any_of(these.passing, bad) || std::ranges::any_of(these.trees, bad);
}

}  // namespace

// Calls test(group, tally) for everything the rules say at the place.
static bool every_tally(const Place& place, const std::vector<Tally>& tallies, const auto& test) {
  if (!test(GroupId{0}, place.tally)) return false;
  return std::ranges::all_of(place.conditionals, [&](const Conditional& conditional) {
    return place.is_excepted(conditional.group) ||
           test(conditional.group, tallies[conditional.tally]);
  });
}

// Whether the place says one of `verdicts`, and will go on saying it below
// wherever the group does: without exceptions, or with the same ones.
static bool says_as_long(const Place& place, const std::vector<Tally>& tallies, GroupId group,
                         Verdicts verdicts, std::size_t op) {
  return !every_tally(place, tallies, [&](GroupId other, const Tally& tally) {
    if (other != 0 && other != group) return true;
    return std::ranges::none_of(verdicts, [&](Verdict v) { return tally.says(v, op); });
  });
}

bool Snapshot::Impl::keeps(Verdicts verdicts, const Place& from, const Place& to) const {
  return every_tally(from, tallies, [&](GroupId group, const Tally& tally) {
    for (const Verdict verdict : verdicts)
      for (std::size_t op = 0; op < kOperations; ++op)
        if (tally.says(verdict, op) &&
            !says_as_long(to, tallies, group, as_strict_as(verdict), op))
          return false;
    return true;
  });
}

bool Snapshot::Impl::keeps_what_allows(const Place& from, const Place& to) const {
  return every_tally(to, tallies, [&](GroupId group, const Tally& tally) {
    for (std::size_t op = 0; op < kOperations; ++op)
      if (tally.says(Verdict::allow, op) &&
          !says_as_long(from, tallies, group, {Verdict::allow}, op))
        return false;
    return true;
  });
}

// An expression counts unless RE2 can rule it out for everything below.
bool Snapshot::Impl::match_may_widen(std::string_view from, std::string_view to) const {
  for (std::size_t i = 0; i < expressions.size(); ++i) {
    const Expression& expression = expressions[i];
    bool strict = false, wide = false;  // taken away by it, given by it
    if (expression.except) {
      strict = groups[expression.group].allows;
      wide = groups[expression.group].restricts;
    } else {
      strict = tallies[expression.tally].restricts();
      wide = tallies[expression.tally].says(Verdict::allow);
    }
    if ((strict && match.may_match_below(i, from)) || (wide && match.may_match_below(i, to)))
      return true;
  }
  return false;
}

// What lies below a place is decided by three things: what was said on the
// way, the exceptions met, and the trie nodes from which the walk goes on.
// INVARIANT: false only if each of them is at least as strict at `to`, so
//   that every path below, known or not, is too. In doubt: true.
bool Snapshot::Impl::may_widen_below(const WorkspacePath& from, const Place& at_from,
                                     const WorkspacePath& to, const Place& at_to) const {
  if (!keeps({Verdict::deny, Verdict::guard, Verdict::ask}, at_from, at_to)) return true;
  if (!keeps_what_allows(at_from, at_to)) return true;
  if (!grants_keep(at_from.live, at_to.live)) return true;
  for (GroupId group = 1; group < groups.size(); ++group) {
    const bool before = at_from.is_excepted(group), after = at_to.is_excepted(group);
    if ((after && !before && groups[group].restricts) ||
        (before && !after && groups[group].allows))
      return true;
  }
  if (any_missing(at_from.states, at_to.states, [&](NodeId n) { return nodes[n].restricts_below; }))
    return true;
  if (any_missing(at_to.states, at_from.states, [&](NodeId n) { return nodes[n].widens_below; }))
    return true;
  return match_may_widen(from.bytes(), to.bytes());
}

// Whether a guard holds at or below `to` that holds not at the same place below
// `from`. In doubt: true.
bool Snapshot::Impl::comes_under_guard(const Place& from, const Place& to) const {
  return !keeps({Verdict::guard}, to, from) ||
         any_missing(to.states, from.states, [&](NodeId n) { return nodes[n].guards_below; });
}

// ---- compiling -----------------------------------------------------------------

class Snapshot::Impl::Builder {
 public:
  explicit Builder(SnapshotInput input) : impl_(std::make_unique<Impl>()) {
    impl_->input = std::move(input);
  }

  Result<std::unique_ptr<const Impl>> build() {
    for (std::size_t i = 0; i < impl_->input.rules.size(); ++i)
      FBROKER_TRY_VOID(add_rule(impl_->input.rules[i], impl_->rule_reason(i)));
    for (std::size_t i = 0; i < impl_->input.grants.size(); ++i)
      FBROKER_TRY_VOID(add_grant(impl_->input.grants[i], impl_->grant_reason(i)));
    FBROKER_TRY_VOID(impl_->match.compile());
    freeze();
    flag_what_lies_below();
    open_parents();
    return std::unique_ptr<const Impl>(std::move(impl_));
  }

 private:
  struct Draft {  // a node's facts while rules are still added
    std::map<GroupId, Tally> tallies;
    Live live;
    bool has_live = false;
    std::vector<GroupId> excepts;
    bool shows = false;  // an allow of `list`, by a pattern with wildcards
  };
  struct Known {  // a path known by name that may turn out to be listable
    NodeId node;
    std::string path;
  };

  static Error in_rule(const Rule& rule, const std::string& pattern, const Error& error) {
    return Error{rule.id + (pattern.empty() ? "" : " \"" + pattern + "\""), error.what};
  }

  Draft& draft(NodeId node) {
    if (drafts_.size() < impl_->trie.size()) drafts_.resize(impl_->trie.size());
    return drafts_[node];
  }

  // Adds a pattern; a path without wildcards is remembered when `may_show`.
  Result<NodeId> add_glob(const Rule& rule, const std::string& pattern, bool may_show) {
    auto glob = parse_glob(pattern);
    if (!glob) return in_rule(rule, "", glob.error());
    const NodeId node = impl_->trie.add(*glob);
    if (may_show && glob->is_literal())
      known_.push_back({node, glob->literal_path()});
    else if (may_show)
      draft(node).shows = true;
    return node;
  }

  Result<std::size_t> add_expression(const Rule& rule, const std::string& text, bool below,
                                     Expression expression) {
    auto index = impl_->match.add(text, below);
    if (!index) return in_rule(rule, text, index.error());
    impl_->expressions.push_back(expression);
    return index;
  }

  Result<GroupId> group_of(const Rule& rule) {
    if (rule.except.empty() && rule.match_except.empty()) return GroupId{0};
    const auto next = static_cast<GroupId>(impl_->groups.size());
    const auto [at, made] = group_ids_.try_emplace({rule.except, rule.match_except}, next);
    if (made) {
      impl_->groups.emplace_back();
      FBROKER_TRY_VOID(add_exceptions(rule, next));
    }
    (rule.effect == Effect::allow ? impl_->groups[at->second].allows
                                  : impl_->groups[at->second].restricts) = true;
    return at->second;
  }

  Result<void> add_exceptions(const Rule& rule, GroupId group) {
    for (const std::string& pattern : rule.except) {
      FBROKER_TRY(const NodeId node, add_glob(rule, pattern, false));
      draft(node).excepts.push_back(group);
      // What is excepted from a deny may be listed, and its parents then open.
      const auto glob = parse_glob(pattern);
      if (glob && glob->is_literal()) known_.push_back({node, glob->literal_path()});
    }
    for (const std::string& text : rule.match_except)
      FBROKER_TRY_VOID(add_expression(rule, text, true, {true, 0, group}));
    return ok;
  }

  Result<void> add_rule(const Rule& rule, std::uint32_t reason) {
    FBROKER_TRY(const GroupId group, group_of(rule));
    const bool allow = rule.effect == Effect::allow;
    const bool may_show = allow && rule.operations.has(Operation::list);
    for (const std::string& pattern : rule.paths) {
      FBROKER_TRY(const NodeId node, add_glob(rule, pattern, may_show));
      draft(node).tallies[group].add(verdict_of(rule), rule.operations, reason);
    }
    impl_->has_guards = impl_->has_guards || verdict_of(rule) == Verdict::guard;
    if (!rule.match) return ok;
    const auto tally = static_cast<std::uint32_t>(impl_->tallies.size());
    impl_->tallies.emplace_back().add(verdict_of(rule), rule.operations, reason);
    FBROKER_TRY_VOID(add_expression(rule, *rule.match, !allow, {false, tally, group}));
    return ok;
  }

  Result<void> add_grant(const Grant& grant, std::uint32_t reason) {
    const NodeId node = impl_->trie.add(literal_glob(grant.path));
    draft(node).live.add(grant, reason);
    draft(node).has_live = true;
    if (grant.effect == Effect::allow && grant.operations.has(Operation::list))
      known_.push_back({node, grant.path.bytes()});
    return ok;
  }

  static Glob literal_glob(const WorkspacePath& path) {
    Glob glob;
    const std::string& bytes = path.bytes();
    for (std::size_t at = 1; at < bytes.size();) {
      const std::size_t slash = std::min(bytes.find('/', at), bytes.size());
      glob.components.emplace_back().text = bytes.substr(at, slash - at);
      at = slash + 1;
    }
    return glob;
  }

  void freeze() {
    drafts_.resize(impl_->trie.size());
    impl_->nodes.resize(impl_->trie.size());
    for (NodeId id = 0; id < drafts_.size(); ++id) freeze(drafts_[id], impl_->nodes[id]);
  }

  void freeze(const Draft& from, NodeFacts& node) {
    node.first_conditional = static_cast<std::uint32_t>(impl_->conditionals.size());
    for (const auto& [group, tally] : from.tallies) {
      const auto index = static_cast<std::uint32_t>(impl_->tallies.size());
      impl_->tallies.push_back(tally);
      if (group == 0) node.tally = index;
      else impl_->conditionals.push_back({group, index});
    }
    node.conditionals =
        static_cast<std::uint32_t>(impl_->conditionals.size()) - node.first_conditional;
    node.first_except = static_cast<std::uint32_t>(impl_->excepts.size());
    node.excepts = static_cast<std::uint32_t>(from.excepts.size());
    impl_->excepts.insert(impl_->excepts.end(), from.excepts.begin(), from.excepts.end());
    if (!from.has_live) return;
    node.live = static_cast<std::uint32_t>(impl_->lives.size());
    impl_->lives.push_back(from.live);
  }

  bool restricts(const Draft& draft) const {
    const auto taken = [](const auto& entry) { return entry.second.restricts(); };
    const auto allows = [&](GroupId group) { return impl_->groups[group].allows; };
    return std::ranges::any_of(draft.tallies, taken) || std::ranges::any_of(draft.excepts, allows) ||
           std::ranges::any_of(draft.live.deny, [](const auto& deny) { return deny.order != 0; });
  }

  static bool guards(const Draft& draft) {
    return std::ranges::any_of(draft.tallies,
                               [](const auto& entry) { return entry.second.says(Verdict::guard); });
  }

  bool widens(const Draft& draft) const {
    const auto given = [](const auto& entry) { return entry.second.says(Verdict::allow); };
    const auto strict = [&](GroupId group) { return impl_->groups[group].restricts; };
    return std::ranges::any_of(draft.tallies, given) || std::ranges::any_of(draft.excepts, strict) ||
           std::ranges::any_of(draft.live.grant, [](const auto& g) { return g.order != 0; });
  }

  // From the leaves up: a parent's id is smaller than its children's.
  void flag_what_lies_below() {
    auto& facts = impl_->nodes;
    for (auto id = static_cast<NodeId>(facts.size() - 1); id > Trie::kRoot; --id) {
      NodeFacts& parent = facts[impl_->trie.parent(id)];
      parent.may_show_below |= drafts_[id].shows || facts[id].may_show_below;
      parent.guards_below |= guards(drafts_[id]) || facts[id].guards_below;
      parent.restricts_below |= restricts(drafts_[id]) || facts[id].restricts_below;
      parent.widens_below |= widens(drafts_[id]) || facts[id].widens_below;
    }
  }

  // The directories above each path that is known by name and may be listed.
  void open_parents() {
    std::vector<NodeId> open;
    for (const Known& known : known_)
      if (impl_->decide(impl_->place(known.path), {}).allows(Operation::list))
        open.push_back(known.node);
    for (NodeId node : open) {
      for (node = impl_->trie.parent(node); node != Trie::kNone; node = impl_->trie.parent(node)) {
        if (std::exchange(impl_->nodes[node].shows_below, true)) break;
      }
    }
  }

  std::unique_ptr<Impl> impl_;
  std::vector<Draft> drafts_;
  std::vector<Known> known_;
  std::map<std::pair<std::vector<std::string>, std::vector<std::string>>, GroupId> group_ids_;
};

// ---- the public face -------------------------------------------------------------

Snapshot::Snapshot(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Snapshot::~Snapshot() = default;

Result<std::shared_ptr<const Snapshot>> Snapshot::compile(SnapshotInput input) {
  SnapshotInput lasting{.rules = {}, .grants = {}, .generation = input.generation};
  const auto is_deny = [](const Grant& grant) { return grant.effect == Effect::deny; };
  std::ranges::copy_if(input.grants, std::back_inserter(lasting.grants), is_deny);
  const bool has_grants = lasting.grants.size() < input.grants.size();
  if (has_grants) lasting.rules = input.rules;
  FBROKER_TRY(auto impl, Impl::Builder(std::move(input)).build());
  std::shared_ptr<Snapshot> made(new Snapshot(std::move(impl)));
  if (has_grants) {
    FBROKER_TRY(made->lasting_, compile(std::move(lasting)));
  }
  return std::shared_ptr<const Snapshot>(std::move(made));
}

std::uint64_t Snapshot::generation() const noexcept { return impl_->input.generation; }

PathDecision Snapshot::decide(const WorkspacePath& path, Facts facts) const {
  return impl_->decide(impl_->place(path.bytes()), facts);
}

Reason Snapshot::reason(std::uint32_t index) const {
  const auto& [rules, grants, generation] = impl_->input;
  if (index == 0) return {"default", "no rule allows it"};
  if (index <= rules.size()) return {rules[index - 1].id, rules[index - 1].because};
  index -= static_cast<std::uint32_t>(rules.size());
  if (index <= grants.size()) return {grants[index - 1].id, grants[index - 1].because};
  return {"match-error", "the `match` rules ran out of memory on this path"};
}

bool Snapshot::would_widen(const WorkspacePath& from, const WorkspacePath& to, bool directory,
                           Facts from_facts, Facts to_facts) const {
  const Place at_from = impl_->place(from.bytes());
  const Place at_to = impl_->place(to.bytes());
  if (at_from.failed || at_to.failed) return true;
  const PathDecision before = impl_->decide(at_from, from_facts);
  const PathDecision after = impl_->decide(at_to, to_facts);
  for (std::size_t op = 0; op < kOperations; ++op)
    if (after.allows(static_cast<Operation>(op)) && !before.allows(static_cast<Operation>(op)))
      return true;
  // ATTACK: what only a grant allows gets a name that outlives the grant: by a
  //   rule, or by another grant.
  const auto by_grant = [&](std::uint32_t reason) { return reason > impl_->input.rules.size(); };
  for (std::size_t op = 0; op < kOperations; ++op) {
    const auto &was = before.entries[op], &is = after.entries[op];
    if (is.effect == Effect::allow && by_grant(is.reason) && by_grant(was.reason) && is.reason != was.reason) return true;
  }
  if (lasting_ && lasting_->would_widen(from, to, directory, from_facts, to_facts)) return true;
  if (!directory) return false;
  // What counts as created loses its guards, wherever below they would hold.
  if (to_facts.created_by_session && !from_facts.created_by_session && impl_->has_guards)
    return true;
  // ATTACK: a directory filled elsewhere and renamed to ".git" brings what the
  //   guard would have been asked about, file by file.
  return impl_->comes_under_guard(at_from, at_to) ||
         impl_->may_widen_below(from, at_from, to, at_to);
}

std::span<const Grant> Snapshot::grants() const noexcept { return impl_->input.grants; }

}  // namespace fbroker::policy
