#include "container/hardening/no_new_privs.h"

#include <sys/prctl.h>

#include <cstring>

namespace fbroker::hardening {

Result<void> set_no_new_privs() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    return Error{"no_new_privs", std::strerror(errno)};
  return ok;
}

bool has_no_new_privs() noexcept { return ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1; }

Result<void> set_not_dumpable() {
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return Error{"PR_SET_DUMPABLE", std::strerror(errno)};
  return ok;
}

}  // namespace fbroker::hardening
