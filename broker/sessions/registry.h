// Registry: a broker's sessions, and what they share: state, audit log, grants,
// the files that belong to the broker itself, and the thread that ends what is
// over by the clock and reloads policies that changed.
//
// Sessions are remembered in sessions.json: a broker started again on the same
// state has them again, on the same sockets.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "broker/audit/audit_log.h"
#include "broker/files/own_files.h"
#include "broker/grants/changes.h"
#include "broker/grants/grant_store.h"
#include "broker/sessions/session.h"
#include "broker/sessions/state_dir.h"

namespace fbroker::broker {

class Maintenance;

struct RegistryOptions {
  std::string broker = "default";       // its name
  std::string state_directory;          // absolute
  std::string audit_directory;          // absolute
  std::string audit_head;               // absolute; "" = in the state directory
  std::function<void(const std::string&)> say;  // to the person at the terminal; any thread
  std::string keeper_program = {};      // fbroker; "" = no mount outlives the broker
};

// A session as it is asked for; what is empty has a default.
struct WantedSession {
  std::string name;                     // "" = after the root's last component
  std::string root;                     // absolute
  std::optional<std::string> policy;    // absolute
  std::optional<uid_t> peer_uid;
  std::string socket;                   // absolute path; "" = in the runtime directory
  std::vector<policy::HostRule> hosts = {};  // that it may reach beside the policy's; aliases among them
  bool offline = false;
};

// Threads: all members, any thread.
class Registry {
 public:
  static constexpr std::size_t kMaxSessions = 64;

  // Errors: the state or audit directory is used by another broker, not ours, …
  static Result<std::unique_ptr<Registry>> open(RegistryOptions options);
  ~Registry();

  // Sessions of a broker that ran on this state before, `but_not` aside. One
  // that cannot be opened (its root is gone) is told and left out, but not
  // forgotten; one whose sandbox is gone has ended. (One whose launcher is gone
  // has ended, too, when the registry opens.)
  void restore(const std::string& but_not);

  // What becomes of grants that are stored under the session's name.
  enum class OldGrants {
    keep,    // the same session again: `serve` after a restart
    forget,  // a new one, which happens to be called the same
  };
  // `launcher`: the session ends when this process does.
  // Errors: the name is taken or no name; root; policy; the socket.
  Result<std::shared_ptr<Session>> create(const WantedSession& wanted, OldGrants old,
                                          std::optional<HostProcess> launcher = {});
  std::shared_ptr<Session> find(const std::string& name) const;
  std::vector<std::shared_ptr<Session>> all() const;
  // Its socket closes, its grants end, and nothing is left of it but its
  // records; it is returned for its report. None: there is no such session.
  std::shared_ptr<Session> end(const std::string& name);
  // Ends the sessions whose launcher is gone, and kills what is left inside.
  void end_abandoned();
  // Errors as Sandbox::open; the session has ended.
  Result<void> register_sandbox(Session& session, pid_t pid);

  // A grant with a time was made: the clock's thread looks anew.
  void wake();

  // Reads every session's policy anew; a line for each, also told.
  struct Reloaded {
    std::string session;
    bool done = false;
    std::string words;
  };
  std::vector<Reloaded> reload_all();

  // A sandbox is about to come: what will keep its device can be started.
  void begin_keeper();

  // Ends every session, with what runs inside: no broker will take them up again.
  void end_all();
  // All sessions stop serving; they stay in sessions.json. Running requests
  // get `grace`.
  void drain(std::chrono::milliseconds grace);

  const RegistryOptions& options() const noexcept { return options_; }
  audit::AuditLog& audit() noexcept { return *audit_; }
  GrantStore& grants() noexcept { return *grants_; }
  const OwnFiles& own_files() const noexcept { return own_files_; }

 private:
  struct Remembered {
    WantedSession wanted;
    pid_t sandbox = 0;
    std::uint64_t sandbox_started = 0;
    pid_t launcher = 0;
    std::uint64_t launcher_started = 0;
  };
  Registry(RegistryOptions options, StateDir state);
  Result<void> start();
  Result<WantedSession> canonical(WantedSession wanted);
  Result<std::shared_ptr<Session>> open_session(const WantedSession& wanted,
                                                std::optional<Sandbox> sandbox = std::nullopt);  // under mutex_
  Result<void> remember();                      // under mutex_
  Result<std::map<std::string, Remembered>> read_remembered() const;
  template <class Ended>
  void forget_if(Ended ended, const std::string& whose);           // under mutex_
  void take_up(const std::string& name, const Remembered& known);  // under mutex_
  bool end(Session& session, const std::string& why);
  std::string mounts() const { return state_.path() + "/mounts"; }
  void record(const std::string& session, const char* operation, const std::string& host_path,
              const std::string& detail = "");

  RegistryOptions options_;
  StateDir state_;
  OwnFiles own_files_;
  std::unique_ptr<audit::AuditLog> audit_;
  std::unique_ptr<GrantStore> grants_;
  std::unique_ptr<Keeper> keeper_;
  std::optional<BrokerParts> parts_;
  mutable std::mutex mutex_;                    // guards all below; taken before a session's turn
  std::map<std::string, std::shared_ptr<Session>> sessions_;
  std::map<std::string, Remembered> remembered_;
  std::set<std::string> ending_;                // their sockets are not free yet
  std::condition_variable ended_;               // one of ending_ is gone
  std::unique_ptr<Maintenance> maintenance_;    // last: its thread ends first
};

}  // namespace fbroker::broker
