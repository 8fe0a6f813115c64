// Session: one sandboxed agent: its policy, exports, gate, events, files and
// data socket, put together.
//
// What it is allowed changes only through broker/grants/changes.h, one change
// at a time (ChangeTurn).
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "broker/device/adopted_mount.h"
#include "broker/files/local_file_service.h"
#include "broker/files/revoked_files.h"
#include "broker/grants/grant_store.h"
#include "broker/http/http_front.h"
#include "broker/sessions/admissions.h"
#include "broker/sessions/context.h"
#include "broker/sessions/event_bus.h"
#include "broker/sessions/sandbox.h"
#include "broker/sessions/session_counts.h"
#include "broker/watch/host_watch.h"
#include "policy/policy.h"

namespace fbroker::broker {

struct SessionOptions {
  std::string name;
  std::string root;                   // absolute; what an export's `from` is relative to
  std::string home;                   // absolute; what ~ stands for
  std::optional<std::string> policy;  // absolute path of p.json; none = the default policy
  uid_t peer_uid = 0;                 // who may connect, besides the broker's own user
  std::string socket_directory;       // to be mounted; holds the socket and nothing else
  std::string socket_name = "broker.sock";
  // What may be reached beside the policy's network and domain grants.
  std::vector<policy::HostRule> hosts;
  bool offline = false;               // nothing, whatever any of them says
};

class Session;

// What all sessions of a broker share. Everything here outlives them.
struct BrokerParts {
  audit::AuditSink& audit;
  OwnFiles& own_files;
  GrantStore& grants;
  // A grant for one open was used, and is stored as that. Called from any
  // thread, must not block.
  std::function<void(const std::string& session, std::string grant)> on_grant_used;
  // Something that a person at the broker's terminal should read.
  std::function<void(const std::string&)> say;
  // A session's sandbox has made itself known. Errors as Sandbox::open.
  std::function<Result<void>(Session&, pid_t)> on_sandbox;
  // What a mount needs to outlive the broker: descriptors, and a directory for its tables.
  Keeper& keeper;
  std::string mounts;
};

// The right to change what a session may do. Held while a change is worked out
// and made, so that no two can mix.
class ChangeTurn {
 public:
  Session& session() const noexcept { return *session_; }

 private:
  friend class Session;
  ChangeTurn(Session& session, std::mutex& mutex) : session_(&session), lock_(mutex) {}
  Session* session_;
  std::unique_lock<std::mutex> lock_;
};

// Threads: any, unless a member says something else.
class Session {
 public:
  // `sandbox`: that of a session taken up again, known before its first client.
  // Errors: the policy (every diagnostic, a line each), an export, the socket
  // (a live broker's: says so).
  static Result<std::unique_ptr<Session>> open(SessionOptions options, BrokerParts& parts,
                                               std::optional<Sandbox> sandbox = std::nullopt);
  ~Session();

  const SessionOptions& options() const noexcept { return options_; }
  const std::string& name() const noexcept { return options_.name; }
  std::string socket() const { return options_.socket_directory + "/" + options_.socket_name; }

  ChangeTurn take_turn() { return ChangeTurn(*this, turn_); }
  std::shared_ptr<const View> view() const { return admissions_.current(); }

  // A view with this policy and these grants, of the next generation. An export
  // of a granted file that is not there (any more) is left out.
  Result<std::shared_ptr<const View>> compile(const policy::Policy& policy,
                                              const std::vector<LiveGrant>& grants);
  // The same, and looks on the host for what else a rule has to know: where the
  // person's repositories are (sessions/repositories.h). For a start or reload.
  Result<std::shared_ptr<const View>> compile_anew(const policy::Policy& policy,
                                                   const std::vector<LiveGrant>& grants);
  // The same as compile() with the policy in force. Never fails: what cannot be compiled
  // becomes a view that allows nothing.
  std::shared_ptr<const View> compile_or_deny_all(const std::vector<LiveGrant>& grants);

  // Reads the policy file anew; the policy in force stays as it is.
  Result<policy::Policy> read_policy() const;
  // Precondition (both): a turn is held.
  const policy::Policy& policy() const noexcept { return policy_; }
  void set_policy(policy::Policy policy) { policy_ = std::move(policy); }

  // Files that are denied, under every name, for as long as the session deny
  // `deny_id` lives: from the next compile() on. Precondition (both): a turn is held.
  void keep_revoked(const std::string& deny_id, const FilesBelow& found) { revoked_[deny_id].add(found); }
  // A wider deny takes the place of others.
  void inherit_revoked(const std::string& deny_id, const std::vector<std::string>& from);

  void set_sandbox(Sandbox sandbox);
  std::shared_ptr<const Sandbox> sandbox() const;
  // Kills the sandbox, if there is one, and aborts its device's connection.
  // Whether it was gone within `bound`.
  bool kill_sandbox(std::chrono::milliseconds bound);

  // The launcher whose death ends the session; none: it lives until it is ended.
  void set_launcher(HostProcess launcher);
  std::shared_ptr<const HostProcess> launcher() const;

  // Takes the sandbox's FUSE device, once: from the first process of the
  // sandbox that was registered, else of the one that asks, which becomes the
  // session's. Errors: why it is not taken.
  Result<void> may_adopt(pid_t peer) const;
  // The device comes on this connection, and the answer goes there. Returns at once.
  void adopt(UniqueFd connection, pid_t peer);
  // What the sandbox's workspace is served by; none: HTTP.
  std::shared_ptr<AdoptedMount> mount() const;

  // Removes the socket, its directory and its lock: the session does not come
  // back. Precondition: stopped.
  void remove_socket();

  // Ends the data socket: running requests get `grace`.
  void stop(std::chrono::milliseconds grace);

  BrokerParts& parts() noexcept { return parts_; }
  Admissions& admissions() noexcept { return admissions_; }
  EventBus& events() noexcept { return events_; }
  LocalFileService& files() noexcept { return *files_; }
  HttpFront& front() noexcept { return *front_; }
  EgressGate& egress() noexcept { return *egress_; }
  SessionCounts& counts() noexcept { return counts_; }

 private:
  Session(SessionOptions options, BrokerParts& parts, policy::Policy policy);
  Result<void> start();
  Result<void> adopt_now(int connection, pid_t peer);
  void resume_mount();
  policy::NetworkRules network(const policy::Policy& policy) const;
  std::shared_ptr<const RevokedFiles> revoked_by(const std::vector<LiveGrant>& grants) const;
  bool find_revoked(const std::vector<LiveGrant>& grants);

  SessionOptions options_;
  BrokerParts& parts_;
  policy::Policy policy_;               // guarded by turn_
  std::vector<policy::Rule> repositories_;   // guarded by turn_; found on the host
  std::map<std::string, FilesBelow> revoked_;   // by session deny; guarded by turn_
  std::atomic<std::uint64_t> generation_{0};
  std::mutex turn_;                     // one change at a time; taken before any other lock here
  SessionCounts counts_;
  Admissions admissions_;
  EventBus events_;
  std::unique_ptr<HostWatch> watch_;
  std::unique_ptr<SessionContext> context_;
  std::unique_ptr<LocalFileService> files_;
  std::unique_ptr<EgressGate> egress_;
  UniqueFd socket_lock_;
  std::unique_ptr<HttpFront> front_;
  mutable std::mutex processes_mutex_;  // guards what follows
  std::shared_ptr<const Sandbox> sandbox_;
  std::shared_ptr<const HostProcess> launcher_;
  std::shared_ptr<AdoptedMount> mount_;
  bool adopting_ = false;
  std::thread adoption_;
};

// A whole text file. Errors: it cannot be read, is not a regular file, has more
// than max_bytes.
Result<std::string> read_text_file(const std::string& path, std::size_t max_bytes);

}  // namespace fbroker::broker
