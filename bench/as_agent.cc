// as_agent PROGRAM ARGUMENTS...: runs a program under the filter of system
// calls that an agent has, so that bench/compare measures every side alike.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "container/hardening/no_new_privs.h"
#include "container/hardening/seccomp.h"

int main(int count, char** words) {
  if (count < 2) {
    std::fprintf(stderr, "usage: as_agent PROGRAM ARGUMENTS...\n");
    return 2;
  }
  for (const auto& made : {fbroker::hardening::set_no_new_privs(), fbroker::hardening::apply_seccomp()})
    if (!made) {
      std::fprintf(stderr, "as_agent: %s\n", made.error().text().c_str());
      return 125;
    }
  ::execv(words[1], words + 1);
  std::fprintf(stderr, "as_agent: %s: %s\n", words[1], std::strerror(errno));
  return 127;
}
