// The kernel's FUSE device: mounting it, and further channels of it.
#pragma once

#include <sys/types.h>

#include <string>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::fuse {

inline constexpr unsigned kMaxTransfer = 1024 * 1024;  // bytes of one read or write request

// A FUSE file system mounted on a directory by this process. Unmounted
// (lazily) when destroyed.
class Mount {
 public:
  // Every user inside the mount's user namespace may use it; the broker says
  // what they may do. The kernel's own permission check is off, because what
  // it refused would be in no record. Precondition: CAP_SYS_ADMIN there.
  static Result<Mount> make(const std::string& directory, uid_t uid, gid_t gid);
  Mount(Mount&& other) noexcept
      : directory_(std::exchange(other.directory_, {})), device_(std::move(other.device_)) {}
  Mount& operator=(Mount&&) = delete;
  ~Mount();

  // To be given to FuseFront, once.
  UniqueFd take_device() { return std::move(device_); }

 private:
  Mount(std::string directory, UniqueFd device)
      : directory_(std::move(directory)), device_(std::move(device)) {}
  std::string directory_;
  UniqueFd device_;
};

// A second channel of the same connection, so that threads do not share one
// queue of answers. None where the device cannot be opened here.
UniqueFd clone_device(int device);

}  // namespace fbroker::fuse
