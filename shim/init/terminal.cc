#include "shim/init/terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "shim/init/process.h"

namespace fbroker::init {
namespace {

Result<void> send_descriptor(int socket, int fd) {
  char byte = 't';
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)]{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(part), &fd, sizeof fd);
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) return Error{"--console-fd", last_error()};
  return ok;
}

}  // namespace

Result<UniqueFd> make_terminal(const Options& options) {
  UniqueFd master(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master) return Error{"/dev/ptmx", last_error()};
  int locked = 0;
  if (::ioctl(master.get(), TIOCSPTLCK, &locked) < 0) return Error{"TIOCSPTLCK", last_error()};
  UniqueFd slave(::ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave) return Error{"TIOCGPTPEER", last_error()};
  const winsize size{.ws_row = options.rows, .ws_col = options.columns, .ws_xpixel = 0, .ws_ypixel = 0};
  if (options.rows != 0) ::ioctl(slave.get(), TIOCSWINSZ, &size);
  FBROKER_TRY_VOID(send_descriptor(options.console_fd, master.get()));
  return slave;
}

void release_terminal() noexcept {
  // Giving it up sends SIGHUP to the foreground, which we are.
  ::signal(SIGHUP, SIG_IGN);
  ::ioctl(STDIN_FILENO, TIOCNOTTY);
  ::signal(SIGHUP, SIG_DFL);
}

bool take_terminal() noexcept { return ::ioctl(STDIN_FILENO, TIOCSCTTY, 0) == 0; }

}  // namespace fbroker::init
