#include "broker/sessions/session_counts.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace fbroker::broker {

namespace {

constexpr std::array<std::string_view, 9> kChanges{"mkdir", "symlink", "link", "unlink", "rmdir",
                                                   "rename", "truncate", "chmod", "utimens"};

bool opens_for_writing(const audit::Record& record) {
  return record.detail.find("O_WRONLY") != record.detail.npos ||
         record.detail.find("O_RDWR") != record.detail.npos ||
         record.detail.find("O_TRUNC") != record.detail.npos ||
         record.detail.find("O_CREAT") != record.detail.npos;
}

bool is_change(const audit::Record& record) {
  if (record.operation == "open") return opens_for_writing(record);
  return std::find(kChanges.begin(), kChanges.end(), record.operation) != kChanges.end();
}

bool is_refused(const audit::Record& record) {
  return record.error != 0 && (record.decision == "deny" || record.decision == "ask");
}

}  // namespace

Result<void, Errno> SessionCounts::append(const audit::Record& record) {
  FBROKER_TRY_VOID(log_.append(record));
  count(record);
  return ok;
}

void SessionCounts::count(const audit::Record& record) {
  const std::lock_guard lock(mutex_);
  const bool network = !record.host.empty();
  (network ? sums_.received : sums_.bytes_read) += record.bytes_read.value_or(0);
  (network ? sums_.sent : sums_.bytes_written) += record.bytes_written.value_or(0);
  if (is_refused(record)) {
    ++sums_.refusals;
    const Key key = network ? Key{"connect", record.host + ":" + std::to_string(record.port), record.reason}
                            : Key{is_change(record) ? "write" : "read", record.path, record.reason};
    const auto known = refused_.find(key);
    if (known != refused_.end()) ++known->second;
    else if (refused_.size() < kMaxDistinctRefusals) refused_.emplace(key, 1);
  } else if (record.error == 0 && record.decision == "allow") {
    if (network) sums_.connections += record.operation == "connect" ? 1 : 0;
    else if (is_change(record)) ++sums_.changed;
    else if (record.operation == "open") ++sums_.read;
  }
}

Counts SessionCounts::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts = sums_;
  for (const auto& [key, count] : refused_)
    counts.refused.push_back({count, std::get<0>(key), std::get<1>(key), std::get<2>(key)});
  std::stable_sort(counts.refused.begin(), counts.refused.end(),
                   [](const auto& a, const auto& b) { return a.count > b.count; });
  return counts;
}

}  // namespace fbroker::broker
