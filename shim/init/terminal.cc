#include "shim/init/terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <span>

#include "container/carry/descriptors.h"
#include "shim/init/process.h"

namespace fbroker::init {
namespace {

// The byte is there for the descriptor to come along with.
Result<void> hand_out(int socket, int terminal) {
  constexpr std::byte kTerminal{'t'};
  const auto sent = carry::send_descriptor(socket, std::span(&kTerminal, 1), terminal);
  if (!sent) return Error{"--console-fd", std::strerror(sent.error().value)};
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
  FBROKER_TRY_VOID(hand_out(options.console_fd, master.get()));
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
