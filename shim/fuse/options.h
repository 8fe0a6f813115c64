// What fbroker-fuse was asked to do.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

namespace fbroker::fuse {

struct ProgramOptions {
  std::string socket;
  std::string mount;       // mounted by us; or
  int device = -1;         // mounted already, by whoever started us
  int ready_fd = -1;
  std::chrono::seconds wait{30};
  unsigned threads = 4;
  uid_t uid = 0;
  gid_t gid = 0;
  bool foreground = false;
};

// Parses, or prints what is wrong (or the help that was asked for) and ends
// the program.
ProgramOptions parse_options(int argc, char** argv);

}  // namespace fbroker::fuse
