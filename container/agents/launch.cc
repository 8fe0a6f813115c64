#include "container/agents/launch.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "broker/sessions/runtime_dir.h"
#include "container/agents/catalog.h"
#include "container/agents/walk.h"
#include "container/host_root.h"
#include "container/words.h"

namespace fbroker::container::agents {
namespace {

constexpr std::size_t kMostValueBytes = 32 * 1024;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string names_of(const Variables& variables) {
  std::string names;
  for (const auto& [name, unused] : variables) names += (names.empty() ? "" : " ") + name;
  return names;
}

bool has_port(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == text.npos || colon == 0 || colon + 1 == text.size()) return false;
  return text.find_first_not_of("0123456789", colon + 1) == text.npos;
}

// Whether a login must still be made: no file of one is kept, and no key comes in.
bool needs_login(const Agent& agent, const std::string& state) {
  if (agent.profile.login.files.empty() || !agent.passed.empty()) return false;
  struct stat found {};
  return std::none_of(agent.profile.login.files.begin(), agent.profile.login.files.end(), [&](const std::string& file) {
    return ::lstat((state + "/" + file).c_str(), &found) == 0;
  });
}

}  // namespace

Person this_person() { return {environment("PATH"), broker::home_directory()}; }

Result<Variables> variables_of(const std::vector<std::string>& wanted) {
  Variables variables;
  for (const std::string& one : wanted) {
    const std::size_t equals = one.find('=');
    const std::string name = one.substr(0, equals);
    if (const std::string why = why_no_variable(name); !why.empty()) return Error{"--env " + printable(name), why};
    const char* value = equals == one.npos ? std::getenv(name.c_str()) : one.c_str() + equals + 1;
    if (value == nullptr) return Error{"--env " + name, "is not set here; export it first, or give a value: --env " + name + "=VALUE"};
    if (std::string_view(value).size() > kMostValueBytes) return Error{"--env " + name, "has a value of more than 32 KiB"};
    variables.emplace_back(name, value);
  }
  return variables;
}

Result<std::vector<std::pair<std::string, std::string>>> aliases_of(const std::vector<std::string>& wanted) {
  std::vector<std::pair<std::string, std::string>> aliases;
  for (const std::string& one : wanted) {
    const std::size_t equals = one.find('=');
    const std::string name = one.substr(0, equals), target = equals == one.npos ? "" : one.substr(equals + 1);
    if (!has_port(name) || !has_port(target))
      return Error{"--alias " + printable(one), "expected NAME:PORT=ADDRESS:PORT, e.g. llm.local:11434=127.0.0.1:11434"};
    aliases.emplace_back(name, target);
  }
  return aliases;
}

std::vector<std::string> Agent::command(const std::vector<std::string>& arguments) const {
  std::vector<std::string> words{program.program};
  words.insert(words.end(), profile.program.arguments.begin(), profile.program.arguments.end());
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

std::vector<control::ReachableHost> Agent::hosts() const {
  std::vector<control::ReachableHost> hosts;
  for (const auto* list : {&profile.domains, &profile.login.domains})
    for (const std::string& domain : *list) hosts.push_back({.id = "agent:" + profile.name, .host = domain});
  return hosts;
}

Result<Agent> find_agent(const std::string& name, const Forbidden& forbidden) {
  Agent agent;
  FBROKER_TRY(agent.profile, load_profile(name, forbidden.workspace_root));
  FBROKER_TRY(agent.program, resolve(agent.profile, this_person(), forbidden));
  for (const std::string& variable : agent.profile.pass)
    if (const std::string value = environment(variable.c_str()); !value.empty() && value.size() <= kMostValueBytes)
      agent.passed.emplace_back(variable, value);
  return agent;
}

std::string words_for(const Agent& agent, const std::string& state, const RunOptions& options) {
  const std::string home = broker::home_directory();
  std::string text = "agent " + agent.profile.name + " · " + printable(shortened(agent.program.program, home)) + " · " +
                     (agent.profile.state.empty() ? "keeps nothing" : "keeps " + printable(shortened(state, home))) +
                     (agent.passed.empty() ? "" : " · passed on: " + names_of(agent.passed)) + "\n";
  if (!needs_login(agent, state)) return text;
  const std::string& callback = agent.profile.login.callback;
  const std::string port = callback.substr(callback.rfind(':') + 1);
  const bool published = std::any_of(options.publish.begin(), options.publish.end(),
                                     [&](const std::string& one) { return one.find(port) != one.npos; });
  text += "  no login is kept: --share-login copies yours, or log in inside";
  if (!callback.empty() && !published) text += " (login: use --publish " + callback + ")";
  return text + "\n";
}

Result<void> check_command(const std::string& command, const Person& person, const SandboxSpec& spec,
                           const std::vector<std::string>& programs) {
  std::string found = command, path_inside;
  for (const std::string& directory : programs) path_inside += directory + ":";
  if (command.find('/') == command.npos) {
    if (!find_in_path(command, path_inside + kSystemPath).empty()) return ok;
    found = find_in_path(command, person.path);
  } else if (!command.starts_with('/') || at_or_below(command, spec.workspace) || at_or_below(command, spec.home)) {
    return ok;   // the workspace's, or its own HOME's
  }
  const auto shows = [&](const Mount& tool) { return at_or_below(found, tool.at); };
  struct stat kind {};
  if (found.empty() || system_shows(found) || std::any_of(spec.tools.begin(), spec.tools.end(), shows) ||
      ::stat(found.c_str(), &kind) < 0 || !S_ISREG(kind.st_mode) || ::access(found.c_str(), X_OK) != 0)
    return ok;   // found, or left to what a shell says: 126, 127
  const auto walked = walk(found);
  const std::string name = std::filesystem::path(found).filename().string();
  const std::string agent = profile_of_program(name);
  const auto in = [&](const std::string& path) {
    return printable(shortened(std::filesystem::path(path).parent_path().string(), person.home));
  };
  return Error{"", printable(name) + " is at " + in(found) + ", which the sandbox does not show: use " +
                       (agent.empty() ? "--tool " + in(walked ? walked->real : found) : "--agent " + agent + " or --tool DIR")};
}

}  // namespace fbroker::container::agents
