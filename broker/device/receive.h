// Receiving a FUSE device from a container's first process.
//
// The sender writes one DeviceOffer with 1 to kMaxDevices descriptors beside
// it: channels of one connection, mounted and not yet initialised.
// ATTACK: a descriptor of a hostile FUSE file. Looking at it (fstat) or closing
//   it can wait for its file system, which never answers, beyond SIGKILL. So a
//   process that is thrown away takes what is sent; what it passes on is the
//   kernel's own device and nothing else.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <vector>

#include "broker/protocol/device_offer.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

struct OfferedDevice {
  protocol::DeviceOffer offer;
  std::vector<UniqueFd> devices;
};

// Errors: nothing came within `bound`, it was something else, a descriptor is no FUSE device.
Result<OfferedDevice> receive_device(int socket, std::chrono::milliseconds bound);

}  // namespace fbroker::broker
