// The read-only system inside: the host's /usr and chosen, public parts of its
// /etc, and the few files that are written for the sandbox.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "container/spec.h"

namespace fbroker::container {

// Where programs are looked up inside, after what the run shows itself.
inline constexpr char kSystemPath[] = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

// Adds what this host has of it to spec.root and spec.links. Only paths that
// root alone can change are named, so naming them is safe.
void add_host_system(SandboxSpec& spec);

// passwd, group, hosts: content by path. The agent is called "agent".
std::vector<std::pair<std::string, std::string>> written_files(uid_t uid, gid_t gid,
                                                               const std::string& home);

// The whole environment inside. Of the launcher's own only what describes the
// terminal, the language and the time zone is kept.
std::vector<std::pair<std::string, std::string>> environment_inside(
    const char* const* environment, const SandboxSpec& spec,
    const std::vector<std::string>& tool_programs);

}  // namespace fbroker::container
