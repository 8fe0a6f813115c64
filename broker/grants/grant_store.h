// GrantStore: the live grants and session denies of every session, and their
// file (grants.json in the state directory).
//
// Unexpired grants survive a restart of the broker. Ids and orders are never
// used again, not even after one: a record that says "g3" means one grant.
// Threads: any.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "broker/sessions/state_dir.h"
#include "policy/model.h"
#include "policy/network.h"

namespace fbroker::broker {

struct LiveGrant {
  policy::Grant grant;
  // A host file outside every export: shown at grant.path for as long as the
  // grant lives. Absolute host path, "" = the path lies in an export.
  std::string from;
  std::chrono::system_clock::time_point made;
  // A grant for one open that was used: it lives on in that handle alone, which
  // needs its export to stay. Not stored: the handle does not survive either.
  bool used = false;
};

// A domain that a person granted, or (effect deny) took away. `rule.id` and
// `rule.order` are the store's to give.
struct LiveDomain {
  policy::HostRule rule;
  std::optional<std::chrono::system_clock::time_point> expires;
  std::chrono::system_clock::time_point made;
};

class GrantStore {
 public:
  static constexpr std::size_t kMaxGrants = 1000;  // per session, denies included; add() only: a revoke never fails
  static constexpr std::size_t kMaxFileBytes = 8 << 20;

  // Errors: a file that is not what replace() writes (never guessed at: a grant
  // that was lost is found out by its user, one that was made up is not).
  static Result<std::unique_ptr<GrantStore>> open(const StateDir& state);

  std::vector<LiveGrant> of(const std::string& session) const;

  // Stores it under the next id ("g7", a deny "r8"), which it returns.
  // When that fails nothing is changed.
  Result<LiveGrant> add(const std::string& session, LiveGrant grant);
  // The id and order that add_unstored() puts in; for a revoke, which must
  // not wait for the disk.
  LiveGrant add_unstored(const std::string& session, LiveGrant grant);
  // The same for domains; they are numbered together with the paths' entries.
  std::vector<LiveDomain> domains_of(const std::string& session) const;
  Result<LiveDomain> add(const std::string& session, LiveDomain domain);
  LiveDomain add_unstored(const std::string& session, LiveDomain domain);

  // Takes them out in memory whatever happens.
  void end_unstored(const std::string& session, const std::vector<std::string>& ids);
  // A grant for one open was used, and is so for the next broker, too.
  // Errors: it cannot be written. (In memory it counts as used all the same.)
  Result<void> use_up(const std::string& session, const std::string& id);
  void forget_session(const std::string& session);
  // Writes what the calls above did.
  Result<void> store();

  // When the next grant of this session expires.
  std::optional<std::chrono::system_clock::time_point> next_expiry(const std::string& session) const;

 private:
  explicit GrantStore(const StateDir& state) : state_(state) {}
  Result<void> load();
  Result<void> write();                             // under mutex_
  std::string next_id(policy::Effect effect, std::uint64_t& order);   // under mutex_
  template <class Live>
  Result<Live> add_to(std::vector<Live>& list, Live live, const std::string& session);   // under mutex_
  LiveGrant numbered(LiveGrant grant);              // under mutex_
  LiveDomain numbered(LiveDomain domain);           // under mutex_
  const StateDir& state_;
  mutable std::mutex mutex_;                        // guards all below, and the file
  std::map<std::string, std::vector<LiveGrant>> sessions_;
  std::map<std::string, std::vector<LiveDomain>> domains_;
  std::uint64_t next_ = 1;
};

}  // namespace fbroker::broker
