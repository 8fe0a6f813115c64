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
  UniqueFd directory(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) return Error{path, std::strerror(errno)};
  struct stat owner {};
  if (::fstat(directory.get(), &owner) < 0) return Error{path, std::strerror(errno)};
  if (owner.st_uid == user.uid) return directory;
  if (::geteuid() == 0 && owner.st_uid == 0 && ::fchown(directory.get(), user.uid, user.gid) == 0) return directory;
  return Error{path, "belongs to uid " + std::to_string(owner.st_uid) + ", this sandbox runs as " +
                         std::to_string(user.uid) + "; use another --name"};
}

}  // namespace fbroker::container
