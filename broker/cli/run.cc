// fbroker run [OPTIONS] -- COMMAND: the launcher's command line.
#include "container/run.h"

#include <cstdio>
#include <memory>

#include "broker/cli/table.h"
#include "broker/cli/verbs.h"

namespace fbroker::cli {
namespace {

void add_limits(CLI::App& run, container::Limits& limits) {
  run.add_option("--max-processes", limits.processes, "Most processes at a time")
      ->capture_default_str()->check(CLI::Range(std::uint64_t{2}, std::uint64_t{1} << 22));
  run.add_option("--max-memory", limits.memory, "Most address space of one process, e.g. 8GB")
      ->transform(CLI::AsSizeValue(false));
  run.add_option("--max-file-size", limits.file_size, "Largest file that can be written, e.g. 1GB")
      ->transform(CLI::AsSizeValue(false));
}

void add_agent(CLI::App& run, container::RunOptions& options) {
  run.add_option("--agent", options.agent, "Run this coding agent: its program, what it keeps, its keys and domains (fbroker agents)");
  run.add_flag("--share-login", options.share_login, "Copy your own login of that agent into what it keeps");
  run.add_option("--env", options.env, "NAME passes a variable of yours on, NAME=VALUE sets one (repeatable)")
      ->allow_extra_args(false);
  run.add_option("--domain", options.domains, "Let this host be reached: api.example.com, *.example.com, HOST:PORT (repeatable)")
      ->allow_extra_args(false);
  run.add_option("--alias", options.aliases, "NAME:PORT=ADDRESS:PORT, a service of this machine's under a name inside (repeatable)")
      ->allow_extra_args(false);
}

int launch(const container::RunOptions& options) {
  if (options.command.empty() && options.agent.empty())
    throw CLI::RequiredError("a command after --, or --agent NAME:");
  const auto status = container::run(options);
  if (status) return *status;
  std::fprintf(stderr, "fbroker run: %s\n", printable_words(status.error().text()).c_str());
  return kLauncherFailed;
}

}  // namespace

void add_run(CLI::App& app, int& status) {
  auto options = std::make_shared<container::RunOptions>();
  auto backend = std::make_shared<std::string>("bwrap");
  CLI::App* run = app.add_subcommand(
      "run", "Run a command in a sandbox that sees only the workspace, through the broker");
  run->add_option("--policy", options->policy,
                  "Policy file; without one --root is exported under the base rules");
  run->add_option("--root", options->root, "Directory that the policy's paths start from")
      ->capture_default_str();
  run->add_option("--name", options->name, "Session's name; it keeps its HOME for the next run");
  run->add_option("--tool", options->tools, "Show a toolchain's directory, read-only (repeatable)")
      ->allow_extra_args(false);
  run->add_option("--publish", options->publish,
                  "Lead a port of 127.0.0.1 to one inside: PORT or PORT:PORT-INSIDE (repeatable)")
      ->allow_extra_args(false);
  run->add_flag("--offline", options->offline, "No connection out, whatever the policy allows");
  add_agent(*run, *options);
  run->add_option("--backend", *backend, "What makes the sandbox")
      ->capture_default_str()->check(CLI::IsMember({"bwrap"}));
  run->add_option("--transport", options->transport,
                  "How files reach the sandbox: device (the broker answers the kernel), http, or auto (device where it can be had)")
      ->check(CLI::IsMember({"auto", "device", "http"}))->capture_default_str();
  run->add_option("--workspace", options->workspace, "Where the workspace is inside")->capture_default_str();
  run->add_flag("-q,--quiet", options->quiet, "Neither banner nor end report");
  add_limits(*run, options->limits);
  run->add_option("command", options->command, "The command and its arguments, after --; with --agent its arguments alone");
  run->footer("Ends with the command's own status; 125: it could not be started.");
  // What follows the command's name belongs to it, options included.
  run->positionals_at_end();
  run->callback([options, &status] { status = launch(*options); });
}

}  // namespace fbroker::cli
