// EventStreams: which clients listen, and what they may acknowledge.
//
// A subscription is known by a token that only its stream was told: another
// process of the same sandbox cannot acknowledge in its place, and nobody can
// acknowledge what was not sent yet. (Else a revoke would be answered while
// somebody's kernel still held the pages.)
#pragma once

#include <atomic>
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
  std::unique_ptr<EventBus::Subscription> subscription_;
  std::atomic<std::uint64_t> sent_{0};
};

// Threads: any.
class EventStreams {
 public:
  static constexpr std::size_t kMaxListeners = 32;

  explicit EventStreams(EventBus& bus) : bus_(bus) {}

  // `ready` as in EventBus::subscribe. Null when there are too many.
  std::shared_ptr<Listener> listen(std::function<void()> ready);
  // False: no such listener, or it was not sent that much yet.
  bool acknowledge(const std::string& token, std::uint64_t sequence);
  std::uint64_t last_sequence() const { return bus_.last_sequence(); }

 private:
  EventBus& bus_;
  std::mutex mutex_;  // guards listeners_; the bus's own is taken below it
  std::unordered_map<std::string, std::weak_ptr<Listener>> listeners_;
};

// 128 bits from the kernel, in hexadecimal: for tokens and instances.
std::string random_name();

}  // namespace fbroker::broker
