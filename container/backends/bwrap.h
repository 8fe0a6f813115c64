// Bubblewrap: a SandboxSpec as bwrap's arguments. Pure; tested by table.
#pragma once

#include <string>
#include <vector>

#include "container/spec.h"

namespace fbroker::container {

// argv, its first element included. bubblewrap 0.8 with --bind-fd (Debian 12:
// 0.8.0-2+deb12u1) understands all of it.
std::vector<std::string> bwrap_argv(const SandboxSpec& spec);

// What secrets_fd must hold: further arguments, each ended by a NUL.
std::string bwrap_secrets(const SandboxSpec& spec);

}  // namespace fbroker::container
