#include "broker/files/file_stat.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

namespace fbroker::broker {

namespace {

constexpr unsigned kWanted = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;

timespec time_of(const statx_timestamp& stamp) {
  return {.tv_sec = static_cast<time_t>(stamp.tv_sec), .tv_nsec = static_cast<long>(stamp.tv_nsec)};
}

Result<FileStat, Errno> stat_with(int fd, const char* name, int flags) {
  struct statx found {};
  if (::statx(fd, name, flags | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kWanted, &found) != 0)
    return Errno::last();
  FileStat stat;
  stat.identity = {.device = makedev(found.stx_dev_major, found.stx_dev_minor),
                   .inode = found.stx_ino,
                   .birth_ns = (found.stx_mask & STATX_BTIME) == 0
                                   ? 0
                                   : found.stx_btime.tv_sec * 1'000'000'000 + found.stx_btime.tv_nsec};
  stat.mode = found.stx_mode;
  stat.uid = found.stx_uid;
  stat.gid = found.stx_gid;
  stat.links = found.stx_nlink;
  stat.size = found.stx_size;
  stat.blocks = found.stx_blocks;
  stat.block_size = found.stx_blksize;
  stat.mount = found.stx_mnt_id;
  stat.accessed = time_of(found.stx_atime);
  stat.modified = time_of(found.stx_mtime);
  stat.changed = time_of(found.stx_ctime);
  return stat;
}

}  // namespace

Result<FileStat, Errno> stat_at(int directory, const char* name) {
  return stat_with(directory, name, 0);
}

Result<FileStat, Errno> stat_of(int fd) { return stat_with(fd, "", AT_EMPTY_PATH); }

}  // namespace fbroker::broker
