#include "broker/control/exchange.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstring>

namespace fbroker::control {

namespace http = boost::beast::http;
using std::chrono::steady_clock;

namespace {

// False: the deadline passed, or nothing can come any more.
bool wait_for(int socket, short events, Deadline until) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - steady_clock::now()).count();
    if (left <= 0) return false;
    pollfd waiting{socket, events, 0};
    const int n = ::poll(&waiting, 1, static_cast<int>(std::min<long>(left, 60'000)));
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
  }
}

void make_non_blocking(int socket) { ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK); }

int status_for(const boost::system::error_code& error) {
  if (error == http::error::header_limit) return 431;
  if (error == http::error::body_limit) return 413;
  return 400;
}

// Everything of one message into `parser`.
template <bool is_request>
Result<void, ExchangeError> read_message(int socket, http::parser<is_request, http::string_body>& parser,
                                         Deadline until) {
  make_non_blocking(socket);
  parser.eager(true);
  boost::beast::flat_buffer buffer(kMaxHeaderBytes + 64 * 1024);
  while (!parser.is_done()) {
    if (!wait_for(socket, POLLIN, until)) return ExchangeError{408, "the message did not come in time"};
    const auto room = buffer.prepare(std::min<std::size_t>(64 * 1024, buffer.max_size() - buffer.size()));
    if (room.size() == 0) return ExchangeError{431, "the header is too large"};
    const ssize_t n = ::recv(socket, room.data(), room.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    boost::system::error_code error;
    if (n <= 0) {
      if (n == 0 && parser.got_some()) parser.put_eof(error);
      if (n == 0 && parser.is_done() && !error) break;
      return ExchangeError{0, n == 0 ? "the connection was closed" : std::strerror(errno)};
    }
    buffer.commit(static_cast<std::size_t>(n));
    while (buffer.size() > 0 && !parser.is_done()) {
      const std::size_t used = parser.put(buffer.data(), error);
      buffer.consume(used);
      if (error == http::error::need_more) break;
      if (error) return ExchangeError{status_for(error), error.message()};
      if (used == 0) break;
    }
  }
  return ok;
}

bool send_all(int socket, std::string_view bytes, Deadline until) {
  make_non_blocking(socket);
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && wait_for(socket, POLLOUT, until)) continue;
    return false;
  }
  return true;
}

}  // namespace

Result<Request, ExchangeError> read_request(int socket, Deadline until) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(kMaxHeaderBytes);
  parser.body_limit(kMaxRequestBytes);
  FBROKER_TRY_VOID(read_message<true>(socket, parser, until));
  auto& message = parser.get();
  const auto field = [&](http::field name) { return std::string(message[name]); };
  return Request{std::string(message.method_string()), std::string(message.target()),
                 field(http::field::content_type), std::move(message.body()),
                 field(http::field::origin), field(http::field::host)};
}

Result<Response, ExchangeError> read_response(int socket, Deadline until) {
  http::response_parser<http::string_body> parser;
  parser.header_limit(kMaxHeaderBytes);
  parser.body_limit(kMaxResponseBytes);
  FBROKER_TRY_VOID(read_message<false>(socket, parser, until));
  auto& message = parser.get();
  return Response{static_cast<int>(message.result_int()),
                  std::string(message[http::field::content_type]), std::move(message.body())};
}

bool write_request(int socket, const Request& request, Deadline until) {
  return send_all(socket,
                  request.method + " " + request.target +
                      " HTTP/1.1\r\nHost: fbroker\r\nConnection: close\r\nContent-Type: "
                      "application/json\r\nContent-Length: " +
                      std::to_string(request.body.size()) + "\r\n\r\n" + request.body,
                  until);
}

bool write_response(int socket, const Response& response, Deadline until) {
  const std::string reason(http::obsolete_reason(static_cast<http::status>(response.status)));
  return send_all(socket,
                  "HTTP/1.1 " + std::to_string(response.status) + " " + reason +
                      "\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: " +
                      response.content_type + "\r\nContent-Length: " +
                      std::to_string(response.body.size()) + "\r\n\r\n" + response.body,
                  until);
}

Result<UniqueFd, Errno> connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Errno{ENAMETOOLONG};
  std::memcpy(address.sun_path, path.c_str(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return Errno::last();
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return Errno::last();
  return socket;
}

}  // namespace fbroker::control
