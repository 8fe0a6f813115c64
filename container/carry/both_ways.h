// Carries bytes between two connections until both have ended.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/generic/stream_protocol.hpp>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::carry {

// Any stream socket, TCP or Unix.
using Stream = boost::asio::generic::stream_protocol::socket;

// Errors: it is no stream socket.
Result<Stream, Errno> adopt(const boost::asio::any_io_executor& executor, UniqueFd fd);

// What one side has no more to say, the other is told (half-close), and may go
// on itself. A broken connection ends both. Returns when all is over; both are
// closed then.
// Bounded: one fixed buffer each way. Descriptors that a peer sends along
// (SCM_RIGHTS) are dropped by the kernel: nobody here reads with room for them.
// INVARIANT: both live on one executor without concurrency.
boost::asio::awaitable<void> both_ways(Stream& one, Stream& other);

}  // namespace fbroker::carry
