#include "broker/egress/look_up.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

namespace fbroker::broker {

namespace asio = boost::asio;
using policy::Address;

namespace {

std::optional<Address> address_of(const sockaddr* found) {
  if (found->sa_family == AF_INET) {
    std::array<std::uint8_t, 4> bytes;
    std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in*>(found)->sin_addr, bytes.size());
    return Address::v4(bytes);
  }
  if (found->sa_family != AF_INET6) return std::nullopt;
  std::array<std::uint8_t, 16> bytes;
  std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(found)->sin6_addr, bytes.size());
  return Address::v6(bytes);
}

LookUp::Addresses resolve(const std::string& name) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  LookUp::Addresses found;
  if (::getaddrinfo(name.c_str(), nullptr, &hints, &list) != 0) return found;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  for (const addrinfo* at = list; at != nullptr; at = at->ai_next)
    if (const auto address = address_of(at->ai_addr)) found.push_back(*address);
  return found;
}

}  // namespace

std::shared_ptr<LookUp> LookUp::start(const std::string& name, const Count& under_way) {
  if (under_way->fetch_add(1) >= kMax) {
    under_way->fetch_sub(1);
    return nullptr;
  }
  auto made = std::make_shared<LookUp>();
  try {
    std::thread([name, under_way, weak = std::weak_ptr(made)] {
      Addresses found = resolve(name);
      under_way->fetch_sub(1);
      if (const auto self = weak.lock()) self->finish(std::move(found));
    }).detach();
  } catch (const std::system_error&) {
    under_way->fetch_sub(1);
    return nullptr;
  }
  return made;
}

asio::awaitable<std::optional<LookUp::Addresses>> LookUp::answer(Strand strand, std::chrono::milliseconds bound) {
  const auto timer = std::make_shared<asio::steady_timer>(strand, bound);
  bool wait = false;
  {
    const std::lock_guard lock(mutex_);
    wait = !found_ && !woken_;
    if (wait) waiting_ = timer;
  }
  if (wait) {
    co_await timer->async_wait(asio::as_tuple(asio::use_awaitable));
  }
  const std::lock_guard lock(mutex_);
  waiting_.reset();
  co_return std::exchange(found_, std::nullopt);
}

void LookUp::finish(Addresses found) {
  const std::lock_guard lock(mutex_);
  found_ = std::move(found);
  end_waiting();
}

void LookUp::wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  end_waiting();
}

// By way of its strand: a timer is not for two threads.
void LookUp::end_waiting() {
  if (waiting_) asio::post(waiting_->get_executor(), [timer = waiting_] { timer->cancel(); });
}

}  // namespace fbroker::broker
