// BrokerSession: the launcher's session on a broker, found or started.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/control/control_client.h"
#include "container/sandbox.h"
#include "policy/base/result.h"

namespace fbroker::container {

struct SessionRequest {
  std::string name;                   // "" = one is made up from root's last component
  std::string root;                   // absolute
  std::optional<std::string> policy;  // absolute
  uid_t peer_uid = 0;                 // who the sandbox's processes are
  std::string self;                   // the fbroker program, to start a broker with
  std::vector<control::ReachableHost> hosts;                   // beside the policy's own
  std::vector<std::pair<std::string, std::string>> aliases;
  bool offline = false;
};

// Ends the session and, where we started it, the broker, at the latest in its
// destructor.
// Threads: none.
class BrokerSession {
 public:
  // On a broker that was started by `fbroker serve`, else on one of our own.
  static Result<BrokerSession> open(const SessionRequest& request);
  BrokerSession(BrokerSession&&) = default;
  BrokerSession& operator=(BrokerSession&&) = delete;
  ~BrokerSession();

  const control::Session& session() const noexcept { return session_; }
  // The broker that serves others, too; "" = one of our own.
  const std::string& serving_broker() const noexcept { return serving_broker_; }

  // Where we started the broker: readable when it has ended. -1: it is not ours.
  int broker_ended() const noexcept { return broker_.pidfd(); }
  // Starts it again; it goes on with the session. Errors: it does not start, or
  // has not lived for long after several starts.
  Result<void> restart_broker();

  // From here on the broker can end the sandbox, when it must take something back.
  Result<void> register_sandbox(pid_t first) const;

  // What happened. Afterwards nothing of the session is left.
  Result<control::Report> end();

 private:
  // Owns an embedded broker's process; stops it with bounded patience.
  class Embedded {
   public:
    Embedded() = default;
    explicit Embedded(Child child) : child_(std::move(child)) {}
    Embedded(Embedded&& other) noexcept : child_(std::exchange(other.child_, Child())) {}
    Embedded& operator=(Embedded other) noexcept {
      std::swap(child_, other.child_);
      return *this;
    }
    ~Embedded() { stop(); }
    void stop() noexcept;
    int pidfd() const noexcept { return child_.pidfd(); }

   private:
    Child child_;
  };

  BrokerSession(control::ControlClient client, Embedded broker)
      : client_(std::move(client)), broker_(std::move(broker)) {}
  static Result<std::pair<Embedded, std::string>> start_broker(const std::string& self, const std::string& name,
                                                               bool again);

  control::ControlClient client_;
  Embedded broker_;
  std::string self_;
  std::string broker_name_;
  std::chrono::steady_clock::time_point started_{};
  int short_lives_ = 0;
  std::string serving_broker_;
  control::Session session_;
};

// A session's name from a directory's, not yet in use.
std::string name_for(const std::string& root);

}  // namespace fbroker::container
