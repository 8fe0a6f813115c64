#include "broker/protocol/file_service.h"

#include <fcntl.h>

namespace fbroker::protocol {

namespace {

// What a 64-bit program may or may not spell out: glibc defines O_LARGEFILE as
// 0 there, while programs built for 32 bits send the kernel's value.
constexpr int kKernelLargeFile = 0100000;

constexpr int kKnown = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC |
                       O_NONBLOCK | O_NOCTTY | O_LARGEFILE | kKernelLargeFile | O_NOATIME | O_SYNC |
                       O_DSYNC;

}  // namespace

bool open_flags_known(int flags) noexcept {
  // O_ACCMODE has two bits and three meanings; the fourth is Linux's own.
  return (flags & ~kKnown) == 0 && (flags & O_ACCMODE) != O_ACCMODE;
}

}  // namespace fbroker::protocol
