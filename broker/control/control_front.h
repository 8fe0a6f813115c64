// ControlFront: the person's side, HTTP/1.1 with JSON on the control socket
// (docs/control.md). Mode 0600, never mounted anywhere; only our own user and
// root are answered. Grants, revokes and sessions live here and nowhere else.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "broker/control/exchange.h"
#include "broker/http/unix_listener.h"
#include "broker/sessions/registry.h"

namespace fbroker::control {

struct ControlOptions {
  bool embedded = false;
  std::size_t threads = 8;                       // requests at a time
  std::chrono::milliseconds request_bound{10'000};  // for a request to come in
  std::chrono::milliseconds reply_bound{10'000};    // for its reply to go out
};

// Threads: all members, any thread.
class ControlFront {
 public:
  static Result<std::unique_ptr<ControlFront>> start(broker::UnixListener listener,
                                                     ControlOptions options,
                                                     broker::Registry& registry);
  // Lets running requests end.
  ~ControlFront();

  // What the socket would answer. `connected`: the caller's; -1 = none (tests).
  Response handle(const Request& request, int connected = -1);

 private:
  ControlFront(broker::UnixListener listener, ControlOptions options, broker::Registry& registry);
  void work();
  void serve(UniqueFd connected);

  broker::UnixListener listener_;
  ControlOptions options_;
  broker::Registry& registry_;
  UniqueFd stop_;    // eventfd, readable for ever once we stop
  std::vector<std::thread> threads_;
};

}  // namespace fbroker::control
