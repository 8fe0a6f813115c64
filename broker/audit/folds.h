// Folds: equal refusals of a session become one record with a count.
//
// The first is a record at once. What repeats it within the window is counted
// in a slot of the mapped file, so that a killed broker's successor knows the
// count, and is written when the window ends.
// Threads: one at a time (the log's mutex).
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "broker/audit/encode.h"
#include "broker/audit/ring.h"

namespace fbroker::audit {

class Folds {
 public:
  using Clock = std::chrono::steady_clock;

  Folds(Ring& ring, std::chrono::milliseconds window, std::uint64_t limit)
      : ring_(ring), window_(window), limit_(limit), ends_(kFoldSlots) {}

  // Counts a repeat. False: there is no such refusal in its window (or it has
  // been counted often enough for one record): make a record and remember().
  bool count(std::string_view members, WallTime when);

  // From now on repeats of this refusal are counted. Needs a free slot, else
  // does nothing: then each is a record, nothing is lost.
  void remember(std::string_view members, Clock::time_point now);

  // The earliest end of a window.
  std::optional<Clock::time_point> due() const;

  // Ends the windows that are over at `now` (max() = all): `write` puts a
  // slot's repeats into the ring and says whether there was room. False: not all.
  template <class Write>
  bool end_windows(Clock::time_point now, Write&& write) {
    for (std::size_t i = 0; i < kFoldSlots; ++i) {
      if (!ends_[i] || *ends_[i] > now) continue;
      FoldSlot& slot = ring_.fold(i);
      const bool repeated = slot.repeats.load() > 0;
      if (repeated && !write(slot)) return false;
      if (repeated && now != Clock::time_point::max())
        ends_[i] = now + window_;   // it goes on: the next repeat need not be a record of its own
      else
        forget(i);
    }
    return true;
  }

 private:
  void forget(std::size_t index);
  std::optional<std::size_t> find(std::string_view members) const;

  Ring& ring_;
  std::chrono::milliseconds window_;
  std::uint64_t limit_;
  std::vector<std::optional<Clock::time_point>> ends_;              // by slot; none = free
  std::unordered_multimap<std::size_t, std::size_t> slots_by_hash_;
};

}  // namespace fbroker::audit
