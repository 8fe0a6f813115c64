// UnixHttp: requests to the broker over its Unix socket, with a pool of
// connections that are kept alive.
//
// Bounded in every direction: connections, a reply's size, and the time a call
// takes. When the broker is away a call waits for it to come back and fails
// with EIO after that; nothing hangs for ever.
//
// Links statically: no name service, no threads of its own.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/base/result.h"

namespace fbroker::client {

struct HttpOptions {
  std::string socket;                            // the data socket's path
  std::chrono::milliseconds wait_for_broker{30'000};  // until a call gives up on a broker that is away
  std::chrono::milliseconds reply_bound{120'000};     // for an answer, once it was asked
  std::size_t max_kept = 16;                     // idle connections
};

struct HttpRequest {
  std::string_view method;      // "POST"
  std::string_view target;      // "/v1/lookup"
  std::uint32_t pid = 0;        // of the caller, as we claim it
  std::span<const std::byte> body;
  // Where a reply of file bytes goes; more than fits is an error. Problems and
  // JSON come as HttpReply::body.
  std::span<std::byte> into;
};

struct HttpReply {
  unsigned status = 0;
  std::string instance;         // of the broker that answered
  std::string lifetime;         // header Fbroker-Lifetime, "" = none
  std::uint64_t written = 0;    // header Fbroker-Written
  std::string body;
  std::size_t received = 0;     // bytes that went into `into`
};

// Why there is no reply.
enum class Lost : std::uint8_t {
  not_sent,    // nothing of the request can have been carried out
  unknown,     // it went out, and the answer did not come
  gave_up,     // the broker did not come back in time, or does not answer
};

class Connection;  // one socket; unix_http.cc

// Threads: any; each exchange has a connection of its own.
class UnixHttp {
 public:
  using Clock = std::chrono::steady_clock;

  explicit UnixHttp(HttpOptions options);
  ~UnixHttp();

  // One attempt, up to `until` for a broker that is away; waits between
  // attempts to connect. `fresh`: not on a kept connection, which a broker
  // that went away may have closed.
  Result<HttpReply, Lost> exchange(const HttpRequest& request, Clock::time_point until, bool fresh);

  const HttpOptions& options() const { return options_; }

 private:
  Result<std::unique_ptr<Connection>, Lost> take(Clock::time_point until, bool fresh);
  void give_back(std::unique_ptr<Connection> connection);

  HttpOptions options_;
  std::mutex mutex_;  // guards kept_
  std::vector<std::unique_ptr<Connection>> kept_;
};

}  // namespace fbroker::client
