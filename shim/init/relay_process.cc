#include "shim/init/relay_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <cstring>
#include <exception>

#include "container/carry/descriptors.h"
#include "container/carry/loopback.h"
#include "container/hardening/capabilities.h"
#include "container/hardening/no_new_privs.h"
#include "container/hardening/seccomp.h"
#include "shim/init/process.h"
#include "shim/relay/relay.h"

namespace fbroker::init {
namespace {

Result<UniqueFd> listener_of(const Options& options) {
  if (!options.proxy) return UniqueFd();
  auto listener = carry::listen_on(*options.proxy);
  if (!listener) return Error{"--proxy " + options.proxy->text(), std::strerror(listener.error().value)};
  return std::move(*listener);
}

// INVARIANT: as fbroker-fuse: no capability, no way to get one, and nothing of
//   ours but the listener and the channel. The agent, in a PID and a user
//   namespace of its own, can neither see nor signal nor trace it.
Result<void> give_everything_up(int listener, int channel) {
  ::setsid();  // no terminal and no Ctrl-C reaches it
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  reset_signals();
  if (!close_all_but({STDERR_FILENO, listener, channel})) return Error{"closing descriptors", last_error()};
  carry::allow_many_descriptors();
  FBROKER_TRY_VOID(hardening::set_no_new_privs());
  FBROKER_TRY_VOID(hardening::drop_all_capabilities());
  FBROKER_TRY_VOID(hardening::set_not_dumpable());
  return hardening::apply_seccomp();
}

Result<void, Errno> serve(const Options& options, UniqueFd listener, UniqueFd channel) {
  boost::asio::io_context io(1);
  relay::Relay relay(io, options.socket);
  if (listener) FBROKER_TRY_VOID(relay.serve_proxy(std::move(listener)));
  if (channel) FBROKER_TRY_VOID(relay.serve_published(std::move(channel)));
  io.run();
  return ok;
}

[[noreturn]] void become_relay(const Options& options, UniqueFd listener, UniqueFd channel) {
  ::prctl(PR_SET_NAME, "fbroker-relay");
  if (auto done = give_everything_up(listener.get(), channel.get()); !done) die("relay: " + done.error().text());
  try {
    auto done = serve(options, std::move(listener), std::move(channel));
    if (!done) die(std::string("relay: ") + std::strerror(done.error().value));
  } catch (const std::exception& error) {
    die(std::string("relay: ") + error.what());
  }
  ::_exit(0);  // the launcher is gone, and nothing else was asked for
}

}  // namespace

Result<std::optional<pid_t>> start_relay(const Options& options) {
  if (!options.proxy && options.publish_fd < 0) return std::optional<pid_t>();
  if (options.socket.size() >= sizeof sockaddr_un{}.sun_path) return Error{"--socket", "is too long for a socket"};
  FBROKER_TRY(UniqueFd listener, listener_of(options));
  UniqueFd channel(options.publish_fd);
  const pid_t child = ::fork();
  if (child < 0) return Error{"fork", last_error()};
  if (child == 0) become_relay(options, std::move(listener), std::move(channel));
  return std::optional(child);
}

}  // namespace fbroker::init
