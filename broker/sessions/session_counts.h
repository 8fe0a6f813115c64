// SessionCounts: an audit sink that lets every record pass and counts what the
// report at a session's end tells.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "broker/audit/audit_log.h"

namespace fbroker::broker {

struct CountedRefusal {
  std::uint64_t count = 0;
  std::string operation;   // "read" or "write": the level that a grant would have to give; "connect"
  std::string path;        // workspace path; host:port
  std::string rule;
};

struct Counts {
  std::uint64_t read = 0;       // files opened for reading alone
  std::uint64_t changed = 0;    // files opened for writing, names made, moved, removed
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t connections = 0;   // through the egress gate
  std::uint64_t received = 0;      // bytes, from the network
  std::uint64_t sent = 0;          // bytes, to it
  std::uint64_t refusals = 0;   // all of them, listed below or not
  std::vector<CountedRefusal> refused;   // most frequent first
};

// Threads: any.
class SessionCounts final : public audit::AuditSink {
 public:
  // ATTACK: a session asks for millions of names that it may not see.
  static constexpr std::size_t kMaxDistinctRefusals = 500;

  explicit SessionCounts(audit::AuditSink& log) : log_(log) {}

  Result<void, Errno> append(const audit::Record& record) override;
  Result<void, Errno> ready() override { return log_.ready(); }
  Result<void, Errno> ready(const std::string& session) override { return log_.ready(session); }
  Result<void, Errno> wait_durable() override { return log_.wait_durable(); }

  Counts counts() const;

 private:
  using Key = std::tuple<std::string, std::string, std::string>;  // operation, path, rule
  void count(const audit::Record& record);
  audit::AuditSink& log_;
  mutable std::mutex mutex_;   // guards all below
  Counts sums_;
  std::map<Key, std::uint64_t> refused_;
};

}  // namespace fbroker::broker
