// Outgoing connections of the relay.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <optional>

#include "container/carry/both_ways.h"

namespace fbroker::relay {

using carry::Stream;
using Endpoint = boost::asio::generic::stream_protocol::endpoint;

boost::asio::awaitable<void> after(std::chrono::milliseconds time);

// Nothing: nobody answers there, or not within `bound`.
boost::asio::awaitable<std::optional<Stream>> dial(Endpoint to, std::chrono::milliseconds bound);

}  // namespace fbroker::relay
