// FairSharedMutex: a shared mutex whose writers get their turn.
//
// ATTACK: glibc's prefers readers. Opens without a pause would keep a rename
// waiting for ever, and with it a revoke that waits for that request.
#pragma once

#include <mutex>
#include <shared_mutex>

namespace fbroker::broker {

class FairSharedMutex {
 public:
  void lock() {
    const std::lock_guard turn(turn_);
    mutex_.lock();
  }
  void unlock() { mutex_.unlock(); }
  void lock_shared() {
    const std::lock_guard turn(turn_);
    mutex_.lock_shared();
  }
  void unlock_shared() { mutex_.unlock_shared(); }

 private:
  std::mutex turn_;   // held by whoever waits for mutex_: nobody overtakes
  std::shared_mutex mutex_;
};

}  // namespace fbroker::broker
