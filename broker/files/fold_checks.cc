#include "broker/files/fold_checks.h"

#include <mutex>

namespace fbroker::broker {

Folding FoldChecks::ask(int directory, const FileStat& stat) {
  {
    const std::shared_lock lock(mutex_);
    if (const auto known = known_.find(stat.identity); known != known_.end()) return known->second;
  }
  const Folding said = folding_of(directory);
  if (said == Folding::unsaid) return said;   // an empty directory will not be
  const std::unique_lock lock(mutex_);
  if (known_.size() >= kMaxKnown) known_.clear();
  known_[stat.identity] = said;
  return said;
}

}  // namespace fbroker::broker
