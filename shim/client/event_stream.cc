#include "shim/client/event_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "broker/protocol/wire.h"
#include "broker/protocol/wire_json.h"
#include "shim/client/reply_parser.h"

namespace fbroker::client {

namespace {

// How often the thread looks whether it is to end, and how long it waits
// before it connects again.
constexpr std::chrono::milliseconds kLook(100), kPause(20);
// How long pages that were read while the broker had no stream for us stay.
constexpr std::chrono::milliseconds kDeafDrop(250);
// The kernel has asked for nothing yet: fbroker-fuse answers it only after it
// has waited longer than this for the stream.
constexpr std::chrono::milliseconds kStart(1000);
// A line holds one path; a burst of lines is cut into replies of bounded size.
constexpr std::size_t kMaxUnread = 32 << 20;

bool send_all(int socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

}  // namespace

// The stream's connection: a reply that does not end, taken line by line.
class EventStream::Reader {
 public:
  Reader(UniqueFd socket, const EventStream& stream)
      : socket_(std::move(socket)), stream_(stream), parser_(reply_, {}, kMaxUnread) {}

  bool request(const std::string& text) { return send_all(socket_.get(), text); }

  // Whether more bytes came. False: it ended, was silent too long, or we are to stop.
  bool receive() {
    if (!wait()) return false;
    std::array<char, 64 << 10> bytes;
    const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), 0);
    if (got <= 0) return false;
    const bool good = parser_.feed({bytes.data(), static_cast<std::size_t>(got)});
    return good && !parser_.done() && (reply_.status == 0 || reply_.status == 200);
  }

  // The next whole line, until there is none. Valid until the next call.
  std::optional<std::string_view> next_line() {
    const std::size_t end = reply_.body.find('\n', at_);
    if (end == std::string::npos) {
      reply_.body.erase(0, at_);
      at_ = 0;
      return std::nullopt;
    }
    const std::string_view line = std::string_view(reply_.body).substr(at_, end - at_);
    at_ = end + 1;
    return line;
  }

 private:
  bool wait() const {
    const auto until = UnixHttp::Clock::now() + stream_.options_.silence_bound;
    while (!stream_.stop_.load() && UnixHttp::Clock::now() < until) {
      pollfd ready{socket_.get(), POLLIN, 0};
      if (::poll(&ready, 1, static_cast<int>(kLook.count())) > 0) return true;
    }
    return false;
  }

  UniqueFd socket_;
  const EventStream& stream_;
  HttpReply reply_;
  ReplyParser parser_;
  std::size_t at_ = 0;
};

EventStream::EventStream(EventStreamOptions options, protocol::EventSink& sink)
    : options_(std::move(options)), sink_(sink),
      http_(HttpOptions{options_.socket, std::chrono::milliseconds(0), std::chrono::seconds(10), 1}),
      thread_([this] { run(); }) {}

EventStream::~EventStream() {
  stop_.store(true);
  thread_.join();
}

bool EventStream::wait_listening(std::chrono::milliseconds bound) const {
  const auto until = UnixHttp::Clock::now() + bound;
  while (!listening() && UnixHttp::Clock::now() < until) std::this_thread::sleep_for(kPause / 10);
  return listening();
}

void EventStream::run() {
  while (!stop_.load()) {
    listen_once();
    if (!stop_.load()) lose();
    std::this_thread::sleep_for(kPause);
  }
}

// INVARIANT: from the moment the broker cannot reach us, nothing is kept: a
//   revoke that finds no listener is answered at once.
void EventStream::lose() {
  if (listening_.exchange(false)) drop_everything();
}

void EventStream::drop_everything() {
  sink_.handle({0, protocol::EventKind::forget_all, {}, {}});
  dropped_ = UnixHttp::Clock::now();
}

void EventStream::listen_once() {
  heard_hello_ = false;
  UniqueFd socket = connect_unix(options_.socket);
  if (!socket) return;  // and nobody there who could answer a read
  ++attempts_;
  Reader reader(std::move(socket), *this);
  std::string target = "/v1/events";
  if (!instance_.empty())
    target += "?after=" + std::to_string(sequence_) + "&instance=" + instance_;
  if (!reader.request("GET " + target + " HTTP/1.1\r\nHost: fbroker\r\n\r\n")) return;
  // ATTACK: others took the streams. Reads are answered all the while, and the
  //   kernel keeps the pages of what is open or mapped.
  const auto deaf = [&] {
    if (!heard_hello_ && UnixHttp::Clock::now() - dropped_ > kDeafDrop) drop_everything();
  };
  while (reader.receive() || (deaf(), false)) {
    // All lines that came together are acknowledged together.
    to_acknowledge_ = 0;
    while (const auto line = reader.next_line())
      if (stop_.load() || !handle_line(*line)) return;
    if (to_acknowledge_ != 0 && !acknowledge(to_acknowledge_)) return;
  }
}

bool EventStream::handle_line(std::string_view text) {
  const auto line = protocol::decode_line(text);
  if (!line) return false;  // a broker we do not understand: begin anew, keep nothing
  if (line->hello) {
    instance_ = line->hello->instance;
    subscription_ = line->hello->subscription;
    sequence_ = line->hello->sequence;
    heard_hello_ = true;
    // INVARIANT: what was learnt before this stream began goes before the first
    //   event of it is acknowledged, whether or not something was missed.
    const bool at_the_start = attempts_ == 1 && UnixHttp::Clock::now() - began_ < kStart;
    if (!at_the_start || line->hello->missed) drop_everything();
    listening_.store(true);
    return true;
  }
  if (line->heartbeat) {
    sequence_ = std::max(sequence_, line->heartbeat->sequence);
    // What did not concern us is acknowledged too: it came before what does.
    to_acknowledge_ = std::max(to_acknowledge_, line->heartbeat->sequence);
    return true;
  }
  sink_.handle(*line->event);
  sequence_ = std::max(sequence_, line->event->sequence);
  to_acknowledge_ = std::max(to_acknowledge_, line->event->sequence);
  return true;
}

bool EventStream::acknowledge(std::uint64_t sequence) {
  std::string body;
  protocol::encode(body, protocol::Acknowledgement{subscription_, sequence});
  HttpRequest request;
  request.method = "POST";
  request.target = "/v1/events/ack";
  request.body = std::as_bytes(std::span(body));
  const auto until = UnixHttp::Clock::now() + std::chrono::seconds(2);
  for (bool fresh = false;; fresh = true) {
    const auto reply = http_.exchange(request, until, fresh);
    if (reply) return reply->status == 204;
    if (reply.error() == Lost::gave_up || fresh || stop_.load()) return false;
  }
}

}  // namespace fbroker::client
