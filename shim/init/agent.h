// The agent's side: a PID namespace of its own, no capability, and its first
// process, which starts the command and reaps what the command leaves behind.
#pragma once

#include <sys/types.h>

#include "policy/base/result.h"
#include "shim/init/options.h"

namespace fbroker::init {

// Starts it. `terminal` (-1: none) becomes the command's stdin, stdout and,
// unless options.keep_stderr, stderr.
// The returned process ends with the command's status, and with it everything
// that the command started: it is the first of its PID namespace.
Result<pid_t> start_agent(const Options& options, int terminal);

// The signals that are passed on to the command.
inline constexpr int kForwarded[]{1 /*HUP*/, 2 /*INT*/, 3 /*QUIT*/, 15 /*TERM*/, 10 /*USR1*/, 12 /*USR2*/};

}  // namespace fbroker::init
