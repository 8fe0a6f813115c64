// What is given up stays given up: each refused call with an allowed twin, each
// in a child of its own, because none of this can be undone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>

#include "container/hardening/capabilities.h"
#include "container/hardening/no_new_privs.h"
#include "container/hardening/seccomp.h"

namespace fbroker::hardening {
namespace {

constexpr int kSetUpFailed = 250;

// The wait status of a child that runs `body`.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

int filtered(const std::function<int()>& body) {
  return code_of(in_child([&] {
    if (!set_no_new_privs() || !apply_seccomp()) return kSetUpFailed;
    return body();
  }));
}

int unfiltered(const std::function<int()>& body) { return code_of(in_child(body)); }

// errno of a call with nonsense for arguments: none of them can succeed, and
// the kernel's own answer to nonsense is another one than the filter's.
int errno_of(long number) {
  return ::syscall(number, -1L, -1L, -1L, -1L, -1L, -1L) < 0 ? errno : 0;
}

struct Call {
  const char* name;
  long number;
  int with;
};

std::ostream& operator<<(std::ostream& out, const Call& call) { return out << call.name; }

class RefusedCall : public testing::TestWithParam<Call> {};

TEST_P(RefusedCall, IsRefusedByTheFilterAndNotByItsArguments) {
  const Call& call = GetParam();
  EXPECT_EQ(filtered([&] { return errno_of(call.number); }), call.with);
  if (::geteuid() != 0) return;  // without capabilities the kernel says EPERM itself
  const int plain = unfiltered([&] { return errno_of(call.number); });
  if (plain == ENOSYS) return;  // this kernel has no such call
  EXPECT_NE(plain, call.with) << "this test could not see the filter";
}

INSTANTIATE_TEST_SUITE_P(, RefusedCall, testing::Values(
    Call{"mount", SYS_mount, EPERM}, Call{"umount2", SYS_umount2, EPERM},
    Call{"pivot_root", SYS_pivot_root, EPERM}, Call{"chroot", SYS_chroot, EPERM},
    Call{"setns", SYS_setns, EPERM}, Call{"move_mount", SYS_move_mount, EPERM},
    Call{"open_tree", SYS_open_tree, EPERM}, Call{"fsopen", SYS_fsopen, EPERM},
    Call{"fsconfig", SYS_fsconfig, EPERM}, Call{"fsmount", SYS_fsmount, EPERM},
    Call{"fspick", SYS_fspick, EPERM}, Call{"mount_setattr", SYS_mount_setattr, EPERM},
    Call{"open_tree_attr", 467, EPERM}, Call{"clone3", SYS_clone3, ENOSYS},
    Call{"ptrace", SYS_ptrace, EPERM}, Call{"process_vm_readv", SYS_process_vm_readv, EPERM},
    Call{"process_vm_writev", SYS_process_vm_writev, EPERM},
    Call{"process_madvise", SYS_process_madvise, EPERM}, Call{"pidfd_getfd", SYS_pidfd_getfd, EPERM},
    Call{"kcmp", SYS_kcmp, EPERM}, Call{"open_by_handle_at", SYS_open_by_handle_at, EPERM},
    Call{"bpf", SYS_bpf, EPERM}, Call{"perf_event_open", SYS_perf_event_open, EPERM},
    Call{"userfaultfd", SYS_userfaultfd, EPERM}, Call{"io_uring_setup", SYS_io_uring_setup, ENOSYS},
    Call{"io_uring_enter", SYS_io_uring_enter, ENOSYS},
    Call{"io_uring_register", SYS_io_uring_register, ENOSYS}, Call{"add_key", SYS_add_key, EPERM},
    Call{"request_key", SYS_request_key, EPERM}, Call{"keyctl", SYS_keyctl, EPERM},
    Call{"kexec_load", SYS_kexec_load, EPERM}, Call{"kexec_file_load", SYS_kexec_file_load, EPERM},
    Call{"reboot", SYS_reboot, EPERM}, Call{"init_module", SYS_init_module, EPERM},
    Call{"finit_module", SYS_finit_module, EPERM}, Call{"delete_module", SYS_delete_module, EPERM},
    Call{"quotactl", SYS_quotactl, EPERM}, Call{"quotactl_fd", SYS_quotactl_fd, EPERM},
    Call{"swapon", SYS_swapon, EPERM}, Call{"swapoff", SYS_swapoff, EPERM},
    Call{"acct", SYS_acct, EPERM}, Call{"syslog", SYS_syslog, EPERM},
    Call{"sethostname", SYS_sethostname, EPERM}, Call{"setdomainname", SYS_setdomainname, EPERM},
    Call{"settimeofday", SYS_settimeofday, EPERM}, Call{"clock_settime", SYS_clock_settime, EPERM},
    Call{"iopl", SYS_iopl, EPERM}, Call{"ioperm", SYS_ioperm, EPERM}),
    [](const auto& call) { return std::string(call.param.name); });

// errno of unshare(flags) or clone(flags), 0 when it worked.
int unshared(unsigned long flags) { return ::syscall(SYS_unshare, flags) < 0 ? errno : 0; }
int cloned(unsigned long flags) {
  const long child = ::syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) ::_exit(0);
  if (child < 0) return errno;
  ::waitpid(static_cast<pid_t>(child), nullptr, 0);
  return 0;
}

TEST(SeccompNamespaces, NoneCanBeMade) {
  for (const unsigned long flag : {CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                                   CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET}) {
    EXPECT_EQ(filtered([&] { return unshared(flag); }), EPERM) << std::hex << flag;
    EXPECT_EQ(filtered([&] { return cloned(flag); }), EPERM) << std::hex << flag;
    EXPECT_EQ(filtered([&] { return unshared(flag | CLONE_FILES); }), EPERM) << std::hex << flag;
    // ATTACK: bits that the kernel does not look at.
    EXPECT_EQ(filtered([&] { return cloned(flag | 1ul << 40); }), EPERM) << std::hex << flag;
  }
  EXPECT_EQ(filtered([] { return unshared(0x80 /* CLONE_NEWTIME */); }), EPERM);
}

TEST(SeccompNamespaces, ProcessesAndThreadsCan) {
  EXPECT_EQ(filtered([] { return cloned(0); }), 0);
  EXPECT_EQ(filtered([] { return unshared(CLONE_FILES | CLONE_FS); }), 0);
  EXPECT_EQ(filtered([] {
              int seen = 1;
              std::thread([&] { seen = 0; }).join();
              return seen;
            }), 0);
}

int requested(unsigned long request) {
  int argument = 0;
  return ::syscall(SYS_ioctl, 0, request, &argument) < 0 ? errno : 0;
}

TEST(SeccompIoctl, NobodyTypesIntoATerminal) {
  for (const unsigned long request : {0x5412ul /*TIOCSTI*/, 0x541cul /*TIOCLINUX*/, 0x541dul /*TIOCCONS*/,
                                      0x5423ul /*TIOCSETD*/}) {
    EXPECT_EQ(filtered([&] { return requested(request); }), EPERM) << std::hex << request;
    // ATTACK: the kernel takes 32 bits of the number (CVE-2019-7303, CVE-2023-28100).
    EXPECT_EQ(filtered([&] { return requested(request | 1ul << 32); }), EPERM) << std::hex << request;
  }
}

TEST(SeccompIoctl, OtherRequestsReachTheKernel) {
  EXPECT_NE(filtered([] { return requested(0x5413 /*TIOCGWINSZ*/); }), EPERM);
  EXPECT_EQ(filtered([] {
              int ends[2];
              if (::pipe(ends) != 0) return 1;
              int waiting = -1;
              return ::ioctl(ends[0], FIONREAD, &waiting) == 0 && waiting == 0 ? 0 : errno;
            }), 0);
}

int opened(long family) { return ::syscall(SYS_socket, family, SOCK_DGRAM, 0) < 0 ? errno : 0; }

TEST(SeccompSockets, OnlyCommonFamilies) {
  for (const long family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK})
    EXPECT_EQ(filtered([&] { return ::syscall(SYS_socket, family, SOCK_RAW | SOCK_CLOEXEC, 0) < 0 && errno == EAFNOSUPPORT; }), 0) << family;
  EXPECT_EQ(filtered([] { return opened(AF_UNIX); }), 0);
}

TEST(SeccompSockets, NoOthers) {
  for (long family = 0; family < 50; ++family) {
    if (family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK) continue;
    EXPECT_EQ(filtered([&] { return opened(family); }), EAFNOSUPPORT) << family;
  }
  for (const long family : {long{64 + AF_UNIX}, 1L << 31, long{AF_VSOCK} | 1L << 32, long{AF_ALG} | 1L << 40})
    EXPECT_EQ(filtered([&] { return opened(family); }), EAFNOSUPPORT) << family;
}

int personality_of(unsigned long persona) {
  return ::syscall(SYS_personality, persona) < 0 ? errno : 0;
}

TEST(SeccompPersonality, TheUsualOnes) {
  for (const unsigned long persona : {0ul, 0x40000ul /*ADDR_NO_RANDOMIZE*/, 0xfffffffful /*the question*/})
    EXPECT_EQ(filtered([&] { return personality_of(persona); }), 0) << std::hex << persona;
}

TEST(SeccompPersonality, NoOddOnes) {
  for (const unsigned long persona : {0x0400000ul /*READ_IMPLIES_EXEC*/, 0x0100000ul, 0x20000ul, 8ul,
                                      0x0440000ul, 0x80400000ul, 0xfffffffeul, 0x80000000ul})
    EXPECT_EQ(filtered([&] { return personality_of(persona); }), EPERM) << std::hex << persona;
}

#if defined(__x86_64__)
TEST(SeccompArchitecture, CallsOfAnotherOneEndTheProcess) {
  EXPECT_EQ(filtered([] { return static_cast<int>(::syscall(0x40000000L | SYS_getpid)); }), -SIGSYS);  // x32
  EXPECT_EQ(filtered([] {
              long number = 20;  // getpid on i386
              __asm__ volatile("int $0x80" : "+a"(number) : : "memory");
              return 0;
            }), -SIGSYS);
}
#endif

TEST(SeccompFilter, IsNeverThereWithoutNoNewPrivs) {
  EXPECT_EQ(unfiltered([] {
              if (!apply_seccomp()) return kSetUpFailed;
              return has_no_new_privs() ? 0 : 1;
            }), 0);
}

TEST(Capabilities, AllFiveSetsAreEmptyAfterwards) {
  EXPECT_EQ(unfiltered([] {
              if (!set_no_new_privs() || !drop_all_capabilities()) return kSetUpFailed;
              const auto sets = capability_sets();
              if (!sets || !sets->none_usable()) return 1;
              return ::geteuid() == 0 && sets->bounding != 0 ? 2 : 0;
            }), 0);
}

TEST(Capabilities, ExecAsRootBringsNoneBack) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  EXPECT_EQ(unfiltered([] {
              if (!set_no_new_privs() || !drop_all_capabilities()) return kSetUpFailed;
              ::execl("/bin/sh", "sh", "-c", "grep -Eq 'CapEff:.*0000000000000000' /proc/self/status", nullptr);
              return kSetUpFailed;
            }), 0);
  // The twin: without dropping, they are there.
  EXPECT_EQ(unfiltered([] {
              ::execl("/bin/sh", "sh", "-c", "grep -Eq 'CapEff:.*0000000000000000' /proc/self/status", nullptr);
              return kSetUpFailed;
            }), 1);
}

// Takes CAP_SETPCAP away, as a container runtime does.
bool lose_setpcap() {
  auto head = __user_cap_header_struct{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &head, data) < 0) return false;
  data[0].permitted = data[0].effective = 1u << CAP_SYS_ADMIN;
  data[1].permitted = data[1].effective = 0;
  return ::syscall(SYS_capset, &head, data) == 0;
}

TEST(Capabilities, ABoundingSetThatStaysIsAnErrorWithoutNoNewPrivs) {
  if (::geteuid() != 0 || has_no_new_privs()) GTEST_SKIP() << "needs root";
  EXPECT_EQ(unfiltered([] { return lose_setpcap() ? (drop_all_capabilities() ? 1 : 0) : kSetUpFailed; }), 0);
  EXPECT_EQ(unfiltered([] {
              if (!lose_setpcap() || !set_no_new_privs()) return kSetUpFailed;
              return drop_all_capabilities() ? 0 : 1;
            }), 0);
}

TEST(NoNewPrivs, IsSetAndInherited) {
  EXPECT_EQ(unfiltered([] {
              if (!set_no_new_privs() || !has_no_new_privs()) return 1;
              return code_of(in_child([] { return has_no_new_privs() ? 0 : 2; }));
            }), 0);
}

TEST(NotDumpable, NobodyReadsItsDescriptors) {
  EXPECT_EQ(unfiltered([] {
              if (!set_not_dumpable()) return kSetUpFailed;
              return ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
            }), 0);
}

}  // namespace
}  // namespace fbroker::hardening
