// fbroker run: a command in a sandbox that sees the workspace and nothing else
// of this machine (design section 10).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "container/spec.h"
#include "policy/base/result.h"

namespace fbroker::container {

struct RunOptions {
  std::optional<std::string> policy;   // as the person wrote it
  std::string root = ".";
  std::string name;                    // "" = made up; a name keeps its HOME for the next time
  std::vector<std::string> tools;
  std::string agent;                   // a profile's name; then `command` is what follows its program
  bool share_login = false;
  std::vector<std::string> env;        // NAME, NAME=VALUE
  std::vector<std::string> domains;    // reachable beside the policy's own
  std::vector<std::string> aliases;    // NAME:PORT=ADDRESS:PORT
  std::string workspace = "/workspace";
  std::vector<std::string> publish;    // as the person wrote them
  bool offline = false;                // nothing inside reaches any host, whatever a policy allows
  std::string transport = "auto";      // how files reach the sandbox: auto, device, http
  Limits limits;
  bool quiet = false;                  // neither banner nor end report
  std::vector<std::string> command;
};

// The command's status. Errors: why it could not be started; then nothing was.
// Nothing that it started is left when it returns.
Result<int> run(const RunOptions& options);

// Pure parts, for their tests.

// Whether this directory may be exported whole, without a policy that says so.
Result<void> check_root(const std::string& canonical_root, const std::string& canonical_home);
// Where the workspace may be inside.
Result<void> check_workspace(const std::string& path);

}  // namespace fbroker::container
