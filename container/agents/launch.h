// Launch: what --agent, --env, --domain and --alias add to a run.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "broker/control/control_client.h"
#include "container/agents/profile.h"
#include "container/agents/resolve.h"
#include "container/agents/state.h"
#include "container/run.h"

namespace fbroker::container::agents {

// The person as the environment tells of them.
Person this_person();

using Variables = std::vector<std::pair<std::string, std::string>>;

// --env NAME, --env NAME=VALUE.
// Errors: a name that is none, that the sandbox sets itself, that is not set here.
Result<Variables> variables_of(const std::vector<std::string>& wanted);

// --alias NAME:PORT=ADDRESS:PORT; the broker looks closer.
Result<std::vector<std::pair<std::string, std::string>>> aliases_of(const std::vector<std::string>& wanted);

// An agent, found and checked; nothing of it exists in the sandbox yet, and
// nothing was made on disk.
struct Agent {
  Profile profile;
  Resolved program;
  Variables passed;                  // of the person's, by the profile's names

  std::vector<std::string> command(const std::vector<std::string>& arguments) const;
  std::vector<control::ReachableHost> hosts() const;
};

Result<Agent> find_agent(const std::string& name, const Forbidden& forbidden);

// What a person reads before it starts; `quiet` is the caller's business.
// Lines, each ending in '\n'.
std::string words_for(const Agent& agent, const std::string& state, const RunOptions& options);

// Without --agent: whether the sandbox would find this command, and if not but
// the person's shell does, what to do.
// `spec` with its tools; `programs`: what comes first in PATH inside.
Result<void> check_command(const std::string& command, const Person& person, const SandboxSpec& spec,
                           const std::vector<std::string>& programs);

}  // namespace fbroker::container::agents
