// What a container's first process says of the FUSE device that it gives away
// (docs/protocol.md, "The device"): the message beside which its descriptors go.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fbroker::protocol {

inline constexpr std::size_t kMaxDevices = 4;
inline constexpr std::uint32_t kDeviceOfferVersion = 1;

struct DeviceOffer {
  std::uint32_t version = kDeviceOfferVersion;
  std::uint32_t devices = 0;   // how many descriptors
  std::uint32_t uid = 0;       // who owns all files, as the mount's user namespace calls them
  std::uint32_t gid = 0;
};

inline constexpr char kDeviceUpgrade[] = "fbroker-device";   // the protocol upgraded to
inline constexpr char kDeviceAdopted[] = "adopted\n";        // the answer; any other line says why not

}  // namespace fbroker::protocol
