// Events: what the broker tells its clients to forget.
//
// A client may keep names, attributes and pages as long as it listens. It
// acknowledges each event once its kernel has forgotten; `revoke` waits for
// that (design section 7).
#pragma once

#include <cstdint>
#include <string>

#include "broker/protocol/file_service.h"

namespace fbroker::protocol {

enum class EventKind : std::uint8_t {
  forget,      // names, attributes, pages of `path` and of everything below it
  retire,      // as forget; besides, nodes there answer ESTALE until looked up anew
               // (write was taken away, read stays: section 7)
  entry,       // the name `path` appeared, vanished or became another file
  content,     // bytes or attributes of the file at `path` changed on the host
  forget_all,  // everything (a queue overflowed, or events were missed)
};

struct Event {
  std::uint64_t sequence = 0;  // counts up by one within a broker's life; 0 = not to be acknowledged
  EventKind kind = EventKind::forget_all;
  WorkspacePath path;
  // The file concerned, when known: other names of it are forgotten too.
  FileIdentity identity;
};

// The side that forgets. handle() returns when the kernel has been told.
// Called from one thread at a time.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void handle(const Event&) = 0;
};

}  // namespace fbroker::protocol
