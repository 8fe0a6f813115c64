// FileStat: what statx(2) says of one file, and who it is.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <ctime>

#include "broker/protocol/file_service.h"
#include "policy/base/result.h"

namespace fbroker::broker {

struct FileStat {
  protocol::FileIdentity identity;
  std::uint32_t mode = 0;      // type and permissions, as st_mode
  std::uint32_t uid = 0, gid = 0;
  std::uint64_t links = 0, size = 0, blocks = 0;
  std::uint32_t block_size = 4096;
  std::uint64_t mount = 0;     // which mount it was found on (STATX_MNT_ID, Linux 5.8)
  timespec accessed{}, modified{}, changed{};

  bool is_regular() const noexcept { return S_ISREG(mode); }
  bool is_directory() const noexcept { return S_ISDIR(mode); }
  bool is_symlink() const noexcept { return S_ISLNK(mode); }
  // Devices, FIFOs and sockets never go through the broker.
  bool is_special() const noexcept { return !is_regular() && !is_directory() && !is_symlink(); }
  bool is_set_id() const noexcept { return is_regular() && (mode & (S_ISUID | S_ISGID)) != 0; }
};

// The file called `name` in the directory; a symlink is itself.
Result<FileStat, Errno> stat_at(int directory, const char* name);
Result<FileStat, Errno> stat_of(int fd);

}  // namespace fbroker::broker
