// --tool DIR: a toolchain that the sandbox shows read-only, at its own path.
#pragma once

#include <string>
#include <vector>

#include "container/spec.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::container {

// Host directories that no toolchain may show, all canonical and absolute.
struct Forbidden {
  std::string home;                    // itself and what is above it
  std::string workspace_root;          // itself, above and below: the broker decides there
  std::vector<std::string> own;        // state and sockets of ours: itself, above and below
};

struct Tool {
  Mount mount;
  UniqueFd directory;     // what mount.fd borrows
  std::string programs;   // what PATH gains: DIR/bin, else DIR
};

// Pure: why a canonical path may not be shown: a sentence's end, "" = it may.
std::string why_not_shown(const std::string& canonical, const Forbidden& forbidden);

// The same for --tool.
Result<void> check_tool_path(const std::string& canonical, const Forbidden& forbidden);

// Resolves the name once and opens what it means.
Result<Tool> open_tool(const std::string& directory, const Forbidden& forbidden);

}  // namespace fbroker::container
