// no_new_privs: no execve(2) of this process or its children ever raises
// privileges again: set-uid bits and file capabilities are ignored. It cannot
// be unset. Per thread; inherited by children.
#pragma once

#include "policy/base/result.h"

namespace fbroker::hardening {

Result<void> set_no_new_privs();
bool has_no_new_privs() noexcept;

// Not dumpable: nobody without capabilities over this process can attach to
// it, read its memory or take its descriptors out of /proc/PID/fd. execve(2)
// makes a process dumpable again.
Result<void> set_not_dumpable();

}  // namespace fbroker::hardening
