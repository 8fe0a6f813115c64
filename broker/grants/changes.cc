#include "broker/grants/changes.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "broker/grants/domain_changes.h"

namespace fbroker::broker {

using policy::Effect;
using policy::Operation;
using policy::OperationSet;
using policy::Snapshot;
using std::chrono::system_clock;

namespace {

constexpr OperationSet kWriting{Operation::write, Operation::create, Operation::delete_};
constexpr policy::Facts kCreated{.created_by_session = true};

std::string words_of(OperationSet operations) {
  std::string words;
  for (std::size_t i = 0; i < policy::kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    if (!operations.has(operation)) continue;
    words += (words.empty() ? "" : " ");
    words += policy::name_of(operation);
  }
  return words;
}

audit::Record record_of(Session& session, const char* operation, const LiveGrant& live) {
  audit::Record record;
  record.session = session.name();
  record.operation = operation;
  record.path = live.grant.path.bytes();
  record.host_path = live.from.empty() ? session.view()->exports->host_path(live.grant.path) : live.from;
  record.decision = policy::name_of(live.grant.effect);
  record.reason = live.grant.id;
  record.detail = words_of(live.grant.operations);
  if (live.grant.override_deny) record.detail += " override-deny";
  if (live.grant.once) record.detail += " once";
  if (!live.grant.because.empty()) record.detail += "; " + live.grant.because;
  return record;
}

// A revoke never fails for the store or the log; it says so.
void write_down(Session& session, RevokeOutcome& outcome, const char* operation,
                const std::vector<WorkspacePath>& places) {
  const auto failed = [&](const std::string& why) {
    outcome.recorded = false;
    outcome.not_recorded = why;
  };
  if (const auto stored = session.parts().grants.store(); !stored) failed(stored.error().text());
  const auto append = [&](const audit::Record& record) {
    if (const auto written = session.parts().audit.append(record); !written)
      failed(std::string("the audit log cannot be written: ") + std::strerror(written.error().value));
  };
  for (const LiveGrant& live : outcome.ended) append(record_of(session, operation, live));
  for (const LiveGrant& live : outcome.denied) append(record_of(session, operation, live));
  for (const LiveGrant& live : outcome.lifted) append(record_of(session, "lift", live));
  if (!outcome.ended.empty() || !outcome.denied.empty() || !outcome.lifted.empty()) return;
  for (const WorkspacePath& path : places) {
    audit::Record record;
    record.session = session.name();
    record.operation = operation;
    record.path = path.bytes();
    record.detail = "nothing was accessible";
    append(record);
  }
}

bool is_at_or_below_any(const WorkspacePath& path, const std::vector<WorkspacePath>& places) {
  return std::any_of(places.begin(), places.end(),
                     [&](const WorkspacePath& place) { return path.is_at_or_below(place); });
}

// Where `ended` held: does the new view take writing away and leave reading?
// Reading may be left below, where this cannot see: when in doubt, retire.
Touched touched_by(const LiveGrant& ended, const Snapshot& next) {
  const bool wrote = !((ended.grant.operations - (ended.grant.operations - kWriting)).empty());
  const auto now = next.decide(ended.grant.path);
  bool still_writes = true;
  for (const Operation operation : {Operation::write, Operation::create, Operation::delete_})
    if (ended.grant.operations.has(operation)) still_writes = still_writes && now.allows(operation);
  return {ended.grant.path, wrote && !still_writes};
}

std::vector<std::string> ids_of(const std::vector<LiveGrant>& grants) {
  std::vector<std::string> ids;
  ids.reserve(grants.size());
  for (const LiveGrant& live : grants) ids.push_back(live.grant.id);
  return ids;
}

// Splits off what `over` says; returns it.
template <class Predicate>
std::vector<LiveGrant> take_out(std::vector<LiveGrant>& grants, Predicate over) {
  const auto first = std::stable_partition(grants.begin(), grants.end(),
                                           [&](const LiveGrant& live) { return !over(live); });
  std::vector<LiveGrant> taken(first, grants.end());
  grants.erase(first, grants.end());
  return taken;
}

// Ends `outcome.ended` for good; `remaining` is what then lives.
void end_grants(Session& session, RevokeOutcome& outcome, const std::vector<LiveGrant>& remaining,
                const char* operation) {
  const auto next = session.compile_or_deny_all(remaining);
  std::vector<Touched> touched;
  std::vector<WorkspacePath> pins;
  for (const LiveGrant& live : outcome.ended) {
    touched.push_back(touched_by(live, *next->snapshot));
    if (live.used) pins.push_back(live.grant.path);
  }
  session.parts().grants.end_unstored(session.name(), ids_of(outcome.ended));
  outcome.finality = make_final(session, next, touched, pins);
  write_down(session, outcome, operation, {});
}

// --- what still allows something at or below a place ------------------------

bool allow_could_match_below(const policy::Rule& rule, const WorkspacePath& place) {
  if (rule.effect != Effect::allow) return false;
  if (rule.match) return true;
  const std::string below = place.is_root() ? "/" : place.bytes() + "/";
  return std::any_of(rule.paths.begin(), rule.paths.end(), [&](const std::string& pattern) {
    const std::size_t wild = pattern.find_first_of("*?[\\");
    if (wild == pattern.npos) return pattern.starts_with(below);
    const std::string literal = pattern.substr(0, wild);
    return literal.starts_with(below) || below.starts_with(literal);
  });
}

// The ids of what allows it; empty = nothing is accessible there, surely.
std::vector<std::string> what_allows(Session& session, const Snapshot& snapshot,
                                     const WorkspacePath& place) {
  std::vector<std::string> ids;
  const auto add = [&](std::string_view id) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.emplace_back(id);
  };
  for (const policy::Facts facts : {policy::Facts{}, kCreated}) {
    const auto decision = snapshot.decide(place, facts);
    for (const auto& entry : decision.entries)
      if (entry.effect != Effect::deny) add(snapshot.reason(entry.reason).id);
  }
  const auto denied_by = snapshot.reason(snapshot.decide(place).of(Operation::list).reason).id;
  const auto grants = snapshot.grants();
  const bool denied_already =
      ids.empty() && std::any_of(grants.begin(), grants.end(), [&](const policy::Grant& grant) {
        // Not the deny that every session begins with: its id means "no rule".
        return grant.effect == Effect::deny && grant.id == denied_by && denied_by != "default";
      });
  if (denied_already) return ids;
  // A pattern that begins below, or a `match`, which only sees whole paths.
  for (const policy::Rule& rule : session.policy().rules)
    if (allow_could_match_below(rule, place)) add(rule.id);
  return ids;
}

LiveGrant session_deny(const WorkspacePath& place, const char* because) {
  LiveGrant live;
  live.grant.effect = Effect::deny;
  live.grant.path = place;
  live.grant.operations = OperationSet::all();
  live.grant.because = because;
  live.made = system_clock::now();
  return live;
}

// --- grant --------------------------------------------------------------------

std::string lowest_denied(const Snapshot& snapshot, const policy::Grant& wanted) {
  const auto decision = snapshot.decide(wanted.path);
  for (std::size_t i = 0; i < policy::kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    const auto& entry = decision.of(operation);
    if (wanted.operations.has(operation) && entry.effect != Effect::allow)
      return std::string(snapshot.reason(entry.reason).id);
  }
  return "";
}

// Would it work? Decided on a view that has it, before anything is stored.
Result<void, GrantRefused> check_works(Session& session, std::vector<LiveGrant> grants, LiveGrant wanted) {
  wanted.grant.id = "this grant";
  wanted.grant.order = grants.empty() ? 1 : grants.back().grant.order + 1;
  grants.push_back(wanted);
  const auto view = session.compile(session.policy(), grants);
  if (!view) return GrantRefused{view.error().text(), ""};
  if ((*view)->exports->find(wanted.grant.path) == nullptr)
    return GrantRefused{"no export shows " + wanted.grant.path.bytes(), ""};
  const std::string rule = lowest_denied(*(*view)->snapshot, wanted.grant);
  if (rule.empty()) return ok;
  return GrantRefused{"rule " + rule + " denies " + wanted.grant.path.bytes() +
                          "; a grant lifts that only with --override-deny",
                      rule};
}

// What else changes with it: already denied, and to be told.
struct Besides {
  std::vector<Touched> touched;
  std::vector<LiveGrant> denied;
};

// Afterwards nothing at or below any of `places` is accessible by that name.
RevokeOutcome deny_places(Session& session, const std::vector<WorkspacePath>& places, const char* because,
                          Besides besides = {}) {
  GrantStore& store = session.parts().grants;
  RevokeOutcome outcome;
  outcome.denied = std::move(besides.denied);
  std::vector<LiveGrant> live = store.of(session.name());
  outcome.ended = take_out(live, [&](const LiveGrant& one) {
    return one.grant.effect == Effect::allow && is_at_or_below_any(one.grant.path, places);
  });
  store.end_unstored(session.name(), ids_of(outcome.ended));

  const auto without = session.compile_or_deny_all(live);
  for (const WorkspacePath& place : places) {
    const auto allowing = what_allows(session, *without->snapshot, place);
    if (allowing.empty()) continue;
    // Older denies below it have become part of this one.
    const auto covered = take_out(live, [&](const LiveGrant& one) {
      return one.grant.effect == Effect::deny && one.grant.path.is_at_or_below(place);
    });
    store.end_unstored(session.name(), ids_of(covered));
    outcome.denied.push_back(store.add_unstored(session.name(), session_deny(place, because)));
    live.push_back(outcome.denied.back());
    session.inherit_revoked(live.back().grant.id, ids_of(covered));
    for (const std::string& id : allowing)
      if (std::find(outcome.overruled.begin(), outcome.overruled.end(), id) == outcome.overruled.end())
        outcome.overruled.push_back(id);
  }

  std::vector<Touched> touched = std::move(besides.touched);
  for (const WorkspacePath& place : places) touched.push_back({place, false});
  outcome.finality = make_final(session, session.compile_or_deny_all(live), touched, places);
  write_down(session, outcome, "revoke", places);
  return outcome;
}

// --- the files behind the names ----------------------------------------------

// The session deny that holds at a place; none: nothing was allowed there.
const LiveGrant* deny_over(const std::vector<LiveGrant>& live, const WorkspacePath& place) {
  const LiveGrant* newest = nullptr;
  for (const LiveGrant& one : live)
    if (one.grant.effect == Effect::deny && place.is_at_or_below(one.grant.path)) newest = &one;
  return newest;
}

// Whether `name` is a name of one of the files now.
bool names_one_of(Session& session, const WorkspacePath& name, const FilesBelow& found) {
  const auto view = session.view();
  const Export* on = view->exports->find(name);
  const auto fd = on == nullptr ? Result<UniqueFd, Errno>(Errno{ENOENT}) : on->open(name, O_PATH | O_NOFOLLOW);
  const auto stat = fd ? stat_of(fd->get()) : fd.error();
  return stat && (!found.complete || found.files.contains(stat->identity));
}

// Where the session knows the files by other names, in every export that shows them.
std::vector<WorkspacePath> known_elsewhere(Session& session, const std::vector<WorkspacePath>& places,
                                           const FilesBelow& found) {
  std::vector<WorkspacePath> names;
  for (const WorkspacePath& known : session.files().names_elsewhere(places)) {
    if (!names_one_of(session, known, found)) continue;
    std::vector<WorkspacePath> all = session.view()->exports->other_names(known);
    all.push_back(known);
    for (WorkspacePath& name : all)
      if (!is_at_or_below_any(name, places) && std::find(names.begin(), names.end(), name) == names.end())
        names.push_back(std::move(name));
  }
  return names;
}

// What is found now is all there is: by the places' own names nobody makes
// links any more, since who was admitted before has been waited for.
FilesBelow files_at(Session& session, const std::vector<WorkspacePath>& places, std::vector<LiveGrant>& denied) {
  FilesBelow all;
  SearchBudget budget;
  GrantStore& store = session.parts().grants;
  const auto view = session.view();
  for (const WorkspacePath& place : places) {
    if (place.is_root()) continue;   // there is no other name
    // What is open under a revoked name is closed by that name.
    std::optional<decltype(session.files().open_elsewhere(places))> open;
    const FilesBelow found = files_below(*view->exports, place, budget, [&](const auto& file) {
      if (!open) open = session.files().open_elsewhere(places);
      return open->contains(file);
    });
    if (found.empty()) continue;
    const auto live = store.of(session.name());
    const LiveGrant* deny = deny_over(live, place);
    // A grant since then would let its name keep the file.
    const bool outdated = deny != nullptr && std::any_of(deny, live.data() + live.size(), [](const LiveGrant& one) {
      return one.grant.effect == Effect::allow;
    });
    if (deny == nullptr || outdated) {
      denied.push_back(store.add_unstored(session.name(), session_deny(place, "its files have other names")));
      deny = &denied.back();
    }
    session.keep_revoked(deny->grant.id, found);
    all.add(found);
  }
  return all;
}

// ATTACK: the identity of a file that was never shown says that it exists. So
//   only of open ones is it told; for the sake of others all is forgotten.
std::vector<Touched> told_of(Session& session, const WorkspacePath& place, const FilesBelow& found) {
  constexpr std::size_t kMaxTold = 256;
  std::vector<Touched> told;
  const auto open = session.files().open_elsewhere({});
  for (const auto& file : found.files)
    if (open.contains(file)) told.push_back({place, false, file});
  const bool all = !found.complete || told.size() != found.files.size() || told.size() > kMaxTold;
  return all ? std::vector<Touched>{{WorkspacePath()}} : told;
}

void add_to(RevokeOutcome& outcome, RevokeOutcome more) {
  const auto append = [](auto& to, auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  append(outcome.ended, more.ended);
  append(outcome.denied, more.denied);
  append(outcome.domains_ended, more.domains_ended);
  for (const std::string& id : more.overruled)
    if (std::find(outcome.overruled.begin(), outcome.overruled.end(), id) == outcome.overruled.end())
      outcome.overruled.push_back(id);
  if (!more.recorded) outcome.not_recorded = more.not_recorded;
  outcome.recorded = outcome.recorded && more.recorded;
  outcome.finality += more.finality;
}

}  // namespace

// Stored and recorded before it works: a grant that nobody can look up later
// is never in force.
Result<LiveGrant, GrantRefused> grant(const ChangeTurn& turn, LiveGrant wanted) {
  Session& session = turn.session();
  GrantStore& store = session.parts().grants;
  wanted.made = system_clock::now();
  FBROKER_TRY_VOID(check_works(session, store.of(session.name()), wanted));
  const auto stored = store.add(session.name(), std::move(wanted));
  if (!stored) return GrantRefused{stored.error().text(), ""};
  const auto take_back = [&](const std::string& why) {
    store.end_unstored(session.name(), {stored->grant.id});
    (void)store.store().has_value();  // it is not in force; a stored one that stays would be, later
    return GrantRefused{why + "; nothing was granted", ""};
  };
  if (!session.parts().audit.append(record_of(session, "grant", *stored)))
    return take_back("the audit log cannot be written");
  auto next = session.compile(session.policy(), store.of(session.name()));
  if (!next) return take_back(next.error().text());
  make_visible(session, std::move(*next), {stored->grant.path});
  return *stored;
}

// INVARIANT: a revoke takes files away, not only names. First the names go, so
//   that by them nobody makes links any more; then what lies there is looked at,
//   and is denied by identity, open or not, whatever it is called by now.
RevokeOutcome revoke_places(const ChangeTurn& turn, const std::vector<WorkspacePath>& places) {
  Session& session = turn.session();
  RevokeOutcome outcome = deny_places(session, places, "revoked");
  std::vector<LiveGrant> denied;
  const FilesBelow found = files_at(session, places, denied);
  if (found.empty()) return outcome;
  if (!found.complete)
    session.parts().say("session " + session.name() + ": not all that was revoked could be looked through; until the "
                        "revoke is taken back, no file with several names is shown");
  // Those names that are known are denied as such, for the person to see.
  add_to(outcome, deny_places(session, known_elsewhere(session, places, found), "another name of what was revoked", {told_of(session, places.front(), found), std::move(denied)}));
  return outcome;
}

std::optional<RevokeOutcome> revoke_id(const ChangeTurn& turn, const std::string& id) {
  Session& session = turn.session();
  std::vector<LiveGrant> live = session.parts().grants.of(session.name());
  RevokeOutcome outcome;
  outcome.ended = take_out(live, [&](const LiveGrant& one) { return one.grant.id == id; });
  if (outcome.ended.empty()) {
    auto domain = end_domains(turn, "revoke", [&](const LiveDomain& one) { return one.rule.id == id; });
    if (domain.domains_ended.empty() && domain.domains_lifted.empty()) return std::nullopt;
    return domain;
  }
  if (outcome.ended.front().grant.effect == Effect::allow) {
    end_grants(session, outcome, live, "revoke");
    return outcome;
  }
  // It opens something: written down first, as a grant is.
  outcome.lifted = std::exchange(outcome.ended, {});
  session.parts().grants.end_unstored(session.name(), {id});
  write_down(session, outcome, "lift", {});
  if (outcome.recorded) make_visible(session, session.compile_or_deny_all(live), {outcome.lifted.front().grant.path});
  return outcome;
}

RevokeOutcome revoke_all(const ChangeTurn& turn) {
  Session& session = turn.session();
  std::vector<LiveGrant> live = session.parts().grants.of(session.name());
  RevokeOutcome outcome;
  outcome.ended = take_out(live, [](const LiveGrant& one) { return one.grant.effect == Effect::allow; });
  end_grants(session, outcome, live, "revoke");
  add_to(outcome, end_domains(turn, "revoke", [](const LiveDomain& one) { return one.rule.effect == Effect::allow; }));
  return outcome;
}

RevokeOutcome expire(const ChangeTurn& turn) {
  Session& session = turn.session();
  std::vector<LiveGrant> live = session.parts().grants.of(session.name());
  RevokeOutcome outcome;
  const auto now = system_clock::now();
  outcome.ended = take_out(live, [&](const LiveGrant& one) { return one.grant.expires && *one.grant.expires <= now; });
  if (!outcome.ended.empty()) end_grants(session, outcome, live, "expire");
  add_to(outcome, end_domains(turn, "expire", [&](const LiveDomain& one) { return one.expires && *one.expires <= now; }));
  return outcome;
}

// The handle that used it keeps it (LocalFileService pins it), and the export
// of a file from outside stays for that handle, its name hidden.
void end_used(const ChangeTurn& turn, const std::string& id) {
  Session& session = turn.session();
  GrantStore& store = session.parts().grants;
  const auto live = store.of(session.name());
  RevokeOutcome outcome;
  const auto used = std::find_if(live.begin(), live.end(),
                                 [&](const LiveGrant& one) { return one.used && one.grant.id == id; });
  if (used == live.end()) return;   // revoked meanwhile
  const auto next = session.compile_or_deny_all(live);
  session.admissions().publish(next);
  session.admissions().drain(kRevokeBound);
  session.events().publish(protocol::EventKind::entry, used->grant.path);
  outcome.ended = {*used};
  write_down(session, outcome, "used", {});
  if (!outcome.recorded) session.parts().say("grant " + id + " is used up, not recorded: " + outcome.not_recorded);
}

namespace {

bool same_rule(const policy::Rule& a, const policy::Rule& b) {
  return a.effect == b.effect && a.operations == b.operations && a.paths == b.paths &&
         a.except == b.except && a.match == b.match && a.match_except == b.match_except &&
         a.unless_created == b.unless_created;
}

bool speaks_of_writing(const policy::Rule& rule) {
  return !(rule.operations - (rule.operations - kWriting)).empty();
}

// Whether `rules` has a rule about writing that `others` has not.
bool has_other_writing(const std::vector<policy::Rule>& rules, const std::vector<policy::Rule>& others) {
  return std::any_of(rules.begin(), rules.end(), [&](const policy::Rule& rule) {
    return speaks_of_writing(rule) && std::none_of(others.begin(), others.end(), [&](const policy::Rule& other) {
             return same_rule(rule, other);
           });
  });
}

}  // namespace

Result<ReloadOutcome> reload(const ChangeTurn& turn) {
  Session& session = turn.session();
  FBROKER_TRY(policy::Policy fresh, session.read_policy());
  FBROKER_TRY(auto next, session.compile_anew(fresh, session.parts().grants.of(session.name())));
  // Retiring answers ESTALE on every open file: only where writing may be lost.
  const auto& before = session.policy().rules;
  const bool writing = has_other_writing(before, fresh.rules) || has_other_writing(fresh.rules, before);
  ReloadOutcome outcome;
  outcome.rules = fresh.rules.size();
  session.set_policy(std::move(fresh));
  outcome.finality = make_final(session, std::move(next), {{WorkspacePath(), writing}}, {});
  audit::Record record;
  record.session = session.name();
  record.operation = "reload";
  record.host_path = session.options().policy.value_or("");
  record.detail = std::to_string(outcome.rules) + " rules, durability " + std::string(name_of(session.policy().durability));
  outcome.recorded = session.parts().audit.append(record).has_value();
  return outcome;
}

}  // namespace fbroker::broker
