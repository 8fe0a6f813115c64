// What a broker and its keeper say to each other: messages of a SOCK_SEQPACKET
// socket, three bytes and a name, with at most one descriptor beside them.
// (Private to broker/device.)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

// Of both programs: after an update a new broker may meet an old keeper. A
// hello is answered in every version.
inline constexpr std::uint8_t kKeeperVersion = 1;

namespace say {
inline constexpr std::uint8_t kHello = 'h';   // -> kDone with the keeper's pid as its name
inline constexpr std::uint8_t kKeep = 'k';    // detail: Kept; one descriptor -> kDone
inline constexpr std::uint8_t kDrop = 'd';    // no answer
inline constexpr std::uint8_t kList = 'l';    // -> kFound ..., kDone
inline constexpr std::uint8_t kTake = 't';    // -> kFound with a descriptor each ..., kDone
inline constexpr std::uint8_t kDone = '.';    // detail: an error number, 0 = done
inline constexpr std::uint8_t kFound = 'f';   // detail: Kept
}  // namespace say

struct KeeperMessage {
  std::uint8_t version = kKeeperVersion;
  std::uint8_t kind = 0;
  std::uint8_t detail = 0;
  std::string name = {};
  std::vector<UniqueFd> descriptors = {};
  bool cut = false;     // descriptors came that there was no room for
  bool whole = true;    // false: no message of ours; its descriptors are to be closed all the same
};

// Both without waiting. Errors: of sendmsg(2) and recvmsg(2); EAGAIN when it
// would have to wait, ECONNRESET at the end.
Result<void, Errno> send_message(int socket, std::uint8_t kind, std::uint8_t detail, std::string_view name,
                                 int fd = -1);
Result<KeeperMessage, Errno> receive_message(int socket);

}  // namespace fbroker::broker
