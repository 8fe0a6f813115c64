// fbroker agents: the coding agents that `run --agent` knows, and what each gets.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "broker/cli/person.h"
#include "broker/cli/table.h"
#include "broker/cli/verbs.h"
#include "broker/sessions/runtime_dir.h"
#include "container/agents/catalog.h"
#include "container/agents/launch.h"
#include "container/agents/walk.h"

namespace fbroker::cli {

namespace agents = container::agents;
using nlohmann::json;

namespace {

std::string canonical_or(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

// As a run that is started here would see it.
container::Forbidden forbidden_here(const agents::Person& person) {
  container::Forbidden forbidden;
  forbidden.home = canonical_or(person.home);
  const std::string here = canonical_or(".");
  // Where no run can be started nothing is a workspace.
  if (container::check_root(here, forbidden.home)) forbidden.workspace_root = here;
  forbidden.own = {canonical_or(broker::state_root()),
                   canonical_or(broker::runtime_path())};
  return forbidden;
}

bool has_state(const agents::Profile& profile) {
  std::error_code error;
  const auto one = std::filesystem::path(agents::state_directory(profile, "x")).parent_path();
  return std::filesystem::is_directory(one, error) && !std::filesystem::is_empty(one, error);
}

json described(const agents::Profile& profile, const agents::Person& person) {
  const std::string found = agents::find_program(profile.program, person);
  json set = json::object();
  for (const auto& [name, value] : profile.set) set[name] = value;
  json settings = json::object();
  for (const auto& [file, text] : profile.settings) settings[file] = json::parse(text);
  return {{"name", profile.name},
          {"title", profile.title},
          {"installed", found.empty() ? json() : json(shown(found))},
          {"install", profile.install},
          {"state", profile.state},
          {"state_kept", has_state(profile)},
          {"settings", settings},
          {"domains", profile.domains},
          {"login", {{"files", profile.login.files}, {"domains", profile.login.domains}, {"callback", profile.login.callback}}},
          {"environment", {{"pass", profile.pass}, {"set", set}}},
          {"profile", profile.origin.empty() ? json() : json(shown(profile.origin))},
          {"notes", profile.notes}};
}

int list_all(bool as_json) {
  const agents::Person person = agents::this_person();
  Table table(std::cout, {"NAME", "TITLE", "INSTALLED", "STATE", "DOMAINS"}, 100);
  json all = json::array();
  int status = kYes;
  for (const std::string& name : agents::profile_names()) {
    const auto profile = agents::load_profile(name, "");
    if (!profile) {
      std::fprintf(stderr, "fbroker agents: %s\n", profile.error().text().c_str());
      status = kUsage;
      continue;
    }
    const std::string found = agents::find_program(profile->program, person);
    table.row({name, profile->title, found.empty() ? "-" : agents::shortened(found, person.home),
               has_state(*profile) ? "yes" : "no", std::to_string(profile->domains.size())});
    all.push_back(described(*profile, person));
  }
  if (as_json)
    std::printf("%s\n", json{{"agents", all}}.dump().c_str());
  else
    table.flush();
  return status;
}

// "  label     first", what follows below it.
void print_list(const char* label, const std::vector<std::string>& lines, const char* none) {
  if (lines.empty()) std::printf("  %-10s%s\n", label, none);
  for (std::size_t at = 0; at < lines.size(); ++at)
    std::printf("  %-10s%s\n", at == 0 ? label : "", shown(lines[at]).c_str());
}

std::vector<std::string> variables(const agents::Profile& profile) {
  std::vector<std::string> lines;
  for (const std::string& name : profile.pass) lines.push_back(name + (std::getenv(name.c_str()) != nullptr ? "  (set here)" : ""));
  return lines;
}

std::vector<std::string> in_home(const std::vector<std::string>& paths) {
  std::vector<std::string> lines;
  lines.reserve(paths.size());
  for (const std::string& path : paths) lines.push_back("~/" + path);
  return lines;
}

void print_program(const agents::Profile& profile, const agents::Person& person) {
  const auto program = agents::resolve(profile, person, forbidden_here(person));
  if (!program) {
    std::printf("  %-10s- %s\n", "program", program.error().text().c_str());
    return;
  }
  const auto shortly = [&](const std::string& path) { return agents::shortened(path, person.home); };
  std::printf("  %-10s%s\n", "program", shown(shortly(program->found)).c_str());
  std::vector<std::string> lines;
  for (const agents::Shown& one : program->shown) lines.push_back(shortly(one.path) + (one.directory ? "/" : ""));
  for (const container::Symlink& link : program->links) lines.push_back(shortly(link.at) + " -> " + shortly(link.target));
  print_list("shows", lines, "nothing beside the system");
  lines.clear();
  for (const std::string& directory : program->programs) lines.push_back(shortly(directory));
  if (!lines.empty()) print_list("PATH", lines, "");
}

int print_one(const std::string& name, bool as_json) {
  const auto profile = agents::load_profile(name, "");
  if (!profile) return told({kNo, profile.error().text(), ""}, false);
  const agents::Person person = agents::this_person();
  if (as_json) return std::printf("%s\n", described(*profile, person).dump().c_str()), kYes;
  std::printf("%s · %s · %s\n", profile->name.c_str(), shown(profile->title).c_str(),
              profile->origin.empty() ? "shipped" : shown(profile->origin).c_str());
  print_program(*profile, person);
  print_list("arguments", profile->program.arguments, "none of the profile's");
  print_list("keeps", in_home(profile->state), "nothing");
  if (!profile->state.empty())
    std::printf("  %-10sin %s\n", "", shown(agents::shortened(agents::state_directory(*profile, "NAME"), person.home)).c_str());
  print_list("login", in_home(profile->login.files), "no file of one");
  if (!profile->login.callback.empty()) std::printf("  %-10s--publish %s\n", "", profile->login.callback.c_str());
  print_list("passes", variables(*profile), "no variable");
  std::vector<std::string> set;
  for (const auto& [variable, value] : profile->set) set.push_back(variable + "=" + value);
  print_list("sets", set, "no variable");
  for (const auto& [file, text] : profile->settings)
    print_list("settings", {std::string(agents::kSettingsInside) + "/" + file + " " + json::parse(text).dump()}, "");
  print_list("reaches", profile->domains, "no domain");
  if (!profile->login.domains.empty()) print_list("to log in", profile->login.domains, "");
  if (!profile->notes.empty()) print_list("notes", profile->notes, "");
  std::printf("  %-10s%s\n", "install", shown(profile->install).c_str());
  return kYes;
}

}  // namespace

void add_agents(CLI::App& app, int& status) {
  auto name = std::make_shared<std::string>();
  auto as_json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("agents", "Coding agents that `run --agent` knows; with a NAME, all that it gets");
  verb->add_option("name", *name, "one agent");
  verb->add_flag("--json", *as_json, "print JSON");
  verb->footer("Examples:\n  fbroker agents\n  fbroker agents claude\nExit status: 0 done, 1 no such agent, 2 a profile of yours has mistakes.");
  verb->callback([name, as_json, &status] { status = name->empty() ? list_all(*as_json) : print_one(*name, *as_json); });
}

}  // namespace fbroker::cli
