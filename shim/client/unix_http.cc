#include "shim/client/unix_http.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <boost/beast/http/basic_parser.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <thread>

#include "broker/protocol/wire.h"
#include "policy/base/unique_fd.h"
#include "shim/client/reply_parser.h"

namespace fbroker::client {

namespace {

using Clock = UnixHttp::Clock;

// How often a blocked read or write looks at the clock.
constexpr timeval kLook{.tv_sec = 1, .tv_usec = 0};
constexpr std::size_t kInputBytes = 64 << 10;
constexpr std::size_t kMaxReplyBytes = 16 << 20;

bool timed_out(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

UniqueFd connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) return UniqueFd();
  std::memcpy(address.sun_path, path.c_str(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return UniqueFd();
  // Blocking calls that give up by themselves: one system call each, where
  // poll(2) before every read would make it two.
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kLook, sizeof kLook);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kLook, sizeof kLook);
  const auto* raw = reinterpret_cast<const sockaddr*>(&address);
  if (::connect(socket.get(), raw, sizeof address) != 0) return UniqueFd();
  return socket;
}

// One socket, one exchange at a time.
class Connection {
 public:
  explicit Connection(UniqueFd socket) : socket_(std::move(socket)) {}

  // Whether a kept connection is still open and has nothing unasked to say.
  bool alive() const {
    char byte;
    return ::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }

  Result<HttpReply, Lost> exchange(const HttpRequest& request, Clock::time_point until) {
    const bool sent = send(request, until);
    // A broker that refuses may say so before it has read everything.
    auto reply = receive(request, until);
    if (reply || sent) return reply;
    return Lost::not_sent;
  }

  bool reusable() const { return reusable_; }

 private:
  bool send(const HttpRequest& request, Clock::time_point until);
  Result<HttpReply, Lost> receive(const HttpRequest& request, Clock::time_point until);
  // 0: the end, or an error. Waits until there is something.
  std::size_t read_some(std::span<std::byte> into, Clock::time_point until);
  bool read_rest(HttpReply& reply, const HttpRequest& request, ReplyParser& parser,
                 std::string_view rest, Clock::time_point until);

  UniqueFd socket_;
  bool reusable_ = false;
  bool out_of_time_ = false;
  std::string head_;
  std::unique_ptr<std::byte[]> in_ = std::make_unique_for_overwrite<std::byte[]>(kInputBytes);
};

bool Connection::send(const HttpRequest& request, Clock::time_point until) {
  const auto number = [this](std::uint64_t value) {
    char digits[20];
    head_.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  };
  head_.clear();
  head_ += request.method;
  head_ += ' ';
  head_ += request.target;
  head_ += " HTTP/1.1\r\nHost: fbroker\r\n";
  head_ += protocol::kPidHeader;
  head_ += ": ";
  number(request.pid);
  if (request.method != "GET") {
    head_ += "\r\nContent-Length: ";
    number(request.body.size());
  }
  head_ += "\r\n\r\n";
  std::array<iovec, 2> parts{{{head_.data(), head_.size()},
                              {const_cast<std::byte*>(request.body.data()), request.body.size()}}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  for (std::size_t left = head_.size() + request.body.size(); left > 0;) {
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (!timed_out(errno)) return false;
      if (Clock::now() < until) continue;
      return out_of_time_ = true, false;
    }
    left -= static_cast<std::size_t>(sent);
    auto gone = static_cast<std::size_t>(sent);
    for (iovec& part : parts) {
      const std::size_t taken = std::min(gone, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + taken;
      part.iov_len -= taken;
      gone -= taken;
    }
  }
  return true;
}

std::size_t Connection::read_some(std::span<std::byte> into, Clock::time_point until) {
  for (;;) {
    const ssize_t got = ::recv(socket_.get(), into.data(), into.size(), 0);
    if (got >= 0) return static_cast<std::size_t>(got);
    if (!timed_out(errno)) return 0;
    if (Clock::now() < until) continue;
    out_of_time_ = true;
    return 0;
  }
}

Result<HttpReply, Lost> Connection::receive(const HttpRequest& request, Clock::time_point until) {
  reusable_ = false;
  const auto lost = [this] { return out_of_time_ ? Lost::gave_up : Lost::unknown; };
  std::size_t have = 0;
  std::string_view text;
  std::size_t end = text.npos;
  while (end == text.npos) {
    if (have == kInputBytes) return Lost::unknown;
    const std::size_t got = read_some({in_.get() + have, kInputBytes - have}, until);
    if (got == 0) return lost();
    have += got;
    text = {reinterpret_cast<const char*>(in_.get()), have};
    end = text.find("\r\n\r\n");
  }
  HttpReply reply;
  ReplyParser parser(reply, request.into, kMaxReplyBytes);
  if (!parser.feed(text.substr(0, end + 4))) return Lost::unknown;
  if (!read_rest(reply, request, parser, text.substr(end + 4), until)) return lost();
  reusable_ = parser.keep_alive();
  return reply;
}

// Bytes of a known length go straight to their place; chunks pass the parser.
bool Connection::read_rest(HttpReply& reply, const HttpRequest& request, ReplyParser& parser,
                           std::string_view rest, Clock::time_point until) {
  if (!rest.empty() && !parser.done() && !parser.feed(rest)) return false;
  while (!parser.done()) {
    std::span<std::byte> to{in_.get(), kInputBytes};
    const std::size_t known = parser.known_rest();
    const bool straight = known > 0 && reply.status < 300 && !request.into.empty();
    if (straight) to = request.into.subspan(reply.received, known);
    const std::size_t got = read_some(to, until);
    if (got == 0) return false;
    if (straight) {
      parser.placed(got);
    } else if (!parser.feed({reinterpret_cast<const char*>(in_.get()), got})) {
      return false;
    }
  }
  return true;
}

UnixHttp::UnixHttp(HttpOptions options) : options_(std::move(options)) {}
UnixHttp::~UnixHttp() = default;

Result<std::unique_ptr<Connection>, Lost> UnixHttp::take(Clock::time_point until, bool fresh) {
  while (!fresh) {
    std::unique_ptr<Connection> kept;
    {
      const std::lock_guard lock(mutex_);
      if (kept_.empty()) break;
      kept = std::move(kept_.back());
      kept_.pop_back();
    }
    if (kept->alive()) return kept;
  }
  // The directory outlives the socket: a restarted broker is found by name.
  for (std::chrono::milliseconds pause(2);; pause = std::min(pause * 2, std::chrono::milliseconds(100))) {
    if (UniqueFd socket = connect_unix(options_.socket))
      return std::make_unique<Connection>(std::move(socket));
    if (Clock::now() + pause > until) return Lost::gave_up;
    std::this_thread::sleep_for(pause);
  }
}

void UnixHttp::give_back(std::unique_ptr<Connection> connection) {
  const std::lock_guard lock(mutex_);
  if (kept_.size() < options_.max_kept) kept_.push_back(std::move(connection));
}

Result<HttpReply, Lost> UnixHttp::exchange(const HttpRequest& request, Clock::time_point until,
                                           bool fresh) {
  FBROKER_TRY(auto connection, take(until, fresh));
  auto reply = connection->exchange(request, Clock::now() + options_.reply_bound);
  if (!reply) return reply;
  // Turned away at the door: too many connections.
  if (reply->status == 503 && reply->instance.empty()) return Lost::not_sent;
  if (connection->reusable()) give_back(std::move(connection));
  return reply;
}

}  // namespace fbroker::client
