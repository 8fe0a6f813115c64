// --publish: a port of this machine's loopback leads to one inside the sandbox
// (the callback of an agent's login in the browser, a development server).
//
// The launcher takes each connection, hands one end of a Unix socket pair to the
// relay inside, and carries the bytes between that and the connection itself.
// INVARIANT: no network socket of the host's ever goes inside
//   (carry/hand_over.h says why), and nothing inside can begin a connection this way.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "container/carry/loopback.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::container {

struct PublishedPort {
  carry::Loopback outside;
  std::uint16_t inside = 0;
};

// "[ADDRESS:]PORT[:PORT-INSIDE]"; ADDRESS is 127.0.0.1 (the default) or [::1].
Result<PublishedPort> parse_publish(std::string_view text);

class Publisher {
 public:
  Publisher();                                // publishes nothing
  Publisher(Publisher&&) noexcept;
  Publisher& operator=(Publisher&&) noexcept;
  ~Publisher();                               // ends every connection

  // Listens on all of them, or on none. Who connects waits until start().
  static Result<Publisher> listen(const std::vector<std::string>& wanted);
  bool any() const noexcept;

  // `channel`: the launcher's end of carry::make_channel. Carries from now on, on
  // a thread of its own. Nothing, when there is nothing to publish.
  // Precondition: signals that the caller takes itself are blocked; the sandbox
  // was forked already.
  Result<void> start(UniqueFd channel);

 private:
  class Carrier;
  std::unique_ptr<Carrier> carrier_;
};

}  // namespace fbroker::container
