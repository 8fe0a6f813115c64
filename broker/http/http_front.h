// HttpFront: the data socket of one session, HTTP/1.1 with JSON (design
// section 6, way 1). The routes are in docs/protocol.md.
//
// Everything that comes in is hostile: heads are bounded at 16 KiB, JSON at
// 1 MiB and depth 32, file bytes pass in pieces of at most 1 MiB, every wait
// for a client has a bound, and so has the number of connections.
//
// Finality of a revoke: each piece of a reply is made and sent under an
// Admission, taken before FileService is asked and let go when the last byte
// is in the socket. A client that does not read holds its Admission and with
// it a drain up; abort_older_than_publish() ends that.
//
// Some threads share the connections; each connection is worked on by one at a
// time, its requests strictly in order. File calls run on these threads: a
// blocked disk delays one of them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/egress/gate.h"
#include "broker/http/file_calls.h"
#include "broker/http/unix_listener.h"
#include "broker/sessions/event_bus.h"

namespace fbroker::broker {

struct HttpOptions {
  std::string session = "default";
  std::string instance;              // of the broker; "" = a random one
  unsigned threads = 4;
  std::size_t max_connections = 256;   // more than tunnels there may be: files go on
  std::vector<UidRange> other_uids;  // that may connect besides the broker's own

  // How long a client may take.
  std::chrono::milliseconds head_bound{10'000};     // from a head's first byte to its last
  std::chrono::milliseconds body_bound{30'000};     // for each piece of a body
  std::chrono::milliseconds write_bound{30'000};    // for each piece of a reply
  std::chrono::milliseconds idle_bound{600'000};    // between requests
  std::chrono::milliseconds heartbeat{10'000};      // of an event stream
};

// What is served. All of it outlives the front. `resolve` may be empty: then
// /v1/files and /v1/list take paths as they are.
struct HttpServices {
  protocol::FileService& files;
  Admissions& admissions;
  EventBus& events;
  PathResolver resolve;
  EgressGate* egress = nullptr;   // none: CONNECT and absolute-form requests are refused
  // Whether a client is the sandbox's own file system, which must always be
  // able to hear what it has to forget. May be empty: nobody is.
  std::function<bool(std::uint32_t peer_pid)> is_file_service = {};
  // A FUSE device that a client wants to give away: whether it may (errors: why
  // not), and the connection on which it comes, which must not be waited for.
  // Empty: none is taken.
  std::function<Result<void>(std::uint32_t peer_pid)> may_adopt = {};
  std::function<void(UniqueFd connection, std::uint32_t peer_pid)> adopt = {};
};

// Threads: all members, any thread.
class HttpFront {
 public:
  // Takes over a listening socket (bind_unix_socket's, or one kept by somebody
  // over a restart); -1 = none, connections come by adopt() alone.
  static Result<std::unique_ptr<HttpFront>> start(UniqueFd listener, HttpOptions options,
                                                  HttpServices services);
  // As stop() with no grace.
  ~HttpFront();

  // One connected socket, as if it had been accepted.
  void adopt(UniqueFd connected);

  // Cuts every connection that holds an Admission older than the current view.
  // For a revoke whose drain did not end within its bound; returns how many.
  std::size_t abort_older_than_publish();
  // Cuts every connection: a client that did not acknowledge (design section 7).
  std::size_t abort_all();

  // Accepts nothing more, lets running requests end for up to `grace`, cuts the
  // rest, and joins the threads. May be called again.
  void stop(std::chrono::milliseconds grace);

  // Whether a file service listens to events, or does within `bound`.
  bool wait_file_service(std::chrono::milliseconds bound);
  // Whether one that listens now said that it carried out `sequence`: one that
  // came later says so only of later ones.
  bool file_service_acknowledged(std::uint64_t sequence);

  std::size_t connections() const;
  const std::string& instance() const;

 private:
  struct Impl;
  explicit HttpFront(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbroker::broker
