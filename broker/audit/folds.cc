#include "broker/audit/folds.h"

#include <algorithm>
#include <cstring>

namespace fbroker::audit {

namespace {
std::size_t hash_of(std::string_view members) { return std::hash<std::string_view>()(members); }
}  // namespace

// The hash only finds candidates: an agent that can make two names collide must
// not have one refusal recorded as the other.
std::optional<std::size_t> Folds::find(std::string_view members) const {
  const auto [first, last] = slots_by_hash_.equal_range(hash_of(members));
  for (auto at = first; at != last; ++at)
    if (ring_.fold(at->second).text() == members) return at->second;
  return std::nullopt;
}

bool Folds::count(std::string_view members, WallTime when) {
  if (window_.count() == 0) return false;
  const auto index = find(members);
  if (!index) return false;
  FoldSlot& slot = ring_.fold(*index);
  const std::uint64_t so_far = slot.repeats.load();
  if (so_far >= limit_) return false;
  const std::int64_t now_ns = when.time_since_epoch().count();
  if (so_far == 0) slot.first_ns = now_ns;
  slot.last_ns.store(now_ns);
  slot.repeats.store(so_far + 1, std::memory_order_release);
  return true;
}

void Folds::remember(std::string_view members, Clock::time_point now) {
  if (window_.count() == 0 || members.size() > kFoldMembers || find(members)) return;
  const auto free = std::find(ends_.begin(), ends_.end(), std::nullopt);
  if (free == ends_.end()) return;
  const auto index = static_cast<std::size_t>(free - ends_.begin());
  FoldSlot& slot = ring_.fold(index);
  slot.length = static_cast<std::uint32_t>(members.size());
  slot.checksum = checksum_of(members);
  std::memcpy(slot.members, members.data(), members.size());
  slot.repeats.store(0);
  slot.written_as.store(0);
  slot.used.store(kFoldUsed, std::memory_order_release);
  ends_[index] = now + window_;
  slots_by_hash_.emplace(hash_of(members), index);
}

void Folds::forget(std::size_t index) {
  FoldSlot& slot = ring_.fold(index);
  const auto [first, last] = slots_by_hash_.equal_range(hash_of(slot.text()));
  for (auto at = first; at != last; ++at)
    if (at->second == index) {
      slots_by_hash_.erase(at);
      break;
    }
  slot.used.store(0, std::memory_order_release);
  ends_[index].reset();
}

std::optional<Folds::Clock::time_point> Folds::due() const {
  std::optional<Clock::time_point> earliest;
  for (const auto& end : ends_)
    if (end && (!earliest || *end < *earliest)) earliest = end;
  return earliest;
}

}  // namespace fbroker::audit
