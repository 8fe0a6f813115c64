// Record: one line of the audit log, before it is written.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace fbroker::audit {

// Every field is optional on the wire where it is empty here. `sequence`, time
// and the chain are the log's to add.
struct Record {
  std::string session;        // "" = the broker itself
  std::string operation;      // a syscall's name ("open", "rename"), or "grant",
                              // "revoke", "reload", "session-start", …
  std::string path;           // canonical workspace path, bytes
  std::string requested;      // as the client wrote it, when that differs
  std::string target;         // second path of rename, link and symlink
  std::string host_path;      // never shown to the agent
  std::string decision;       // "allow", "ask", "deny"; "" where none was taken
  std::string reason;         // the rule or grant: "base:env", "g3", "default"
  int error = 0;              // errno of the result; 0 = it worked
  std::uint32_t pid = 0;      // as the client claims
  std::uint32_t peer_pid = 0; // SO_PEERCRED of the connection, 0 = unknown
  std::uint64_t handle = 0;
  std::optional<std::uint64_t> bytes_read;
  std::optional<std::uint64_t> bytes_written;
  std::uint64_t repeated = 1; // how many equal refusals this record folds
  // Of a connection through the egress gate:
  std::string host;           // as asked for
  std::string address;        // that was connected to
  std::uint64_t port = 0;
  std::optional<std::uint64_t> milliseconds;   // how long it was open
  std::string detail;         // free words: open flags, "override-deny", …
};

}  // namespace fbroker::audit
