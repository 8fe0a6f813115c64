// What a person changes in what a session may reach: the same steps as for
// paths (changes.h), for domains.
//
// Precondition of all: the turn is the session's.
#pragma once

#include "broker/grants/changes.h"

namespace fbroker::broker {

// Stores, records, publishes. `wanted` has no id.
// Refused: the session is offline; the store or log cannot be written.
Result<LiveDomain, GrantRefused> grant_domain(const ChangeTurn& turn, LiveDomain wanted);

// Afterwards nothing that `pattern` matches can be reached, whatever allowed
// it, and no connection to it is left.
RevokeOutcome revoke_domain(const ChangeTurn& turn, const policy::HostPattern& pattern);

// Ends the live entries that `over` names, with all the steps of a revoke; a
// session deny among them is taken back.
RevokeOutcome end_domains(const ChangeTurn& turn, const char* operation,
                          const std::function<bool(const LiveDomain&)>& over);

}  // namespace fbroker::broker
