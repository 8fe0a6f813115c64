#include "container/publish.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <system_error>
#include <thread>

#include "container/carry/both_ways.h"
#include "container/carry/descriptors.h"
#include "container/carry/hand_over.h"
#include "container/proxy.h"

namespace fbroker::container {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

constexpr std::size_t kMostPorts = 16;
constexpr int kMostConnections = 64;   // of one port at a time; further ones wait in the backlog
constexpr auto kPause = std::chrono::milliseconds(100);

Error forms(std::string_view text) {
  return Error{"--publish " + std::string(text), "expected PORT, PORT:PORT-INSIDE, or either after 127.0.0.1: or [::1]:"};
}

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

// "127.0.0.1" of "127.0.0.1:8080:80", "[::1]" of "[::1]:80", "" of "8080:80".
std::string_view address_of(std::string_view text) {
  const std::size_t end = text.starts_with('[') ? text.find(']') + 1 : text.find(':');
  const std::string_view first = text.substr(0, end);
  return is_number(first) ? std::string_view() : first;
}

std::string cure(int error, const PublishedPort& port) {
  const std::string inside = std::to_string(port.inside);
  if (error == EADDRINUSE)
    return "is in use on this machine (ss -ltnp shows by what); end that, or publish another port: --publish OTHER:" +
           inside;
  if (error == EACCES) return "needs root below 1024; publish another port: --publish 8080:" + inside;
  return std::strerror(error);
}

Result<UniqueFd> listener_for(const PublishedPort& port) {
  auto listener = carry::listen_on(port.outside);
  if (!listener)
    return Error{"--publish " + port.outside.text(),
                 "port " + std::to_string(port.outside.port) + " " + cure(listener.error().value, port)};
  return std::move(*listener);
}

}  // namespace

Result<PublishedPort> parse_publish(std::string_view text) {
  const std::string_view address = address_of(text);
  std::string_view ports = text.substr(address.size());
  if (!address.empty()) {
    if (!ports.starts_with(':')) return forms(text);
    ports.remove_prefix(1);
    // ATTACK: on any other address the whole network could reach what the agent
    //   runs: the person's login, a server full of the project's files.
    if (address != "127.0.0.1" && address != "[::1]")
      return Error{"--publish " + std::string(text),
                   "only 127.0.0.1 and [::1] can be published: on another address other machines "
                   "could reach what the agent runs"};
  }
  const std::size_t colon = ports.find(':');
  const auto outside = carry::parse_port(ports.substr(0, colon));
  const auto inside = colon == ports.npos ? outside : carry::parse_port(ports.substr(colon + 1));
  if (!outside || !inside) return forms(text);
  if (*inside == kProxyPort)
    return Error{"--publish " + std::string(text), "inside this is the sandbox's own proxy"};
  return PublishedPort{{address == "[::1]" ? carry::Loopback::Family::v6 : carry::Loopback::Family::v4, *outside},
                       *inside};
}

// Threads: `run` is the only one that touches anything once it runs.
class Publisher::Carrier {
 public:
  ~Carrier() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  void add(UniqueFd listener, const PublishedPort& port) {
    auto& one = *ports_.emplace_back(std::make_unique<Port>(Port{tcp::acceptor(io_), port}));
    one.listener.assign(tcp::v4(), listener.release());
  }
  bool has(const carry::Loopback& outside) const {
    return std::any_of(ports_.begin(), ports_.end(), [&](const auto& one) { return one->port.outside == outside; });
  }
  std::size_t size() const { return ports_.size(); }

  void start(UniqueFd channel) {
    channel_ = std::move(channel);
    carry::allow_many_descriptors();
    // INVARIANT: as many attendants, so many connections, and no more memory.
    for (const auto& port : ports_)
      for (int i = 0; i < kMostConnections; ++i) asio::co_spawn(io_, attend(*port), asio::detached);
    thread_ = std::thread([this] { io_.run(); });
  }

 private:
  struct Port {
    tcp::acceptor listener;
    PublishedPort port;
  };

  asio::awaitable<void> attend(Port& port) {
    for (;;) {
      auto [error, outside] = co_await port.listener.async_accept(kTuple);
      if (error) {  // out of descriptors: the connection waits in the backlog
        asio::steady_timer pause(io_, kPause);
        co_await pause.async_wait(kTuple);
        continue;
      }
      try {
        ::fcntl(outside.native_handle(), F_SETFD, FD_CLOEXEC);
        carry::Stream stream(std::move(outside));
        co_await carry_inside(stream, port.port.inside);
      } catch (const std::exception&) {
        // Out of memory: this connection is closed, others go on.
      }
    }
  }

  asio::awaitable<void> carry_inside(carry::Stream& outside, std::uint16_t port) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) co_return;
    UniqueFd ours(ends[0]), theirs(ends[1]);
    if (!carry::hand_over(channel_.get(), port, theirs.get())) co_return;
    theirs = UniqueFd();
    auto inside = carry::adopt(io_.get_executor(), std::move(ours));
    if (inside) co_await carry::both_ways(outside, *inside);
  }

  asio::io_context io_{1};
  UniqueFd channel_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::thread thread_;
};

Publisher::Publisher() = default;
Publisher::Publisher(Publisher&&) noexcept = default;
Publisher& Publisher::operator=(Publisher&&) noexcept = default;
Publisher::~Publisher() = default;

Result<Publisher> Publisher::listen(const std::vector<std::string>& wanted) {
  Publisher publisher;
  if (wanted.empty()) return publisher;
  if (wanted.size() > kMostPorts) return Error{"--publish", "more than " + std::to_string(kMostPorts) + " ports"};
  publisher.carrier_ = std::make_unique<Carrier>();
  for (const std::string& text : wanted) {
    FBROKER_TRY(const PublishedPort port, parse_publish(text));
    if (publisher.carrier_->has(port.outside)) return Error{"--publish " + text, "is published twice"};
    FBROKER_TRY(UniqueFd listener, listener_for(port));
    publisher.carrier_->add(std::move(listener), port);
  }
  return publisher;
}

bool Publisher::any() const noexcept { return carrier_ != nullptr; }

Result<void> Publisher::start(UniqueFd channel) {
  if (!any()) return ok;
  try {
    carrier_->start(std::move(channel));
  } catch (const std::system_error& error) {
    return Error{"--publish", error.what()};
  }
  return ok;
}

}  // namespace fbroker::container
