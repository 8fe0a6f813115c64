// MountState: what a mount needs to go on under another broker (design section
// 9): files in the state directory, and the keeper's descriptors.
//
// The keeper knows a session's descriptors as
//   NAME/device/N:UID:GID   a channel of the mount, and who owns its files
//   NAME/file/HANDLE        an open file that could not be opened again by name
// Threads: all members, any thread.
#pragma once

#include <optional>
#include <string>

#include "broker/device/keeper.h"
#include "broker/device/receive.h"
#include "broker/fuse/front.h"

namespace fbroker::broker {

class MountState final : public fuse::Keeping {
 public:
  // `directory`: of such files, the broker's alone.
  MountState(Keeper& keeper, const std::string& directory, std::string session, bool resumes)
      : keeper_(keeper), files_(directory + "/" + session), session_(std::move(session)), resumes_(resumes) {}

  // From here on the device outlives this broker. Errors: the keeper's.
  Result<void, Errno> keep_device(const OfferedDevice& device);
  // The device of a session whose broker was killed; none: there was none.
  static Result<std::optional<OfferedDevice>, Errno> take_device(Keeper& keeper, const std::string& session);
  // The session is over.
  static void forget(Keeper& keeper, const std::string& directory, const std::string& session);

  const std::string& files() const noexcept { return files_; }
  bool resumes() const noexcept { return resumes_; }

  void keep(std::uint64_t handle, int fd) override;
  void drop(std::uint64_t handle) override;
  UniqueFd take(std::uint64_t handle) override;

 private:
  std::string name_of(std::uint64_t handle) const;

  Keeper& keeper_;
  const std::string files_;
  const std::string session_;
  const bool resumes_;
};

}  // namespace fbroker::broker
