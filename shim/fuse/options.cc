#include "shim/fuse/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

namespace fbroker::fuse {

ProgramOptions parse_options(int argc, char** argv) {
  ProgramOptions options;
  options.uid = ::geteuid();
  options.gid = ::getegid();
  long wait = options.wait.count();
  std::string transport;

  CLI::App app("fbroker-fuse: the broker's files as a directory.", "fbroker-fuse");
  app.set_version_flag("--version", FBROKER_VERSION);
  app.add_option("--socket", options.socket, "the broker's data socket")->required();
  auto* place = app.add_option_group("place");
  place->add_option("--mount", options.mount, "mount here (needs CAP_SYS_ADMIN)");
  place->add_option("--fd", options.device, "this descriptor is a mounted FUSE device")
      ->check(CLI::NonNegativeNumber);
  place->require_option(1);
  app.add_option("--transport", transport, "how the broker is reached")
      ->check(CLI::IsMember({"http"}))
      ->default_val("http");
  app.add_option("--wait", wait, "seconds that a call waits for a broker that is away")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "that serve requests")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  app.add_option("--uid", options.uid, "owner of all files (ours)");
  app.add_option("--gid", options.gid, "group of all files (ours)");
  app.add_flag("--foreground", options.foreground,
               "with --mount: stay in the foreground (--fd always does)");
  app.add_option("--ready-fd", options.ready_fd, "say \"ready\" there once files can be used")
      ->check(CLI::NonNegativeNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    std::exit(status == 0 ? 0 : 2);
  }
  options.wait = std::chrono::seconds(wait);
  if (options.device >= 0) options.foreground = true;
  return options;
}

}  // namespace fbroker::fuse
