#include "container/preconditions.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "policy/base/unique_fd.h"

namespace fbroker::container {
namespace {

namespace fs = std::filesystem;

constexpr uid_t kNobody = 65534;
constexpr std::size_t kMostHelpBytes = 64 * 1024;

bool is_program(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

Result<std::string> beside(const fs::path& self, const char* name) {
  const fs::path here = self.parent_path();
  for (const fs::path& place : {here, here.parent_path() / "libexec" / "fbroker", here.parent_path() / "libexec"})
    if (is_program(place / name)) return (place / name).string();
  return Error{name, "not found beside " + self.string() + " nor in ../libexec/fbroker; install it there"};
}

Result<void> check_bwrap(const std::string& bwrap) {
  if (bwrap.empty()) return Error{"bubblewrap", "bwrap is in no directory of the system (/usr/bin, /usr/local/bin, …); install it: sudo apt install bubblewrap"};
  if (output_of(bwrap, "--help").find("--ro-bind-fd") == std::string::npos)
    return Error{bwrap, "is too old: it has no --ro-bind-fd; Debian 12 has it since 0.8.0-2+deb12u1: "
                        "sudo apt install --only-upgrade bubblewrap"};
  return ok;
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Runs in a child of its own; its status says how far it came.
enum class Reached : int { all = 0, no_identity = 1, no_namespace = 2, no_power = 3 };

Reached try_user_namespace(HostUser user) {
  if (::geteuid() == 0 &&
      (::setgroups(0, nullptr) < 0 || ::setresgid(user.gid, user.gid, user.gid) < 0 ||
       ::setresuid(user.uid, user.uid, user.uid) < 0))
    return Reached::no_identity;
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return Reached::no_namespace;
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return Reached::no_power;
  return Reached::all;
}

Error why_no_namespaces(Reached reached) {
  if (first_line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1")
    return Error{"user namespaces",
                 "AppArmor blocks them for bwrap (kernel.apparmor_restrict_unprivileged_userns=1, "
                 "Ubuntu's default); give bwrap a profile that allows userns, or: sudo sysctl "
                 "kernel.apparmor_restrict_unprivileged_userns=0"};
  if (first_line("/proc/sys/kernel/unprivileged_userns_clone") == "0")
    return Error{"user namespaces", "this kernel forbids them to ordinary users; allow them: sudo sysctl "
                                    "kernel.unprivileged_userns_clone=1"};
  if (first_line("/proc/sys/user/max_user_namespaces") == "0")
    return Error{"user namespaces", "their number is limited to 0; raise it: sudo sysctl "
                                    "user.max_user_namespaces=15000"};
  if (reached == Reached::no_power)
    return Error{"user namespaces", "one can be made, but gives no right to mount: a security module "
                                    "forbids it (see dmesg)"};
  return Error{"user namespaces", "cannot be made here; in a container they need the runtime's consent "
                                  "(seccomp profile)"};
}

}  // namespace

std::string system_program(const char* name) {
  for (const char* directory : {"/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"})
    if (const fs::path path = fs::path(directory) / name; is_program(path)) return path.string();
  return "";
}

std::string output_of(const std::string& program, const char* argument) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return "";
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(write_end.get(), STDOUT_FILENO);
    ::dup2(write_end.get(), STDERR_FILENO);
    ::execl(program.c_str(), program.c_str(), argument, nullptr);
    ::_exit(127);
  }
  write_end = UniqueFd();
  std::string text;
  std::array<char, 4096> buffer;
  pollfd wait{.fd = read_end.get(), .events = POLLIN, .revents = 0};
  while (text.size() < kMostHelpBytes && ::poll(&wait, 1, 5000) > 0) {
    const ssize_t got = ::read(read_end.get(), buffer.data(), buffer.size());
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return text;
}

Result<void> refuse_inside_sandbox() {
  const char* mark = std::getenv("FBROKER_IN_SANDBOX");
  if ((mark != nullptr && *mark != '\0') || ::access("/run/fbroker/broker.sock", F_OK) == 0)
    return Error{"fbroker run", "already inside a sandbox; only the person outside can start another"};
  return ok;
}

Result<Programs> find_programs() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return Error{"/proc/self/exe", error.message()};
  Programs programs{.bwrap = system_program("bwrap"), .init = {}, .fuse = {}, .self = self.string()};
  FBROKER_TRY_VOID(check_bwrap(programs.bwrap));
  FBROKER_TRY(programs.init, beside(self, "fbroker-init"));
  FBROKER_TRY(programs.fuse, beside(self, "fbroker-fuse"));
  return programs;
}

HostUser sandbox_user(const std::string& root) {
  if (::geteuid() != 0) return {::geteuid(), ::getegid()};
  struct stat owner {};
  if (::stat(root.c_str(), &owner) == 0 && owner.st_uid != 0 && owner.st_gid != 0)
    return {owner.st_uid, owner.st_gid};
  return {kNobody, kNobody};
}

Result<void> check_user_namespaces(HostUser user) {
  const pid_t child = ::fork();
  if (child < 0) return Error{"fork", std::strerror(errno)};
  if (child == 0) ::_exit(static_cast<int>(try_user_namespace(user)));
  int status = 0;
  ::waitpid(child, &status, 0);
  const auto reached = static_cast<Reached>(WEXITSTATUS(status));
  if (WIFEXITED(status) && reached == Reached::all) return ok;
  return why_no_namespaces(reached);
}

Result<void> check_fuse_device() {
  const UniqueFd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (device) return ok;
  const int error = errno;
  if (error == ENOENT || error == ENXIO || error == ENODEV)
    return Error{"/dev/fuse", "this kernel has no FUSE; load it: sudo modprobe fuse"};
  return Error{"/dev/fuse", std::string(std::strerror(error)) + "; open it to users as udev does: sudo chmod 666 /dev/fuse"};
}

}  // namespace fbroker::container
