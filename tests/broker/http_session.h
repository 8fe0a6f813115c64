// HttpSession: a real HttpFront over a real LocalFileService, and a raw client
// that sends what bytes it likes.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "broker/http/http_front.h"
#include "tests/broker/files_session.h"

namespace fbroker::test {

// A client with no manners. Reads block for at most ten seconds.
class RawClient {
 public:
  explicit RawClient(const std::string& socket) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket.c_str(), std::min(socket.size(), sizeof address.sun_path - 1));
    connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  bool connected() const { return connected_; }
  int fd() const { return fd_.get(); }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  void finish_sending() { ::shutdown(fd_.get(), SHUT_WR); }

  // One reply: head and body. "" = the connection ended first.
  std::string reply() {
    std::size_t head = std::string::npos;
    while ((head = have_.find("\r\n\r\n")) == std::string::npos)
      if (!more()) return "";
    const std::string text = have_.substr(0, head + 4);
    std::size_t size = text.size();
    const std::size_t length = text.find("Content-Length: ");
    if (length != std::string::npos) size += std::strtoull(text.c_str() + length + 16, nullptr, 10);
    if (text.find("Transfer-Encoding: chunked") != std::string::npos) {
      std::size_t end;
      while ((end = have_.find("0\r\n\r\n", head)) == std::string::npos)
        if (!more()) return "";
      size = end + 5;
    }
    while (have_.size() < size)
      if (!more()) return "";
    const std::string reply = have_.substr(0, size);
    have_.erase(0, size);
    return reply;
  }
  // What comes until the broker closes.
  std::string rest() {
    while (more()) {
    }
    return std::exchange(have_, "");
  }
  // Whether the broker ends the connection (what it said before is dropped).
  bool closed() { return rest(), ended_; }

  // "POST /v1/NAME" with a JSON body; the reply.
  std::string post(std::string_view target, std::string_view json) {
    send("POST " + std::string(target) + " HTTP/1.1\r\nHost: x\r\nContent-Length: " +
         std::to_string(json.size()) + "\r\n\r\n" + std::string(json));
    return reply();
  }
  std::string get(std::string_view target, std::string_view fields = "") {
    send("GET " + std::string(target) + " HTTP/1.1\r\nHost: x\r\n" + std::string(fields) + "\r\n");
    return reply();
  }

  bool more() {
    pollfd ready{fd_.get(), POLLIN, 0};
    if (::poll(&ready, 1, 10'000) <= 0) return false;
    char bytes[65536];
    const ssize_t got = ::recv(fd_.get(), bytes, sizeof bytes, 0);
    if (got <= 0) return ended_ = true, false;
    have_.append(bytes, static_cast<std::size_t>(got));
    return true;
  }
  const std::string& have() const { return have_; }

 private:
  UniqueFd fd_;
  bool connected_ = false, ended_ = false;
  std::string have_;
};

inline unsigned status_of(const std::string& reply) {
  return reply.size() > 12 ? static_cast<unsigned>(std::strtoul(reply.c_str() + 9, nullptr, 10)) : 0;
}
inline std::string body_of(const std::string& reply) {
  const std::size_t head = reply.find("\r\n\r\n");
  return head == std::string::npos ? "" : reply.substr(head + 4);
}

class HttpSession {
 public:
  explicit HttpSession(broker::HttpOptions options = {},
                       std::vector<policy::Rule> rules = {allow("write", {"/**"})},
                       broker::EgressOptions egress_options = {})
      : files(std::move(rules)), egress(*files.context, std::move(egress_options)), options_(std::move(options)) {
    files.tree.mkdir("sockets");
    start();
  }
  ~HttpSession() {
    if (front) stop();
  }

  // As a new broker would: another instance, another file service, the same socket.
  void start() {
    auto listener = broker::bind_unix_socket(files.tree.path("sockets"), "broker.sock", 0600, files.tree.path("lock"));
    if (!listener) std::abort();
    lock_ = std::move(listener->lock);
    broker::HttpServices services{
        *files.service, *files.admissions, files.events,
        [this](const protocol::Caller& caller, const WorkspacePath& path) {
          return files.service->resolve(caller, path.bytes(), true);
        },
        &egress, is_file_service};
    front = std::move(broker::HttpFront::start(std::move(listener->socket), options_, services)).value();
  }
  void stop() {
    front.reset();
    lock_ = UniqueFd();
  }
  // The broker is gone with all it knew; the socket's name stays behind.
  void restart() {
    stop();
    files.service = std::make_unique<broker::LocalFileService>(*files.context);
    start();
  }

  std::string socket() const { return files.tree.path("sockets/broker.sock"); }
  std::string host() const { return files.tree.path("w"); }

  FilesSession files;
  std::function<bool(std::uint32_t)> is_file_service = [this](std::uint32_t) { return we_are_file_service.load(); };
  std::atomic<bool> we_are_file_service{false};
  broker::EgressGate egress;
  std::unique_ptr<broker::HttpFront> front;

 private:
  broker::HttpOptions options_;
  UniqueFd lock_;
};

// Waits until `done`, for at most ten seconds.
template <class Condition>
bool eventually(Condition done) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!done()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace fbroker::test
