#include "shim/init/workspace.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "container/hardening/capabilities.h"
#include "container/hardening/no_new_privs.h"
#include "container/hardening/seccomp.h"
#include "shim/init/process.h"

namespace fbroker::init {
namespace {

std::string fuse_program(const Options& options) {
  if (!options.fuse.empty()) return options.fuse;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "fbroker-fuse").string();
}

const char* device_cure(int error) {
  if (error == ENOENT) return " (the container needs the device: --device /dev/fuse)";
  if (error == EACCES) return " (on the host: sudo chmod 666 /dev/fuse)";
  if (error == EPERM) return " (the container's device rules forbid it: --device /dev/fuse)";
  return "";
}

// Runs in the child, between fork and exec.
[[noreturn]] void become_file_service(const Options& options, int device, int ready) {
  const std::string program = fuse_program(options);
  const std::string device_text = std::to_string(device), ready_text = std::to_string(ready);
  // The owner of all files, as the mount's own user namespace calls him: the
  // agent's nested one maps its own number to ours.
  const std::string uid = std::to_string(::geteuid()), gid = std::to_string(::getegid());
  std::vector<const char*> argv{program.c_str(), "--fd",       device_text.c_str(), "--socket",
                                options.socket.c_str(), "--ready-fd", ready_text.c_str(), "--uid",
                                uid.c_str(), "--gid", gid.c_str(), nullptr};
  reset_signals();
  ::setsid();  // no terminal and no Ctrl-C reaches it
  if (!keep_only({device, ready})) die("closing descriptors: " + last_error());
  if (auto done = hardening::set_no_new_privs(); !done) die(done.error().text());
  if (auto done = hardening::drop_all_capabilities(); !done) die(done.error().text());
  if (auto done = hardening::apply_seccomp(); !done) die(done.error().text());
  ::execv(program.c_str(), const_cast<char**>(argv.data()));
  die("cannot run " + program + ": " + last_error());
}

Error not_ready(const Options& options, pid_t child, bool timed_out) {
  if (timed_out) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    return Error{options.mount, "the broker did not answer at " + options.socket + " within " +
                                    std::to_string(options.wait.count()) + " s"};
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return Error{options.mount, "fbroker-fuse ended before the workspace was ready (status " +
                                  std::to_string(exit_status(status)) + ")"};
}

}  // namespace

Result<UniqueFd> mount_workspace(const Options& options) {
  UniqueFd device(::open(options.device.c_str(), O_RDWR | O_CLOEXEC));
  if (!device) return Error{options.device, last_error() + device_cure(errno)};
  ::mkdir(options.mount.c_str(), 0755);  // a read-only root has it already

  // No default_permissions: the broker decides, and what it refuses is on
  // record. allow_other: the agent lives in a user namespace below this one.
  const std::string data = "fd=" + std::to_string(device.get()) + ",rootmode=40000,user_id=" +
                           std::to_string(::geteuid()) + ",group_id=" + std::to_string(::getegid()) +
                           ",allow_other";
  if (::mount("fbroker", options.mount.c_str(), "fuse.fbroker", MS_NOSUID | MS_NODEV, data.c_str()) < 0)
    return Error{options.mount, "cannot mount: " + last_error() +
                                    (errno == EPERM ? " (needs CAP_SYS_ADMIN over the mount and user "
                                                      "namespace: --cap-add=sys_admin)"
                                                    : "")};
  return device;
}

Result<pid_t> start_file_service(const Options& options, UniqueFd device) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return Error{"pipe", last_error()};
  UniqueFd ready(ends[0]), tell(ends[1]);

  const pid_t child = ::fork();
  if (child < 0) return Error{"fork", last_error()};
  if (child == 0) become_file_service(options, device.get(), tell.get());
  tell = UniqueFd();
  device = UniqueFd();

  pollfd wait{.fd = ready.get(), .events = POLLIN, .revents = 0};
  const auto most = std::chrono::milliseconds(options.wait).count();
  const int answered = ::poll(&wait, 1, static_cast<int>(most));
  char byte;
  if (answered <= 0 || ::read(ready.get(), &byte, 1) != 1) return not_ready(options, child, answered == 0);
  return child;
}

}  // namespace fbroker::init
