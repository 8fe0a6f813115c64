#include "broker/http/events.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdlib>

namespace fbroker::broker {

void Listener::sent(std::uint64_t sequence) {
  if (sequence > sent_.load()) sent_.store(sequence);
}

// ATTACK: one process inside takes every stream, so that the file system of the
//   same sandbox is deaf and keeps what a revoke takes back.
bool EventStreams::has_room(std::uint32_t peer_pid, bool file_service) const {
  std::size_t alike = 0, of_this = 0;
  for (const auto& [token, weak] : listeners_) {
    const auto other = weak.lock();
    if (other == nullptr || other->file_service_ != file_service) continue;
    ++alike;
    if (peer_pid != 0 && other->peer_pid_ == peer_pid) ++of_this;
  }
  if (file_service) return alike < kMaxFileServices;
  return alike < kMaxListeners && of_this < kMaxOfOneProcess;
}

std::shared_ptr<Listener> EventStreams::listen(std::function<void()> ready, std::uint32_t peer_pid,
                                               bool file_service) {
  const std::lock_guard lock(mutex_);
  std::erase_if(listeners_, [](const auto& entry) { return entry.second.expired(); });
  if (!has_room(peer_pid, file_service)) return nullptr;
  auto listener = std::make_shared<Listener>();
  listener->token_ = random_name();
  listener->peer_pid_ = peer_pid;
  listener->file_service_ = file_service;
  listener->subscription_ = bus_.subscribe(std::move(ready));
  listeners_.emplace(listener->token_, listener);
  if (file_service) came_.notify_all();
  return listener;
}

template <class Predicate>
bool EventStreams::any_file_service(Predicate predicate) const {
  return std::any_of(listeners_.begin(), listeners_.end(), [&](const auto& entry) {
    const auto listener = entry.second.lock();
    return listener != nullptr && listener->file_service_ && predicate(*listener);
  });
}

bool EventStreams::wait_file_service(std::chrono::milliseconds bound) {
  std::unique_lock lock(mutex_);
  return came_.wait_for(lock, bound, [this] { return any_file_service([](const Listener&) { return true; }); });
}

bool EventStreams::file_service_acknowledged(std::uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  return any_file_service([&](const Listener& one) { return one.acknowledged_.load() >= sequence; });
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
  if (sequence > listener->acknowledged_.load()) listener->acknowledged_.store(sequence);
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
