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
  enum class Answer { yes, no, no_and_say_so };   // say so: once a second a record tells of it

  explicit Quotas(const AuditQuota& quota) : quota_(quota) {}

  Answer take(const std::string& session, std::size_t bytes, Clock::time_point now) {
    Bucket& bucket = find(session, now);
    refill(bucket, now);
    if (bucket.records >= 1 && bucket.bytes >= static_cast<double>(bytes)) {
      bucket.records -= 1;
      bucket.bytes -= static_cast<double>(bytes);
      return Answer::yes;
    }
    if (now < bucket.said + std::chrono::seconds(1)) return Answer::no;
    bucket.said = now;
    return Answer::no_and_say_so;
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
