// Capabilities: giving up every one of them, for good.
//
// Threads: these act on the calling thread alone (capabilities(7)); call them
// in a process that has only one.
#pragma once

#include <cstdint>

#include "policy/base/result.h"

namespace fbroker::hardening {

// One bit per capability, in each of the thread's five sets.
struct CapabilitySets {
  std::uint64_t permitted = 0;
  std::uint64_t effective = 0;
  std::uint64_t inheritable = 0;
  std::uint64_t ambient = 0;
  std::uint64_t bounding = 0;

  // What could act now, or be handed through an execve that cannot raise
  // privileges. The bounding set alone gives nothing under no_new_privs.
  bool none_usable() const noexcept { return (permitted | effective | inheritable | ambient) == 0; }
};

Result<CapabilitySets> capability_sets();

// Empties all five sets. The bounding set needs CAP_SETPCAP; without that it
// stays, which is harmless only under no_new_privs: a program started by exec
// then gets at most what its parent had permitted (commoncap.c,
// cap_bprm_creds_from_file), and that is nothing. So it is an error when the
// bounding set stays and no_new_privs is not set.
// INVARIANT: when it returns ok, no capability can come back.
Result<void> drop_all_capabilities();

}  // namespace fbroker::hardening
