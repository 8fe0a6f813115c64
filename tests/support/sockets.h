// Both ends of a connection, as a test holds them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "policy/base/unique_fd.h"

namespace fbroker::test {

// Sends all of it. False: the other side is gone.
bool send_all(int fd, const std::string& bytes);
// Reads until `size` bytes are there, or to the end, a break, or `bound`.
std::string receive(int fd, std::size_t size = std::string::npos,
                    std::chrono::milliseconds bound = std::chrono::seconds(20));
// Whether the other side has ended, within `bound`, and nothing else came.
bool ends(int fd, std::chrono::milliseconds bound = std::chrono::seconds(20));

UniqueFd connect_to_port(std::uint16_t port);   // of 127.0.0.1; empty: refused
UniqueFd listen_on_free_port();                 // of 127.0.0.1
UniqueFd listen_at(const std::string& path);    // a Unix socket
std::uint16_t port_of(int socket);

// "05 01 00" -> three bytes, and back.
std::string bytes_of(const std::string& hex);
std::string hex_of(const std::string& bytes);

// Answers for a listening socket: `serve` in a thread for each connection.
class Peer {
 public:
  using Serve = std::function<void(int fd)>;
  Peer(UniqueFd listener, Serve serve);
  ~Peer();                               // hangs up
  int count() const { return count_; }   // connections so far

 private:
  void accept_all();

  UniqueFd listener_;
  Serve serve_;
  std::atomic<int> count_ = 0;
  std::mutex mutex_;                     // guards the two below
  std::vector<int> open_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace fbroker::test
