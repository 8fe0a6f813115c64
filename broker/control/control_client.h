// ControlClient: the person's side of the control socket, typed.
//
// Used by the verbs of the command line and by the launcher. One connection a
// call, each with a deadline: a broker that hangs is reported, not waited for.
// What a call answers is also kept as the JSON text the broker sent, for
// --json.
//
// For the launcher, in this order:
//   1. ControlClient::find_serving()   a broker that was started by `fbroker
//      serve`; none: start `fbroker serve --embedded --session NAME --ready-fd N`
//      as a child (no --policy, no --root: it starts without a session). When
//      it can be called it writes its control socket's path and a newline to
//      descriptor N; if N is closed without that, it failed and has said why on
//      stderr. It ends by itself when its parent is gone.
//   2. create_session(): the same on both; `socket_directory` is what to mount.
//   3. register_sandbox(): the host pid whose death ends everything inside (the
//      init of its PID namespace). Before the agent starts.
//   4. end_session(): the report; the session's grants are gone afterwards.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "policy/base/result.h"

namespace fbroker::control {

// Why a call did not do what was asked; `exit` is the program's status for it.
struct Failure {
  int exit = 1;        // 1 refused or not found, 2 usage or configuration, 3 not reachable
  std::string what;    // words for a person, with the cure where one is known
  std::string json;    // the broker's answer (application/problem+json), "" = none
};

template <class T>
using Answer = Result<T, Failure>;

// Paths here are bytes; the wire's encoding of names that are not UTF-8 is
// this class's business.
struct ExportShown {
  std::string at;         // workspace path
  std::string from;       // host path
  bool writable = false;  // whether anything at or below may be written
};

// A domain that the session may reach beside the policy's own.
struct ReachableHost {
  std::string id;                     // named as the reason: "agent:claude", "run"
  std::string host;                   // "api.example.com", "*.example.com", with ":port" where it is not 443
  std::string tls = "sni";            // "sni", "no-sni", "off"
};

struct NewSession {
  std::string name;                   // "" = the broker names it after root's last component
  std::string root;                   // absolute host path; what `from` is relative to
  std::optional<std::string> policy;  // absolute host path; none = the default policy
  std::optional<uid_t> peer_uid;      // who may connect to the data socket; none = the broker's own uid
  bool ends_with_caller = false;      // the session ends when the calling process does
  std::vector<ReachableHost> hosts = {};
  std::vector<std::pair<std::string, std::string>> aliases = {};   // "llm.local:11434" -> "127.0.0.1:11434"
  bool offline = false;               // nothing is reached, whatever policy, grants and the two above say
};

struct Session {
  std::string name;
  std::string socket_directory;       // to be mounted, read-only
  std::string socket;                 // in it
  std::vector<ExportShown> exports;
  std::vector<std::string> hidden;    // up to 20 workspace paths of existing files nobody inside sees
  std::uint64_t hidden_count = 0;     // how many were found in all (the search is bounded)
  std::vector<std::string> network;   // what may be reached: domains, aliases' names
  bool offline = false;
  std::string json;
};

struct Refused {
  std::uint64_t count = 0;
  std::string operation;   // "read", "write", "connect"
  std::string path;        // workspace path, or host:port
  std::string rule;
  std::string lift;        // the command that would allow it, "" = none would
};

// What a session did, at its end. Lists are bounded; the counts are not.
struct Report {
  std::uint64_t read = 0;            // files opened for reading
  std::uint64_t changed = 0;         // changes: files opened for writing, names made and removed
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t connections = 0;     // through the egress gate
  std::uint64_t received = 0;        // bytes, from the network
  std::uint64_t sent = 0;            // bytes, to it
  std::vector<Refused> refused;      // most frequent first
  std::vector<std::string> created_guarded;  // guarded names (hooks, task files) the session itself made
  std::string json;
};

struct DomainGrantRequest {
  std::string session;                     // "" = the only one
  std::string domain;                      // as in network.allow
  std::string tls = "sni";
  std::optional<std::chrono::seconds> lasts;
  std::string because;
};

struct GrantRequest {
  std::string session;                     // "" = the only one
  std::string path;                        // as the person wrote it
  std::string cwd;                         // absolute; relative paths start here
  std::string home;                        // what ~ stands for
  std::vector<std::string> operations;     // a level ("read", "write", "list") or single operations
  std::optional<std::chrono::seconds> lasts;  // none = until the session ends
  bool once = false;                       // one open
  bool override_deny = false;
  std::string because;
};

struct Granted {
  std::string id;
  std::string path;          // where the agent finds it: "/workspace/…"
  std::vector<std::string> operations;
  std::string expires;       // RFC 3339, "" = with the session
  std::string json;
};

struct RevokeRequest {
  std::string session;
  std::string target;        // PATH or ID; with `all` and `domain`: ""
  std::string cwd;
  std::string home;
  bool all = false;          // every grant ends, every session deny stays
  std::string domain = {};   // "" = none: afterwards nothing of it can be reached
};

struct Ended {
  std::string id;
  std::string path;
};

struct Revoked {
  std::vector<Ended> ended;            // grants that are over
  std::vector<Ended> denied;           // session denies that were added
  std::vector<std::string> overruled;  // rules and grants that would still have allowed it
  std::uint64_t handles_closed = 0;
  bool recorded = true;                // false: it is revoked, but the log could not be written
  bool sandbox_killed = false;         // a client did not acknowledge in time
  double milliseconds = 0;
  std::string json;
};

struct CheckRequest {
  std::string session, path, cwd, home, operation;
  std::string domain = {};   // instead of path and operation
};

struct Checked {
  std::string decision;    // "allow", "ask", "deny"
  std::string rule;
  std::string because;
  std::string path;        // workspace path it was decided on
  std::string lift;        // the command that would allow it, "" = none
  std::string json;
};

// A broker that answers on a control socket.
struct LiveBroker {
  std::string control;     // socket
  std::string name;
  bool embedded = false;
  std::vector<std::string> sessions;
};

// Every live broker of this user: the sockets in the control directory, or
// only FBROKER_CONTROL's when that is set.
std::vector<LiveBroker> live_brokers();

// Threads: none shared; each call opens its own connection.
class ControlClient {
 public:
  explicit ControlClient(std::string socket, std::string name = "") : socket_(std::move(socket)), name_(std::move(name)) {}

  // The broker that has `session`; with "" the only live one.
  // Errors: exit 3 and how to start one when none lives; exit 2 and the names
  // when several do.
  static Answer<ControlClient> find(const std::string& session);
  // A broker on which a new session lives on its own (not an embedded one).
  static Answer<ControlClient> find_serving();

  const std::string& socket() const noexcept { return socket_; }
  const std::string& name() const noexcept { return name_; }   // the broker's, where it was found

  Answer<Session> create_session(const NewSession&) const;
  Answer<Session> session(const std::string& name) const;
  Answer<void> register_sandbox(const std::string& session, pid_t pid) const;
  Answer<Report> end_session(const std::string& name) const;

  Answer<Granted> grant(const GrantRequest&) const;
  Answer<Granted> grant_domain(const DomainGrantRequest&) const;   // Granted::path is the domain
  Answer<Revoked> revoke(const RevokeRequest&) const;
  Answer<Checked> check(const CheckRequest&) const;

  // JSON texts, as the broker sent them.
  Answer<std::string> status() const;
  Answer<std::string> grants(const std::string& session) const;
  Answer<std::string> reload() const;

  // Any route; the answer's body.
  Answer<std::string> call(std::string_view method, std::string_view target,
                           std::string_view body) const;

 private:
  std::string socket_, name_;
};

}  // namespace fbroker::control
