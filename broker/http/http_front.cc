#include "broker/http/http_front.h"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <set>
#include <thread>

#include "broker/http/connection.h"

namespace fbroker::broker {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

// fbroker-fuse keeps one for each of its threads, one for events and one to acknowledge.
constexpr std::size_t kReservedConnections = 32;

}  // namespace

struct HttpFront::Impl {
  Impl(HttpOptions options, HttpServices services)
      : state(std::move(options), std::move(services)) {}

  FrontState state;
  asio::io_context io;
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  Connection::Strand strand{io.get_executor()};   // of listener, timers
  asio::posix::basic_stream_descriptor<Connection::Strand> listener{strand};
  asio::basic_waitable_timer<Connection::Clock, asio::wait_traits<Connection::Clock>,
                             Connection::Strand> sweep_timer{strand}, accept_timer{strand};
  Connection::Clock::time_point next_beat{};
  std::vector<std::thread> threads;

  mutable std::mutex mutex;   // guards connections; nothing is taken below it but Connection::closing_
  std::condition_variable all_ended;
  std::set<std::shared_ptr<Connection>> connections;

  std::mutex stop_mutex;      // one stop() at a time; guards threads

  void accept();
  void accept_ready();
  void add(UniqueFd socket);
  bool make_room();
  bool has_reserve(std::uint32_t peer_pid) const;
  void sweep();
  std::chrono::milliseconds sweep_interval() const;
  template <class Predicate>
  std::size_t cut_where(Predicate predicate);
};

void HttpFront::Impl::accept() {
  listener.async_wait(asio::posix::descriptor_base::wait_read, [this](const error_code& error) {
    if (error || state.stopping.load()) return;
    accept_ready();
  });
}

// accept4 by hand: Asio's accept does not set close-on-exec, and a program the
// broker starts must not inherit a client.
void HttpFront::Impl::accept_ready() {
  for (;;) {
    UniqueFd socket(::accept4(listener.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket) {
      add(std::move(socket));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN) return accept();
    // No descriptors or memory left: try again soon instead of spinning.
    accept_timer.expires_after(std::chrono::milliseconds(100));
    accept_timer.async_wait([this](const error_code& error) {
      if (!error) accept();
    });
    return;
  }
}

// INVARIANT: only the session's own users speak to its socket, whoever could
//   reach it in the file system.
void HttpFront::Impl::add(UniqueFd socket) {
  const auto peer = peer_of(socket.get());
  if (!peer || !may_call(peer->uid, state.options.other_uids)) return;
  const std::lock_guard lock(mutex);
  if (state.stopping.load()) return;
  if (connections.size() >= state.options.max_connections && !make_room() && !has_reserve(peer->pid)) {
    constexpr std::string_view kFull =
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    ::send(socket.get(), kFull.data(), kFull.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return;
  }
  error_code error;
  Connection::Socket owned(asio::make_strand(io));
  owned.assign(asio::local::stream_protocol(), socket.get(), error);
  if (error) return;
  socket.release();
  auto connection = std::make_shared<Connection>(std::move(owned), state, peer->pid);
  connections.insert(connection);
  connection->start();
}

// ATTACK: one process takes all connections so that the file system of the
//   same sandbox gets none. Idle ones give way, the longest idle first.
// Precondition: mutex is held.
bool HttpFront::Impl::make_room() {
  std::shared_ptr<Connection> oldest;
  Connection::Clock::time_point since = Connection::Clock::time_point::max();
  for (const auto& connection : connections) {
    const auto idle = connection->idle_since();
    if (!idle || *idle >= since) continue;
    since = *idle;
    oldest = connection;
  }
  if (oldest == nullptr) return false;
  oldest->cut();
  connections.erase(oldest);
  return true;
}

// And where none is idle, the file system has some that nobody else gets.
bool HttpFront::Impl::has_reserve(std::uint32_t peer_pid) const {
  const auto& is_file_service = state.services.is_file_service;
  return connections.size() < state.options.max_connections + kReservedConnections && is_file_service &&
         is_file_service(peer_pid);
}

// A quarter of the shortest bound: no client stays much longer than it may.
std::chrono::milliseconds HttpFront::Impl::sweep_interval() const {
  const HttpOptions& o = state.options;
  const auto shortest = std::min({o.head_bound, o.body_bound, o.write_bound, o.idle_bound, o.heartbeat});
  return std::clamp(shortest / 4, std::chrono::milliseconds(5), std::chrono::milliseconds(1000));
}

void HttpFront::Impl::sweep() {
  sweep_timer.expires_after(sweep_interval());
  sweep_timer.async_wait([this](const error_code& error) {
    // A cancel() that comes too late must not find the timer armed anew.
    if (error || state.stopping.load()) return;
    const auto now = Connection::Clock::now();
    cut_where([now](const Connection& connection) { return connection.expired(now); });
    if (now >= next_beat) {
      next_beat = now + state.options.heartbeat;
      const std::lock_guard lock(mutex);
      for (const auto& connection : connections) connection->heartbeat();
    }
    sweep();
  });
}

template <class Predicate>
std::size_t HttpFront::Impl::cut_where(Predicate predicate) {
  const std::lock_guard lock(mutex);
  std::size_t count = 0;
  for (const auto& connection : connections) {
    if (!predicate(*connection)) continue;
    connection->cut();
    ++count;
  }
  return count;
}

HttpFront::HttpFront(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpFront>> HttpFront::start(UniqueFd listener, HttpOptions options,
                                                    HttpServices services) {
  if (options.instance.empty()) options.instance = random_name();
  auto impl = std::make_unique<Impl>(std::move(options), std::move(services));
  Impl* raw = impl.get();
  raw->state.ended = [raw](const std::shared_ptr<Connection>& connection) {
    const std::lock_guard lock(raw->mutex);
    raw->connections.erase(connection);
    raw->all_ended.notify_all();
  };
  if (listener) {
    error_code error;
    raw->listener.assign(listener.get(), error);
    if (error) return Error{"data socket", error.message()};
    listener.release();
    raw->accept();
  }
  raw->next_beat = Connection::Clock::now() + raw->state.options.heartbeat;
  raw->sweep();
  for (unsigned i = 0; i < std::max(1u, raw->state.options.threads); ++i)
    raw->threads.emplace_back([raw] { raw->io.run(); });
  return std::unique_ptr<HttpFront>(new HttpFront(std::move(impl)));
}

HttpFront::~HttpFront() { stop(std::chrono::milliseconds(0)); }

void HttpFront::adopt(UniqueFd connected) { impl_->add(std::move(connected)); }

std::size_t HttpFront::abort_older_than_publish() {
  const auto current = impl_->state.services.admissions.current();
  return impl_->cut_where(
      [&](const Connection& connection) { return connection.holds_older_than(*current); });
}

std::size_t HttpFront::abort_all() {
  return impl_->cut_where([](const Connection&) { return true; });
}

void HttpFront::stop(std::chrono::milliseconds grace) {
  const std::lock_guard stopping(impl_->stop_mutex);
  if (impl_->threads.empty()) return;
  impl_->state.stopping.store(true);
  asio::post(impl_->strand, [impl = impl_.get()] {
    error_code ignored;
    impl->listener.close(ignored);
    impl->sweep_timer.cancel();
    impl->accept_timer.cancel();
  });
  impl_->cut_where([](const Connection& connection) { return connection.idle_since().has_value(); });
  {
    std::unique_lock lock(impl_->mutex);
    impl_->all_ended.wait_for(lock, grace, [&] { return impl_->connections.empty(); });
  }
  abort_all();
  {
    std::unique_lock lock(impl_->mutex);
    impl_->all_ended.wait(lock, [&] { return impl_->connections.empty(); });
  }
  impl_->work.reset();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->threads.clear();
}

bool HttpFront::wait_file_service(std::chrono::milliseconds bound) {
  return impl_->state.streams.wait_file_service(bound);
}

bool HttpFront::file_service_acknowledged(std::uint64_t sequence) {
  return impl_->state.streams.file_service_acknowledged(sequence);
}

std::size_t HttpFront::connections() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->connections.size();
}

const std::string& HttpFront::instance() const { return impl_->state.options.instance; }

}  // namespace fbroker::broker
