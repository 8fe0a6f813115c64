// AuditLog: no access without its record (design section 8, docs/audit.md).
//
// A directory of segments 000001.jsonl, 000002.jsonl, … : one JSON object a
// line, each with the hash of the one before. Many producers, one writer.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "broker/audit/record.h"
#include "policy/base/result.h"

namespace fbroker::audit {

// Threads: append() may be called from any thread.
class AuditSink {
 public:
  virtual ~AuditSink() = default;

  // Takes the record over before it returns: from then on a killed broker's
  // successor still writes it. Callers append *before* they answer a client.
  // INVARIANT: if this fails, the caller refuses the work (EIO): what cannot be
  // recorded does not happen.
  // Errors: EIO while the log cannot be written.
  virtual Result<void, Errno> append(const Record& record) = 0;

  // Whether append() would be taken now: asked before a change is made, since
  // its record can only be written once its result is known. Must be cheap.
  // Errors: EIO while the log cannot be written.
  virtual Result<void, Errno> ready() { return ok; }
  // As ready(), and besides: whether `session` is within its quota. Who asked
  // this can append the record of what it then did (a reserve is kept for it).
  virtual Result<void, Errno> ready(const std::string& session) { return (void)session, ready(); }

  // Waits until what was appended so far is on disk, for whoever must not
  // answer before ("durability": "strict"). Those who wait share a sync.
  // Never longer than a revoke waits for those inside (grants/revoke.h).
  // Errors: EIO when it is not on disk by then, or the log cannot be written.
  virtual Result<void, Errno> wait_durable() = 0;
};

// What one session may write: a bucket that fills at a rate up to a burst.
// Beyond it that session's appends answer EIO, and nobody else's.
struct AuditQuota {
  double records_per_second = 20'000;
  double records_burst = 2'000'000;
  double bytes_per_second = 8.0 * 1024 * 1024;
  double bytes_burst = 1024.0 * 1024 * 1024;
};

struct AuditOptions {
  std::string directory;                          // made (0700) when missing
  std::uint64_t segment_bytes = 64u << 20;        // a segment that reached it is followed by the next
  std::size_t ring_bytes = 4u << 20;              // power of two, 64 KiB to 1 GiB; one that exists keeps its size
  std::chrono::milliseconds fold_window{1000};    // how long equal refusals are counted together; 0 = never
  std::uint64_t fold_limit = 10'000;              // repeats in one record at most
  std::chrono::milliseconds pace{5};              // least time between two fdatasync(2), unless the ring fills
  std::chrono::milliseconds linger{20};           // how long records that nobody waits for let others come
  std::chrono::milliseconds retry{250};           // between attempts while the log cannot be written
  AuditQuota quota;

  // Signed checkpoints (signing.h); without a key's directory there are none.
  std::string key_directory;                      // exists, and nobody else may write to it
  std::string head_file;                          // "" = beside the key
  std::uint64_t checkpoint_records = 10'000;      // after so many new records,
  std::chrono::milliseconds checkpoint_after{10'000};  // or so long after the first of them
  // wait_durable() waits so long, and append() for room until the disk has
  // done nothing for longer.
  std::chrono::milliseconds durable_bound{1500};
  std::chrono::milliseconds full_ring_bound{10'000};
};

// What open() found of a predecessor that did not end well.
struct AuditRecovery {
  bool killed = false;            // it did not come to an orderly end: the log says so in a "restart" record
  std::uint64_t drained = 0;      // records that were in its ring and not in the log
  std::uint64_t unfinished = 0;   // records that it was just making; it had not answered for them
  std::uint64_t torn = 0;         // damaged pieces: kept aside, not in the log
  std::string kept_aside;         // the last file that holds such pieces
  std::uint64_t lost_after = 0;   // the log ends here, though more had been written; 0 = whole
  std::string head_problem;       // what speaks against the signed head, or against the log; "" = nothing
};

struct AuditStatus {
  bool writing = true;            // false: append() answers EIO
  std::string problem;            // why, for a person
  std::uint64_t appended = 0;     // number of the last record taken over
  std::uint64_t durable = 0;      // number of the last record on disk
  std::string head;               // that one's hash, 64 hex digits
  std::string segment;            // the file being written
  std::uint64_t signed_to = 0;    // number of the last checkpoint on disk since open; 0 = none
  std::string head_problem;       // why the signed head cannot be written; work goes on
  std::size_t ring_used = 0;      // bytes
  std::size_t ring_bytes = 0;
  std::uint64_t refused = 0;      // appends answered EIO since open, because of the log
  std::uint64_t over_quota = 0;   // and because of a quota
  AuditRecovery recovery;
};

// Threads: all members, any thread.
class AuditLog final : public AuditSink {
 public:
  // Takes the directory's lock, drains what a killed predecessor left, starts
  // the writer. Errors: another broker writes there; the directory is not ours
  // alone; what was left cannot be written (it then stays where it is).
  static Result<std::unique_ptr<AuditLog>> open(AuditOptions options);

  // Writes out everything, folded repeats too. What cannot be written stays in
  // the ring for the next open().
  ~AuditLog() override;

  // Waits only while the ring is full, and not for a disk that does nothing.
  // EIO besides: this session's quota.
  Result<void, Errno> append(const Record& record) override;
  Result<void, Errno> ready() override;
  Result<void, Errno> ready(const std::string& session) override;
  Result<void, Errno> wait_durable() override;

  // Waits until everything appended so far is on disk (folded repeats are
  // brought forward). False: not within `bound`.
  bool sync(std::chrono::milliseconds bound);

  AuditStatus status() const;

 private:
  struct Impl;
  explicit AuditLog(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbroker::audit
