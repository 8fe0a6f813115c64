#include "container/hardening/seccomp.h"

#include <linux/sched.h>
#include <linux/tty.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

namespace fbroker::hardening {
namespace {

struct Refused {
  const char* name;
  int with;
};

// Refused whatever the arguments. ENOSYS where a program then takes an older,
// permitted way; EPERM where there is none. A name that this libseccomp does
// not know is refused by its number in kNewer.
constexpr std::array kRefused{
    // Namespaces and mounts.
    Refused{"mount", EPERM}, Refused{"umount2", EPERM}, Refused{"pivot_root", EPERM},
    Refused{"chroot", EPERM}, Refused{"setns", EPERM}, Refused{"move_mount", EPERM},
    Refused{"open_tree", EPERM}, Refused{"fsopen", EPERM}, Refused{"fsconfig", EPERM},
    Refused{"fsmount", EPERM}, Refused{"fspick", EPERM}, Refused{"mount_setattr", EPERM},
    // clone3 takes its flags in memory, where a filter cannot look: glibc falls
    // back to clone(2), whose flags are looked at below.
    Refused{"clone3", ENOSYS},
    // Other processes' memory and descriptors.
    Refused{"ptrace", EPERM}, Refused{"process_vm_readv", EPERM},
    Refused{"process_vm_writev", EPERM}, Refused{"process_madvise", EPERM},
    Refused{"pidfd_getfd", EPERM}, Refused{"kcmp", EPERM},
    // Files by handle: past every path (CVE-2014-3519, "shocker").
    Refused{"open_by_handle_at", EPERM},
    // Large, young or privileged parts of the kernel.
    Refused{"bpf", EPERM}, Refused{"perf_event_open", EPERM}, Refused{"userfaultfd", EPERM},
    Refused{"io_uring_setup", ENOSYS}, Refused{"io_uring_enter", ENOSYS},
    Refused{"io_uring_register", ENOSYS}, Refused{"add_key", EPERM},
    Refused{"request_key", EPERM}, Refused{"keyctl", EPERM},
    // The machine itself.
    Refused{"kexec_load", EPERM}, Refused{"kexec_file_load", EPERM}, Refused{"reboot", EPERM},
    Refused{"init_module", EPERM}, Refused{"finit_module", EPERM},
    Refused{"delete_module", EPERM}, Refused{"quotactl", EPERM}, Refused{"quotactl_fd", EPERM},
    Refused{"swapon", EPERM}, Refused{"swapoff", EPERM}, Refused{"acct", EPERM},
    Refused{"syslog", EPERM}, Refused{"sethostname", EPERM}, Refused{"setdomainname", EPERM},
    Refused{"settimeofday", EPERM}, Refused{"clock_settime", EPERM}, Refused{"vhangup", EPERM},
    Refused{"uselib", ENOSYS}, Refused{"lookup_dcookie", EPERM}, Refused{"nfsservctl", ENOSYS},
    Refused{"iopl", EPERM}, Refused{"ioperm", EPERM},
};

// open_tree_attr, Linux 6.15; numbers from 424 on are the same everywhere.
constexpr std::array kNewer{467};

constexpr std::array<std::uint64_t, 7> kNamespaceFlags{CLONE_NEWNS,  CLONE_NEWCGROUP, CLONE_NEWUTS,
                                                       CLONE_NEWIPC, CLONE_NEWUSER,   CLONE_NEWPID,
                                                       CLONE_NEWNET};

// Typing into a terminal, pasting into the console, taking it over, and line
// disciplines (n_gsm, n_hdlc: a row of root exploits).
constexpr std::array<std::uint64_t, 4> kRefusedIoctls{TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD};

constexpr std::array<std::uint64_t, 4> kFamilies{AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

constexpr std::uint64_t kLow32 = 0xffffffffu;

struct Release {
  void operator()(void* filter) const noexcept { ::seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, Release>;

Error failed(const char* what, int negative_errno) {
  return Error{"seccomp", std::string(what) + ": " + std::strerror(-negative_errno)};
}

Result<void> refuse(const Filter& filter, const Refused& call) {
  const int number = ::seccomp_syscall_resolve_name(call.name);
  if (number == __NR_SCMP_ERROR) return Error{"seccomp", std::string("unknown call ") + call.name};
  if (number < 0) return ok;  // does not exist on this architecture
  const int done = ::seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(static_cast<unsigned>(call.with)), number, 0);
  if (done < 0) return failed(call.name, done);
  return ok;
}

// Refuses `number` where argument `index`, masked, is `value`.
// ATTACK: the kernel takes most of these arguments as 32-bit numbers; a caller
//   that sets a bit above them would slip past a comparison of all 64.
Result<void> refuse_masked(const Filter& filter, int number, unsigned index, std::uint64_t mask,
                           std::uint64_t value, int with) {
  const scmp_arg_cmp when{index, SCMP_CMP_MASKED_EQ, mask, value};
  const int done =
      ::seccomp_rule_add_array(filter.get(), SCMP_ACT_ERRNO(static_cast<unsigned>(with)), number, 1, &when);
  if (done < 0) return failed("rule with an argument", done);
  return ok;
}

Result<void> refuse_namespaces(const Filter& filter) {
  for (const std::uint64_t flag : kNamespaceFlags) {
    FBROKER_TRY_VOID(refuse_masked(filter, SCMP_SYS(clone), 0, flag, flag, EPERM));
    FBROKER_TRY_VOID(refuse_masked(filter, SCMP_SYS(unshare), 0, flag, flag, EPERM));
  }
  // In clone(2) these bits are the exit signal, not CLONE_NEWTIME.
  return refuse_masked(filter, SCMP_SYS(unshare), 0, CLONE_NEWTIME, CLONE_NEWTIME, EPERM);
}

// Every family but the known ones, number by number, and all large numbers by
// their bits: a filter has no "none of these".
Result<void> refuse_families(const Filter& filter, int number) {
  constexpr unsigned kSmallBits = 6;  // AF_MAX is 46
  for (std::uint64_t family = 0; family < 1u << kSmallBits; ++family) {
    bool known = false;
    for (const std::uint64_t one : kFamilies) known = known || one == family;
    if (known) continue;
    FBROKER_TRY_VOID(refuse_masked(filter, number, 0, kLow32, family, EAFNOSUPPORT));
  }
  for (unsigned bit = kSmallBits; bit < 32; ++bit)
    FBROKER_TRY_VOID(refuse_masked(filter, number, 0, 1ull << bit, 1ull << bit, EAFNOSUPPORT));
  return ok;
}

// personality(2): 0, ADDR_NO_RANDOMIZE and the question 0xffffffff are allowed.
// A number with bit 31 is the question only when every other bit is set too.
Result<void> refuse_personalities(const Filter& filter) {
  constexpr std::uint64_t kTop = 1ull << 31;
  for (unsigned bit = 0; bit < 31; ++bit) {
    const std::uint64_t one = 1ull << bit;
    FBROKER_TRY_VOID(refuse_masked(filter, SCMP_SYS(personality), 0, kTop | one, kTop, EPERM));
    if (one == ADDR_NO_RANDOMIZE) continue;
    FBROKER_TRY_VOID(refuse_masked(filter, SCMP_SYS(personality), 0, kTop | one, one, EPERM));
  }
  return ok;
}

}  // namespace

Result<void> apply_seccomp() {
  const Filter filter(::seccomp_init(SCMP_ACT_ALLOW));
  if (!filter) return Error{"seccomp", "out of memory"};
  // ATTACK: the same call by its number on i386 (int 0x80) or x32, where this
  //   filter would look at another table.
  ::seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  ::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);

  for (const Refused& call : kRefused) FBROKER_TRY_VOID(refuse(filter, call));
  for (const int number : kNewer)
    if (const int done = ::seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), number, 0); done < 0)
      return failed("a newer call", done);
  FBROKER_TRY_VOID(refuse_namespaces(filter));
  for (const std::uint64_t request : kRefusedIoctls)
    FBROKER_TRY_VOID(refuse_masked(filter, SCMP_SYS(ioctl), 1, kLow32, request, EPERM));
  FBROKER_TRY_VOID(refuse_families(filter, SCMP_SYS(socket)));
  FBROKER_TRY_VOID(refuse_families(filter, SCMP_SYS(socketpair)));
  FBROKER_TRY_VOID(refuse_personalities(filter));

  if (const int done = ::seccomp_load(filter.get()); done < 0) return failed("loading", done);
  return ok;
}

}  // namespace fbroker::hardening
