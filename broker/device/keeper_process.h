// The keeper's own process (keeper.h): one loop over a table of descriptors.
//
// It does nothing with what it keeps. A descriptor may be of a file on a file
// system that does not answer: fstat(2), poll(2) and close(2) (which flushes)
// can hang on it for ever. So only what is known to be a FUSE device is polled,
// and closing is another thread's work, which may hang.
//
// It ends by itself: when nothing is kept and no broker has been there for a
// while.
#pragma once

#include <chrono>
#include <cstddef>

#include "broker/device/keeper.h"

namespace fbroker::broker {

struct KeeperProcessOptions {
  // A broker that is being restarted is given so long.
  std::chrono::milliseconds grace{5'000};
  // Files without a device belong to no sandbox that a kernel waits for; after
  // so long without a broker they are given up, as they hold up disk space.
  std::chrono::milliseconds files_alone{600'000};
  // How often devices are looked at.
  std::chrono::milliseconds device_check{2'000};
  std::size_t max_kept = kMaxKept;
};

// Serves that listening socket until there is nothing to keep. Ends the process
// (it does not wait for descriptors that cannot be closed) unless the socket is
// none: then false.
// Precondition: the process is this one's alone, and has no other thread.
bool run_keeper(int listener, const KeeperProcessOptions& options);

}  // namespace fbroker::broker
