// FuseConnection: the kernel's side of a FUSE device, and its end by force.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

class FuseConnection {
 public:
  // Of a device that is mounted by the process `mounted_by`, here or in a
  // container. Errors: the connection is not found; it cannot be aborted
  // (/sys/fs/fuse/connections is not mounted or not ours to write): with the cure.
  static Result<FuseConnection> of(int device, pid_t mounted_by);

  // That of a device, where the kernel tells it (Linux 6.16).
  static std::optional<std::uint32_t> number_of(int device);

  // Every call through the mount fails from now on, those under way too.
  // Async-signal-safe.
  void abort() const noexcept;
  std::uint32_t number() const noexcept { return number_; }

 private:
  FuseConnection(std::uint32_t number, UniqueFd abort) : number_(number), abort_(std::move(abort)) {}
  std::uint32_t number_;
  UniqueFd abort_;   // kept open: the name could come to mean another one
};

}  // namespace fbroker::broker
