#include "broker/http/events.h"

#include <sys/random.h>

#include <array>
#include <cstdlib>

namespace fbroker::broker {

void Listener::sent(std::uint64_t sequence) {
  if (sequence > sent_.load()) sent_.store(sequence);
}

std::shared_ptr<Listener> EventStreams::listen(std::function<void()> ready) {
  const std::lock_guard lock(mutex_);
  std::erase_if(listeners_, [](const auto& entry) { return entry.second.expired(); });
  if (listeners_.size() >= kMaxListeners) return nullptr;
  auto listener = std::make_shared<Listener>();
  listener->token_ = random_name();
  listener->subscription_ = bus_.subscribe(std::move(ready));
  listeners_.emplace(listener->token_, listener);
  return listener;
}

// INVARIANT: an acknowledgement counts only for what was sent to that client.
bool EventStreams::acknowledge(const std::string& token, std::uint64_t sequence) {
  std::shared_ptr<Listener> listener;
  {
    const std::lock_guard lock(mutex_);
    const auto found = listeners_.find(token);
    if (found != listeners_.end()) listener = found->second.lock();
  }
  if (listener == nullptr || sequence > listener->last_sent()) return false;
  listener->subscription_->acknowledge(sequence);
  return true;
}

std::string random_name() {
  std::array<unsigned char, 16> bytes{};
  // Up to 256 bytes are never cut short, getrandom(2).
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) std::abort();
  constexpr char kHex[] = "0123456789abcdef";
  std::string name;
  for (const unsigned char byte : bytes) {
    name += kHex[byte >> 4];
    name += kHex[byte & 15];
  }
  return name;
}

}  // namespace fbroker::broker
