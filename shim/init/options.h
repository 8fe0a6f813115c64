// fbroker-init's command line.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "container/carry/loopback.h"
#include "policy/base/result.h"

namespace fbroker::init {

struct Limit {
  int resource;  // RLIMIT_*
  rlim_t value;
};

// How the workspace's files come: the broker answers the kernel itself, or
// fbroker-fuse does, asking it over HTTP.
enum class Transport {
  either,   // the device, and HTTP where the broker does not take it
  device,
  http,
};

struct Options {
  std::string socket;
  std::string mount = "/workspace";
  std::string device = "/dev/fuse";
  Transport transport = Transport::either;
  std::string fuse;              // fbroker-fuse; beside fbroker-init by default
  std::chrono::seconds wait{10};  // for the workspace to become ready

  // Both or neither: the numeric ids that the agent shall see itself as. They
  // are had from a nested user namespace that maps them to our own ids.
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;

  int status_fd = -1;            // one line each: "started", "exit N", "failed"
  bool tty = false;              // stdin is a terminal: make it the controlling one
  int console_fd = -1;           // make a terminal and send its master here
  bool keep_stderr = false;      // with console_fd: stderr is not the terminal
  unsigned short rows = 0, columns = 0;

  std::optional<carry::Loopback> proxy;  // where the relay listens; none: there is no way out
  int publish_fd = -1;           // the launcher hands over connections from outside here

  std::string chdir;
  std::vector<std::string> hide;  // mounts to detach before the agent starts
  std::vector<Limit> limits;
  std::vector<char*> command;     // ends with nullptr
};

// Errors: what is wrong, for the person who wrote the command line.
Result<Options> parse_options(int argc, char** argv);

std::string usage();

}  // namespace fbroker::init
