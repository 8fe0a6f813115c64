// The command's verbs: each adds itself to the command line and says with
// which status the program ends (design section 12).
#pragma once

#include <CLI/CLI.hpp>

namespace fbroker::cli {

// 0 yes/done. run and exec return the command's own status, 125 when the launcher failed.
inline constexpr int kYes = 0;
inline constexpr int kNo = 1;            // refused, not verified, not found
inline constexpr int kUsage = 2;         // usage or configuration
inline constexpr int kNotReachable = 3;  // no broker answers
inline constexpr int kWouldBeAsked = 4;
inline constexpr int kLauncherFailed = 125;

// `status` is set by the verb's callback; main returns it.
void add_serve(CLI::App& app, int& status);
void add_run(CLI::App& app, int& status);
void add_agents(CLI::App& app, int& status);   // agents, agents NAME
void add_check(CLI::App& app, int& status);
void add_grants(CLI::App& app, int& status);   // grant, revoke, grants
void add_status(CLI::App& app, int& status);
void add_policy(CLI::App& app, int& status);   // policy lint|show|schema
void add_audit(CLI::App& app, int& status);    // audit tail|search|verify
void add_keeper(CLI::App& app, int& status);   // not a person's

}  // namespace fbroker::cli
