// StateDir: the broker's files that outlive it (design sections 8 and 9).
//
// One directory, 0700, locked by the one broker that uses it. Texts in it are
// replaced as a whole: after a crash there is the old one or the new one.
// Threads: read() and replace() may be called from any thread, for one name by
// one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

class StateDir {
 public:
  // Errors: not ours, or another live broker uses it (names its pid).
  static Result<StateDir> open(const std::string& path);

  // None when there is no such file.
  // Errors: more than max_bytes, not a regular file of ours, the disk.
  Result<std::optional<std::string>> read(const std::string& name, std::size_t max_bytes) const;

  // Written beside it, synced, renamed over it, and the directory synced: when
  // this returns it survives a power loss.
  Result<void> replace(const std::string& name, std::string_view content) const;

  const std::string& path() const noexcept { return path_; }
  int fd() const noexcept { return directory_.get(); }
  std::string audit_path() const { return path_ + "/audit"; }

 private:
  StateDir(std::string path, UniqueFd directory, UniqueFd lock)
      : path_(std::move(path)), directory_(std::move(directory)), lock_(std::move(lock)) {}
  std::string path_;
  UniqueFd directory_;
  UniqueFd lock_;
};

}  // namespace fbroker::broker
