// A relay at work in this process, between clients and a data socket that the
// test answers for.
#pragma once

#include <boost/asio/io_context.hpp>
#include <string>
#include <thread>

#include "container/carry/hand_over.h"
#include "container/carry/loopback.h"
#include "shim/relay/relay.h"
#include "tests/support/sockets.h"
#include "tests/support/temp_tree.h"

namespace fbroker::test {

class LiveRelay {
 public:
  explicit LiveRelay(relay::Limits limits = {}) : relay_(io_, socket(), limits) {
    auto listener = carry::listen_on({carry::Loopback::Family::v4, 0});
    port_ = port_of(listener->get());
    auto ends = carry::make_channel();
    channel_ = std::move(ends->launcher);
    if (!relay_.serve_proxy(std::move(*listener)) || !relay_.serve_published(std::move(ends->relay)))
      throw std::runtime_error("relay");
    thread_ = std::thread([this] { io_.run(); });
  }
  ~LiveRelay() {
    io_.stop();
    thread_.join();
  }

  std::string socket() const { return tree_.path("broker.sock"); }
  std::uint16_t port() const { return port_; }
  UniqueFd client() const { return connect_to_port(port_); }
  int channel() const { return channel_.get(); }
  // All that is answered to these bytes.
  std::string ask(const std::string& bytes) const {
    const UniqueFd fd = client();
    send_all(fd.get(), bytes);
    return receive(fd.get());
  }

 private:
  TempTree tree_;
  boost::asio::io_context io_{1};
  relay::Relay relay_;
  std::uint16_t port_ = 0;
  UniqueFd channel_;
  std::thread thread_;
};

}  // namespace fbroker::test
