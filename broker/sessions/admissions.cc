#include "broker/sessions/admissions.h"

namespace fbroker::broker {

Admission::~Admission() {
  if (gate_ != nullptr) gate_->leave(slot_);
}

Admissions::Admissions(std::shared_ptr<const View> first) : view_(std::move(first)) {}

// INVARIANT: whoever holds an Admission is counted in the epoch under which its
//   view was read. The second look at epoch_ closes the gap in which a
//   publish() could pass between reading the epoch and being counted in it:
//   then nothing has been done yet, and we enter again.
Admission Admissions::admit() {
  for (;;) {
    const std::size_t epoch = epoch_.load();
    const std::size_t slot = epoch & 1;
    inside_[slot].fetch_add(1);
    if (epoch_.load() == epoch) return Admission(this, slot, current());
    leave(slot);
  }
}

std::shared_ptr<const View> Admissions::current() const {
  const std::lock_guard lock(view_mutex_);
  return view_;
}

void Admissions::leave(std::size_t slot) noexcept {
  if (inside_[slot].fetch_sub(1) != 1) return;
  { const std::lock_guard lock(left_); }  // a drain that just looked is waiting by now
  somebody_left_.notify_all();
}

void Admissions::publish(std::shared_ptr<const View> next) {
  const std::lock_guard turn(turn_);
  const std::lock_guard lock(view_mutex_);
  view_.swap(next);   // the old one goes after the lock does
}

// Two flips, because an operation may have read the epoch before the first
// flip, been counted after it, and read the old view: it then sits in the
// slot that the next flip empties.
bool Admissions::drain(std::chrono::milliseconds bound) {
  const auto until = std::chrono::steady_clock::now() + bound;
  const std::lock_guard turn(turn_);
  for (int flip = 0; flip < 2; ++flip) {
    const std::size_t old_slot = epoch_.fetch_add(1) & 1;
    std::unique_lock lock(left_);
    if (!somebody_left_.wait_until(lock, until, [&] { return inside_[old_slot].load() == 0; }))
      return false;
  }
  return true;
}

}  // namespace fbroker::broker
