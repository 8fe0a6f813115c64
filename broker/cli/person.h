// What the verbs of a person's terminal share: where they are, and how a
// failure is told.
#pragma once

#include <string>

#include "broker/control/control_client.h"

namespace fbroker::cli {

// The shell's idea of where it is (PWD, when it is true), else getcwd(3).
std::string current_directory();

// Prints the failure on stderr (`json`: the broker's own text on stdout) and
// returns the exit status for it.
int told(const control::Failure& failure, bool json);

// A name for a terminal, as printable() has it: no file's name can write to the
// person's terminal or read as another one.
std::string shown(const std::string& bytes);

// "15m", "2h", "90s", "1d" in seconds. Errors: anything else.
Result<std::chrono::seconds> duration_from(const std::string& text);

}  // namespace fbroker::cli
