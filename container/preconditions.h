// What this machine must have before a sandbox can be built. Each missing
// thing is named with its cause and its cure; nothing is replaced by less.
#pragma once

#include <sys/types.h>

#include <string>

#include "policy/base/result.h"

namespace fbroker::container {

// The programs that a sandbox is made of, as absolute paths.
struct Programs {
  std::string bwrap;
  std::string init;   // fbroker-init
  std::string fuse;   // fbroker-fuse
  std::string self;   // fbroker
};

// Who the sandbox's processes are on the host.
struct HostUser {
  uid_t uid;
  gid_t gid;
};

// A program in one of the system's own directories, where only root writes; "": there is none.
// ATTACK: PATH may lead into the workspace (node_modules/.bin), and what an
//   agent put there would be run by the person's launcher.
std::string system_program(const char* name);

// What `program argument` prints, stderr included, up to 64 KiB and within 5 seconds of silence.
std::string output_of(const std::string& program, const char* argument);

// An agent must not become its own launcher.
Result<void> refuse_inside_sandbox();

// bwrap as system_program; the shims beside this program, in ../libexec/fbroker or
// ../libexec.
Result<Programs> find_programs();

// Ourselves; for root the owner of the exported directory, or 65534 when that
// is root too.
// ATTACK: with host uid 0 inside, /proc/sys/kernel/core_pattern can be opened
//   for writing although every capability is gone.
HostUser sandbox_user(const std::string& root);

// Tries to make a user namespace and to mount in it, as that user.
Result<void> check_user_namespaces(HostUser user);
Result<void> check_fuse_device();

}  // namespace fbroker::container
