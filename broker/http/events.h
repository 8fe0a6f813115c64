// EventStreams: which clients listen, and what they may acknowledge.
//
// A subscription is known by a token that only its stream was told: another
// process of the same sandbox cannot acknowledge in its place, and nobody can
// acknowledge what was not sent yet. (Else a revoke would be answered while
// somebody's kernel still held the pages.)
//
// The sandbox's own file system has streams of its own: whatever else inside
// listens cannot keep it from hearing.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "broker/sessions/event_bus.h"

namespace fbroker::broker {

// One listening client; its end ends the subscription.
class Listener {
 public:
  const std::string& token() const { return token_; }
  std::vector<protocol::Event> take() { return subscription_->take(); }
  // Events up to `sequence` went to the client, or did not concern it.
  void sent(std::uint64_t sequence);
  std::uint64_t last_sent() const { return sent_.load(); }

 private:
  friend class EventStreams;
  std::string token_;
  std::uint32_t peer_pid_ = 0;
  bool file_service_ = false;
  std::unique_ptr<EventBus::Subscription> subscription_;
  std::atomic<std::uint64_t> sent_{0}, acknowledged_{0};
};

// Threads: any.
class EventStreams {
 public:
  static constexpr std::size_t kMaxListeners = 32;        // that are no file service
  static constexpr std::size_t kMaxOfOneProcess = 8;      // of those
  static constexpr std::size_t kMaxFileServices = 4;      // beside those

  explicit EventStreams(EventBus& bus) : bus_(bus) {}

  // `ready` as in EventBus::subscribe. Null when there are too many.
  std::shared_ptr<Listener> listen(std::function<void()> ready, std::uint32_t peer_pid = 0,
                                   bool file_service = false);
  // Whether a file service listens, or does within `bound`.
  bool wait_file_service(std::chrono::milliseconds bound);
  bool file_service_acknowledged(std::uint64_t sequence);
  // False: no such listener, or it was not sent that much yet.
  bool acknowledge(const std::string& token, std::uint64_t sequence);
  std::uint64_t last_sequence() const { return bus_.last_sequence(); }

 private:
  bool has_room(std::uint32_t peer_pid, bool file_service) const;   // mutex_ is held

  template <class Predicate>
  bool any_file_service(Predicate predicate) const;                 // mutex_ is held

  EventBus& bus_;
  std::condition_variable came_;
  std::mutex mutex_;  // guards listeners_; the bus's own is taken below it
  std::unordered_map<std::string, std::weak_ptr<Listener>> listeners_;
};

// 128 bits from the kernel, in hexadecimal: for tokens and instances.
std::string random_name();

}  // namespace fbroker::broker
