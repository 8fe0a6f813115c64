#include "broker/grants/domain_changes.h"

#include <algorithm>
#include <cstring>

namespace fbroker::broker {

using policy::Effect;
using std::chrono::system_clock;

namespace {

audit::Record record_of(const Session& session, const char* operation, const LiveDomain& live) {
  audit::Record record;
  record.session = session.name();
  record.operation = operation;
  record.host = live.rule.pattern.text();
  record.port = live.rule.pattern.port;
  record.decision = policy::name_of(live.rule.effect);
  record.reason = live.rule.id;
  if (live.rule.tls != policy::TlsCheck::sni) record.detail = "tls " + std::string(policy::name_of(live.rule.tls));
  if (!live.rule.because.empty()) record.detail += (record.detail.empty() ? "" : "; ") + live.rule.because;
  return record;
}

// A revoke never fails for the store or the log; it says so.
void write_down(Session& session, RevokeOutcome& outcome, const char* operation) {
  const auto failed = [&](const std::string& why) {
    outcome.recorded = false;
    outcome.not_recorded = why;
  };
  if (const auto stored = session.parts().grants.store(); !stored) failed(stored.error().text());
  const auto append = [&](const char* what, const std::vector<LiveDomain>& list) {
    for (const LiveDomain& live : list)
      if (const auto written = session.parts().audit.append(record_of(session, what, live)); !written)
        failed(std::string("the audit log cannot be written: ") + std::strerror(written.error().value));
  };
  append(operation, outcome.domains_ended);
  append(operation, outcome.domains_denied);
  append("lift", outcome.domains_lifted);
}

std::vector<std::string> ids_of(const std::vector<LiveDomain>& list) {
  std::vector<std::string> ids;
  ids.reserve(list.size());
  for (const LiveDomain& live : list) ids.push_back(live.rule.id);
  return ids;
}

std::shared_ptr<const View> view_now(Session& session) {
  return session.compile_or_deny_all(session.parts().grants.of(session.name()));
}

}  // namespace

Result<LiveDomain, GrantRefused> grant_domain(const ChangeTurn& turn, LiveDomain wanted) {
  Session& session = turn.session();
  GrantStore& store = session.parts().grants;
  if (session.options().offline) return GrantRefused{"the session was started with --offline", "offline"};
  wanted.rule.effect = Effect::allow;
  wanted.made = system_clock::now();
  const auto stored = store.add(session.name(), std::move(wanted));
  if (!stored) return GrantRefused{stored.error().text(), ""};
  const auto take_back = [&](const std::string& why) {
    store.end_unstored(session.name(), {stored->rule.id});
    (void)store.store().has_value();  // it is not in force; a stored one that stays would be, later
    return GrantRefused{why + "; nothing was granted", ""};
  };
  if (!session.parts().audit.append(record_of(session, "grant", *stored)))
    return take_back("the audit log cannot be written");
  auto next = session.compile(session.policy(), store.of(session.name()));
  if (!next) return take_back(next.error().text());
  make_visible(session, std::move(*next), {});
  return *stored;
}

RevokeOutcome revoke_domain(const ChangeTurn& turn, const policy::HostPattern& pattern) {
  Session& session = turn.session();
  GrantStore& store = session.parts().grants;
  RevokeOutcome outcome;
  // What it covers is over: grants, and older denies that become part of this one.
  for (const LiveDomain& live : store.domains_of(session.name()))
    if (live.rule.effect == Effect::allow && pattern.covers(live.rule.pattern)) outcome.domains_ended.push_back(live);
  store.end_unstored(session.name(), ids_of(outcome.domains_ended));

  const auto without = view_now(session);
  for (const policy::HostRule& rule : without->network->rules())
    if (rule.effect == Effect::allow && rule.pattern.meets(pattern)) outcome.overruled.push_back(rule.id);
  if (!outcome.overruled.empty()) {
    LiveDomain deny;
    deny.rule.effect = Effect::deny;
    deny.rule.pattern = pattern;
    deny.rule.because = "revoked";
    deny.made = system_clock::now();
    outcome.domains_denied.push_back(store.add_unstored(session.name(), std::move(deny)));
  }
  outcome.finality = make_final(session, view_now(session), {}, {});
  write_down(session, outcome, "revoke");
  return outcome;
}

RevokeOutcome end_domains(const ChangeTurn& turn, const char* operation,
                          const std::function<bool(const LiveDomain&)>& over) {
  Session& session = turn.session();
  GrantStore& store = session.parts().grants;
  RevokeOutcome outcome;
  for (const LiveDomain& live : store.domains_of(session.name()))
    if (over(live)) (live.rule.effect == Effect::allow ? outcome.domains_ended : outcome.domains_lifted).push_back(live);
  if (outcome.domains_ended.empty() && outcome.domains_lifted.empty()) return outcome;
  store.end_unstored(session.name(), ids_of(outcome.domains_ended));
  store.end_unstored(session.name(), ids_of(outcome.domains_lifted));
  // What is lifted opens something: written down first, as a grant is.
  if (!outcome.domains_lifted.empty()) write_down(session, outcome, operation);
  if (outcome.recorded) outcome.finality = make_final(session, view_now(session), {}, {});
  if (outcome.domains_lifted.empty()) write_down(session, outcome, operation);
  return outcome;
}

}  // namespace fbroker::broker
