// EgressGate: the only way out of a session (design section 6): which host may
// be reached, a record of every connection and every refusal, and an end to
// what a revoke takes away.
//
// The session's view says what is allowed; the gate knows who is connected.
// INVARIANT: a tunnel is on the gate's list before it is decided on. So a change
//   either finds it there, or it is decided by what the change has published.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "broker/sessions/context.h"
#include "broker/protocol/file_service.h"
#include "policy/network.h"

namespace fbroker::broker {

class Tunnel;

// How long each part of a connection may take, and how many there may be.
struct EgressOptions {
  std::size_t max_tunnels = 100;
  std::chrono::milliseconds resolve_bound{15'000};
  std::chrono::milliseconds connect_bound{10'000};     // of each address
  std::chrono::milliseconds hello_bound{15'000};       // for the client's ClientHello
  std::chrono::milliseconds idle_bound{30 * 60'000};   // without a byte either way
  // For tests: instead of the system's resolver.
  std::function<Result<std::vector<policy::Address>>(const std::string& name)> resolve;
};

// Why a connection was not made; also on the record.
struct EgressRefusal {
  unsigned status = 403;     // as HTTP says it
  std::string what;          // for the agent and the person: never an address
  std::string rule;
};

// Threads: all members, any thread.
class EgressGate {
 public:
  explicit EgressGate(const SessionContext& context, EgressOptions options = {})
      : context_(context), options_(std::move(options)) {}
  // Precondition: no tunnel is left.
  ~EgressGate() = default;

  // "host:port" as a client wrote it, with `port` where it names none (0: it must).
  Result<std::shared_ptr<Tunnel>, EgressRefusal> open(const protocol::Caller& caller, std::string_view asked,
                                                      std::uint16_t port);

  // Records what is no request for a connection at all, and returns `why`.
  EgressRefusal refused(const protocol::Caller& caller, std::string_view asked, const EgressRefusal& why);

  // Cuts every tunnel that the current view does not allow, and waits until no
  // byte of theirs passes any more. Returns how many were cut; none of them has
  // a connection when `ended`.
  struct Cut {
    std::size_t count = 0;
    bool ended = true;
  };
  Cut cut_refused(std::chrono::milliseconds bound);

  std::size_t tunnels() const;
  const EgressOptions& options() const noexcept { return options_; }

 private:
  friend class Tunnel;
  bool is_listed(const Tunnel& tunnel) const;                // under mutex_
  void remove(const Tunnel& tunnel);
  Result<void> record(const Tunnel& tunnel, const struct TunnelRecord& what);
  EgressRefusal refuse(const Tunnel& tunnel, EgressRefusal why);

  const SessionContext& context_;
  EgressOptions options_;
  const std::shared_ptr<std::atomic<std::size_t>> look_ups_ = std::make_shared<std::atomic<std::size_t>>(0);
  mutable std::mutex mutex_;              // guards tunnels_; taken before a tunnel's own
  std::condition_variable removed_;
  std::set<std::shared_ptr<Tunnel>> tunnels_;
};

}  // namespace fbroker::broker
