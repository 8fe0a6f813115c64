// MemoryAudit: an audit sink that keeps its records, and can be made to fail.
#pragma once

#include <algorithm>
#include <functional>
#include <mutex>
#include <string_view>
#include <vector>

#include "broker/audit/audit_log.h"

namespace fbroker::test {

// Threads: all members, any thread.
class MemoryAudit final : public audit::AuditSink {
 public:
  Result<void, Errno> append(const audit::Record& record) override {
    const std::lock_guard lock(mutex_);
    if (failing_) return Errno{EIO};
    records_.push_back(record);
    return ok;
  }
  Result<void, Errno> ready() override {
    const std::lock_guard lock(mutex_);
    if (failing_) return Errno{EIO};
    return ok;
  }

  Result<void, Errno> wait_durable() override {
    if (on_wait) on_wait();
    const std::lock_guard lock(mutex_);
    durable_ = records_.size();
    if (failing_sync_) return Errno{EIO};
    return ok;
  }
  std::function<void()> on_wait;   // set before anybody waits

  // How many records were there at the last wait_durable().
  std::size_t durable() const {
    const std::lock_guard lock(mutex_);
    return durable_;
  }
  void fail_sync(bool failing) {
    const std::lock_guard lock(mutex_);
    failing_sync_ = failing;
  }
  void fail(bool failing) {
    const std::lock_guard lock(mutex_);
    failing_ = failing;
  }
  std::vector<audit::Record> records() const {
    const std::lock_guard lock(mutex_);
    return records_;
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    records_.clear();
  }
  template <class Predicate>
  std::size_t count_if(Predicate predicate) const {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::count_if(records_.begin(), records_.end(), predicate));
  }
  std::size_t count(std::string_view operation, std::string_view path) const {
    return count_if([&](const audit::Record& r) { return r.operation == operation && r.path == path; });
  }

 private:
  mutable std::mutex mutex_;   // guards what follows
  std::vector<audit::Record> records_;
  std::size_t durable_ = 0;
  bool failing_ = false, failing_sync_ = false;
};

}  // namespace fbroker::test
