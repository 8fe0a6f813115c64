// LookUp: the addresses of a name, by the system's resolver.
//
// getaddrinfo(3) cannot be interrupted, and a name server that does not answer
// holds it for long. So it has a thread of its own that nobody waits for.
// ATTACK: names that are never answered, so that a session cannot end, a revoke
//   not return and others not be looked up.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "policy/address.h"

namespace fbroker::broker {

// Threads: any; answer() once, on its strand.
class LookUp {
 public:
  using Strand = boost::asio::strand<boost::asio::io_context::executor_type>;
  using Addresses = std::vector<policy::Address>;
  // Threads that are still at it: a session's, shared with them.
  using Count = std::shared_ptr<std::atomic<std::size_t>>;
  static constexpr std::size_t kMax = 16;

  // Null: kMax are under way, or there is no thread to be had.
  static std::shared_ptr<LookUp> start(const std::string& name, const Count& under_way);

  // What was found, perhaps nothing. None: `bound` passed first, or wake() came.
  boost::asio::awaitable<std::optional<Addresses>> answer(Strand strand, std::chrono::milliseconds bound);
  void wake();

 private:
  std::mutex mutex_;   // guards what follows
  std::optional<Addresses> found_;
  bool woken_ = false;
  // While answer() waits: it keeps the strand's context alive.
  std::shared_ptr<boost::asio::steady_timer> waiting_;

  void finish(Addresses found);
  void end_waiting();   // mutex_ is held
};

}  // namespace fbroker::broker
