#include "container/kept_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace fbroker::container {

Result<UniqueFd> kept_directory(int parent, const std::string& name, const std::string& path, HostUser user) {
  if (::mkdirat(parent, name.c_str(), 0700) < 0 && errno != EEXIST) return Error{path, std::strerror(errno)};
  // ATTACK: the last run's agent cannot have replaced it (it saw only what is
  //   below), but it may belong to another user than this run's.
  const UniqueFd place(::openat(parent, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!place) return Error{path, std::strerror(errno)};
  struct stat owner {};
  if (::fstat(place.get(), &owner) < 0) return Error{path, std::strerror(errno)};
  // ATTACK: `chmod 0 ~` inside, and no later run could start.
  const std::string self = "/proc/self/fd/" + std::to_string(place.get());
  if (owner.st_uid == user.uid && (owner.st_mode & 0777) != 0700) (void)::chmod(self.c_str(), 0700);
  UniqueFd directory(::open(self.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return Error{path, std::strerror(errno)};
  if (owner.st_uid == user.uid) return directory;
  if (::geteuid() == 0 && owner.st_uid == 0 && ::fchown(directory.get(), user.uid, user.gid) == 0) return directory;
  return Error{path, "belongs to uid " + std::to_string(owner.st_uid) + ", this sandbox runs as " +
                         std::to_string(user.uid) + "; use another --name"};
}

}  // namespace fbroker::container
