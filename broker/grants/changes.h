// What a person (or the clock) changes in a running session: grant, revoke,
// expiry, reload. Each works out what is to be, makes it so in the order of
// design section 7, and writes it down.
//
// Precondition of all: the turn is the session's (Session::take_turn()).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "broker/grants/grant_store.h"
#include "broker/grants/revoke.h"
#include "broker/sessions/session.h"

namespace fbroker::broker {

// Why a grant was not made. `rule`: the deny in whose way it stands.
struct GrantRefused {
  std::string what;
  std::string rule;
};

// Stores, records, publishes. `wanted` has path, operations, … and no id.
// Refused: a rule's deny would keep it from working and override_deny is not
// set; a file that cannot be exported; a store or log that cannot be written.
// Then nothing has changed.
Result<LiveGrant, GrantRefused> grant(const ChangeTurn& turn, LiveGrant wanted);

struct RevokeOutcome {
  std::vector<LiveGrant> ended;
  std::vector<LiveGrant> denied;         // session denies that were added
  std::vector<std::string> overruled;    // what would still have allowed something
  std::vector<LiveGrant> lifted;         // session denies that were taken back by id
  std::vector<LiveDomain> domains_ended, domains_denied, domains_lifted;   // the same for domains
  Finality finality;
  bool recorded = true;
  std::string not_recorded;              // why
};

// Afterwards nothing at or below any of `places` is accessible, whatever
// allowed it.
RevokeOutcome revoke_places(const ChangeTurn& turn, const std::vector<WorkspacePath>& places);

// Ends one live entry, of a path or of a domain. A grant: with all the steps of a revoke. A session deny:
// takes it back, so that the policy's rules hold there again.
// None: there is no such id.
std::optional<RevokeOutcome> revoke_id(const ChangeTurn& turn, const std::string& id);

// Ends every grant. Session denies stay: a revoke never opens anything; their
// ids are named, so that they can be taken back one by one.
RevokeOutcome revoke_all(const ChangeTurn& turn);

// Ends what is over by the clock; nothing to do is an outcome without `ended`.
RevokeOutcome expire(const ChangeTurn& turn);
// A grant for one open was used: over for everything but that handle.
void end_used(const ChangeTurn& turn, const std::string& id);

struct ReloadOutcome {
  Finality finality;
  std::size_t rules = 0;
  bool recorded = true;
};

// The policy file anew. Errors: it is broken, or an export of it; then nothing
// has changed.
Result<ReloadOutcome> reload(const ChangeTurn& turn);

}  // namespace fbroker::broker
