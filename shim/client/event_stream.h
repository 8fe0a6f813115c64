// EventStream: hears what the broker says must be forgotten, hands it to a
// sink, and acknowledges it once the sink is done.
//
// When the stream is lost, everything is forgotten at once, again whenever a
// broker that answers has no stream for us, and again when there is one: what
// nobody tells us about may not be kept. (Files cannot be opened past the
// kernel's cache instead: direct I/O still fills a private mapping from it and
// refuses a shared one, and nobody would understand why a linker failed while
// the broker was restarted.) A broker knows that: a revoke is final only when
// the sandbox's file system listens and has said so.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "broker/protocol/event.h"
#include "shim/client/unix_http.h"

namespace fbroker::client {

struct EventStreamOptions {
  std::string socket;
  // Silence after which the stream is given up; the broker's heartbeat is 10 s.
  std::chrono::milliseconds silence_bound{35'000};
};

// Threads: the sink is called from one thread of its own; the members from any.
class EventStream {
 public:
  // Begins at once. The sink outlives the stream.
  EventStream(EventStreamOptions options, protocol::EventSink& sink);
  // Ends the thread; no event is delivered afterwards.
  ~EventStream();

  // Whether the broker would reach us now. Before the first time nothing was
  // heard; what is told to a caller meanwhile may not be kept.
  bool listening() const { return listening_.load(); }
  // Waits until listening(), up to `bound`.
  bool wait_listening(std::chrono::milliseconds bound) const;

 private:
  class Reader;
  void run();
  void listen_once();
  bool handle_line(std::string_view line);
  bool acknowledge(std::uint64_t sequence);
  void lose();
  void drop_everything();

  EventStreamOptions options_;
  protocol::EventSink& sink_;
  UnixHttp http_;              // for acknowledgements
  std::atomic<bool> listening_{false};
  std::atomic<bool> stop_{false};
  // Of the thread alone:
  std::string instance_, subscription_;
  std::uint64_t sequence_ = 0;
  std::uint64_t to_acknowledge_ = 0;
  const UnixHttp::Clock::time_point began_ = UnixHttp::Clock::now();
  unsigned attempts_ = 0;                    // at which a broker could be reached
  bool heard_hello_ = false;                 // on this connection
  UnixHttp::Clock::time_point dropped_{};    // when everything was, last
  std::thread thread_;         // last: it uses all of the above
};

}  // namespace fbroker::client
