#include "broker/fuse/device.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <cstring>

namespace fbroker::fuse {

Result<Mount> Mount::make(const std::string& directory, uid_t uid, gid_t gid) {
  UniqueFd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!device) return Error{"/dev/fuse", std::string("cannot be opened: ") + std::strerror(errno)};
  const std::string options = "fd=" + std::to_string(device.get()) + ",rootmode=40000,user_id=" +
                              std::to_string(uid) + ",group_id=" + std::to_string(gid) +
                              ",allow_other,max_read=" + std::to_string(kMaxTransfer);
  if (::mount("fbroker", directory.c_str(), "fuse.fbroker", MS_NOSUID | MS_NODEV,
              options.c_str()) != 0)
    return Error{directory, std::string("cannot be mounted: ") + std::strerror(errno)};
  return Mount(directory, std::move(device));
}

Mount::~Mount() {
  if (!directory_.empty()) ::umount2(directory_.c_str(), MNT_DETACH);
}

UniqueFd clone_device(int device) {
  // Through its own descriptor: it need not have a name here any more.
  const std::string self = "/proc/self/fd/" + std::to_string(device);
  UniqueFd channel(::open(self.c_str(), O_RDWR | O_CLOEXEC));
  if (!channel) channel = UniqueFd(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  auto source = static_cast<std::uint32_t>(device);
  if (!channel || ::ioctl(channel.get(), FUSE_DEV_IOC_CLONE, &source) != 0) return UniqueFd();
  return channel;
}

}  // namespace fbroker::fuse
