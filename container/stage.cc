#include "container/stage.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "policy/base/unique_fd.h"

namespace fbroker::container {
namespace {

// Only in the child's own mount namespace is anything mounted here.
constexpr std::array kPlaces{"/mnt", "/media", "/srv", "/opt"};

Error failed(const std::string& what) { return Error{what, std::strerror(errno)}; }

std::string stage_directory() {
  struct stat found {};
  for (const char* place : kPlaces)
    if (::lstat(place, &found) == 0 && S_ISDIR(found.st_mode)) return place;
  return "";
}

void stage(Mount& mount, const std::string& directory, std::vector<Mount>& staged) {
  const std::string place = directory + "/" + std::to_string(staged.size());
  Mount source = mount;
  source.at = place;
  staged.push_back(source);
  mount.source = place;
  mount.fd = -1;
}

// The name is opened again, in this mount namespace (a descriptor from the old
// one cannot be bound here), and must still be the same file.
Result<UniqueFd> open_again(const Mount& mount) {
  UniqueFd again(::open(mount.source.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!again) return failed(mount.source);
  struct stat was {}, is {};
  if (::fstat(mount.fd, &was) < 0 || ::fstat(again.get(), &is) < 0) return failed(mount.source);
  if (was.st_dev != is.st_dev || was.st_ino != is.st_ino)
    return Error{mount.source, "was replaced while the sandbox was being built"};
  return again;
}

Result<void> put(const Mount& mount, const UniqueFd& source) {
  if (mount.mode == Mount::Mode::device) {
    if (::mknod(mount.at.c_str(), S_IFCHR | 0666, ::makedev(10, 229)) < 0) return failed("FUSE device");
    return ok;
  }
  struct stat kind {};
  ::fstat(source.get(), &kind);
  const bool made = S_ISDIR(kind.st_mode)
                        ? ::mkdir(mount.at.c_str(), 0755) == 0
                        : ::mknod(mount.at.c_str(), S_IFREG | 0600, 0) == 0;
  const std::string by_fd = "/proc/self/fd/" + std::to_string(source.get());
  if (!made || ::mount(by_fd.c_str(), mount.at.c_str(), nullptr, MS_BIND | MS_REC, nullptr) < 0)
    return failed(mount.source);
  return ok;
}

}  // namespace

Result<std::vector<Mount>> plan_stage(SandboxSpec& spec) {
  const std::string directory = stage_directory();
  if (directory.empty()) return Error{"/mnt", "is missing, and so are /media, /srv and /opt: one is needed"};
  std::vector<Mount> staged;
  for (Mount* mount : {&spec.socket_directory, &spec.init_program, &spec.fuse_program, &spec.fuse_device})
    stage(*mount, directory, staged);
  if (spec.home_directory) stage(*spec.home_directory, directory, staged);
  for (Mount& kept : spec.kept) stage(kept, directory, staged);
  for (Mount& tool : spec.tools) stage(tool, directory, staged);
  return staged;
}

Result<void> build_stage(const std::vector<Mount>& staged) {
  if (::unshare(CLONE_NEWNS) < 0) return failed("mount namespace");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return failed("private mounts");
  // All sources first: the stage may cover one of them.
  std::vector<UniqueFd> sources;
  for (const Mount& mount : staged) {
    sources.emplace_back();
    if (mount.mode == Mount::Mode::device) continue;
    FBROKER_TRY(sources.back(), open_again(mount));
  }
  if (::mount("fbroker", stage_directory().c_str(), "tmpfs", MS_NOSUID, "mode=755,size=64k") < 0)
    return failed("stage");
  // umask would take bits from what others must be able to use.
  const mode_t before = ::umask(0);
  for (std::size_t i = 0; i < staged.size(); ++i) FBROKER_TRY_VOID(put(staged[i], sources[i]));
  ::umask(before);
  return ok;
}

Result<void> become(HostUser user) {
  if (::setgroups(0, nullptr) < 0) return failed("setgroups");
  if (::setresgid(user.gid, user.gid, user.gid) < 0) return failed("setresgid");
  if (::setresuid(user.uid, user.uid, user.uid) < 0) return failed("setresuid");
  return ok;
}

}  // namespace fbroker::container
