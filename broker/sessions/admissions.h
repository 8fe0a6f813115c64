// Admissions: who is inside the gate, and under which policy.
//
// Every operation enters with admit(), which hands it the view (policy and
// exports) that it is decided by, and leaves when its Admission is destroyed: for a file call after
// its system calls, for an HTTP reply after its last byte went to the socket.
// publish() puts a new view in place; drain() waits until nobody who was
// admitted under an older one is left. Between them they give a revoke its
// finality (design section 7, steps 1 and 2).
//
// Two counters and an epoch, as in sleepable RCU: admit() adds to the counter
// of the current epoch and looks again whether it still is the current one.
// Threads: all members, any thread; publish() and drain() serialise themselves.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "broker/sessions/view.h"

namespace fbroker::broker {

class Admissions;

// One operation's stay. Movable; must not outlive its Admissions.
class Admission {
 public:
  Admission(Admission&& other) noexcept
      : gate_(std::exchange(other.gate_, nullptr)), slot_(other.slot_),
        view_(std::move(other.view_)) {}
  Admission& operator=(Admission other) noexcept {
    std::swap(gate_, other.gate_);
    std::swap(slot_, other.slot_);
    std::swap(view_, other.view_);
    return *this;
  }
  ~Admission();

  const policy::Snapshot& snapshot() const noexcept { return *view_->snapshot; }
  const View& view() const noexcept { return *view_; }
 private:
  friend class Admissions;
  Admission(Admissions* gate, std::size_t slot, std::shared_ptr<const View> view)
      : gate_(gate), slot_(slot), view_(std::move(view)) {}
  Admissions* gate_;
  std::size_t slot_;
  std::shared_ptr<const View> view_;
};

class Admissions {
 public:
  explicit Admissions(std::shared_ptr<const View> first);

  Admission admit();
  std::shared_ptr<const View> current() const;

  // From its return on every admit() is under `next`.
  void publish(std::shared_ptr<const View> next);

  // Waits until everybody admitted before the last publish() has left. False
  // when that took longer than `bound`; may then be called again.
  bool drain(std::chrono::milliseconds bound);

 private:
  friend class Admission;
  void leave(std::size_t slot) noexcept;

  std::atomic<std::size_t> epoch_{0};
  std::array<std::atomic<std::int64_t>, 2> inside_{};
  // Not std::atomic<std::shared_ptr>: GCC 12's load() gives its lock back relaxed, so that a
  // store may pass it (ThreadSanitizer sees it).
  mutable std::mutex view_mutex_;   // guards view_; a leaf
  std::shared_ptr<const View> view_;
  std::mutex turn_;        // one publisher at a time; taken before left_
  std::mutex left_;        // guards nothing but the wait below
  std::condition_variable somebody_left_;
};

}  // namespace fbroker::broker
