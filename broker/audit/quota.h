// Quotas: so that a session that floods the log is refused alone.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <unordered_map>

#include "broker/audit/audit_log.h"

namespace fbroker::audit {

// Threads: one at a time (the log's mutex).
class Quotas {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Answer { yes, yes_from_reserve, no, no_and_say_so };  // say so: once a second a record tells of it
  // INVARIANT: who was told "within" finds room for the record of what it did.
  //   Beyond the quota there is a reserve that refusals, of which an agent
  //   makes as many as it likes, cannot use up.
  enum class Reserve { keep, use };
  static constexpr double kReserveRecords = 4096;
  static constexpr double kReserveBytes = 64.0 * 1024 * 1024;

  static bool taken(Answer answer) { return answer == Answer::yes || answer == Answer::yes_from_reserve; }

  explicit Quotas(const AuditQuota& quota) : quota_(quota) {}

  Answer take(const std::string& session, std::size_t bytes, Clock::time_point now, Reserve reserve) {
    Bucket& bucket = find(session, now);
    refill(bucket, now);
    if (bucket.records >= 1 && bucket.bytes >= static_cast<double>(bytes)) {
      bucket.records -= 1;
      bucket.bytes -= static_cast<double>(bytes);
      return Answer::yes;
    }
    const bool room = bucket.records >= 1 - kReserveRecords &&
                      bucket.bytes >= static_cast<double>(bytes) - kReserveBytes;
    if (reserve == Reserve::use && room) {
      bucket.records -= 1;
      bucket.bytes -= static_cast<double>(bytes);
      return Answer::yes_from_reserve;
    }
    if (now < bucket.said + std::chrono::seconds(1)) return Answer::no;
    bucket.said = now;
    return Answer::no_and_say_so;
  }

  // What was taken has turned out to be more.
  void charge(const std::string& session, std::size_t bytes, Clock::time_point now) {
    if (!session.empty()) find(session, now).bytes -= static_cast<double>(bytes);
  }

  bool within(const std::string& session, Clock::time_point now) {
    Bucket& bucket = find(session, now);
    refill(bucket, now);
    return bucket.records >= 1 && bucket.bytes >= 1;
  }

 private:
  struct Bucket {
    double records, bytes;
    Clock::time_point at, said{};
  };
  // Sessions are the person's to make, but one broker may see many in its life.
  static constexpr std::size_t kMaxBuckets = 4096;

  Bucket& find(const std::string& session, Clock::time_point now) {
    if (const auto found = buckets_.find(session); found != buckets_.end()) return found->second;
    if (buckets_.size() >= kMaxBuckets) forget_idle(now);
    return buckets_.emplace(session, Bucket{quota_.records_burst, quota_.bytes_burst, now}).first->second;
  }

  void forget_idle(Clock::time_point now) {
    std::erase_if(buckets_, [&](const auto& item) {
      Bucket bucket = item.second;
      refill(bucket, now);
      return bucket.records >= quota_.records_burst && bucket.bytes >= quota_.bytes_burst;
    });
    if (buckets_.size() >= kMaxBuckets) buckets_.erase(buckets_.begin());
  }

  void refill(Bucket& bucket, Clock::time_point now) const {
    const double seconds = std::chrono::duration<double>(now - bucket.at).count();
    bucket.at = now;
    bucket.records = std::min(quota_.records_burst, bucket.records + seconds * quota_.records_per_second);
    bucket.bytes = std::min(quota_.bytes_burst, bucket.bytes + seconds * quota_.bytes_per_second);
  }

  AuditQuota quota_;
  std::unordered_map<std::string, Bucket> buckets_;
};

}  // namespace fbroker::audit
