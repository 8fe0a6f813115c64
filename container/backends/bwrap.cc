#include "container/backends/bwrap.h"

#include <initializer_list>

namespace fbroker::container {
namespace {

using Argv = std::vector<std::string>;

void add(Argv& argv, std::initializer_list<std::string> words) {
  argv.insert(argv.end(), words.begin(), words.end());
}

void add_namespaces(Argv& argv) {
  // One user namespace, in which fbroker-init is 0 and may mount. It maps the
  // agent's own number into a second one, where there is no capability.
  add(argv, {"--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL"});
  // INVARIANT: no network namespace is shared; --share-net never appears.
  add(argv, {"--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net",
             "--unshare-cgroup-try", "--hostname", "fbroker"});
  // The launcher's death is the sandbox's; fbroker-init is process 1, so that
  // its death is everybody's.
  add(argv, {"--die-with-parent", "--as-pid-1"});
}

void add_environment(Argv& argv, const SandboxSpec& spec) {
  // INVARIANT: nothing of the person's environment is inherited (tokens).
  argv.push_back("--clearenv");
  for (const auto& [name, value] : spec.environment) add(argv, {"--setenv", name, value});
  // ATTACK: /proc/PID/cmdline is anybody's to read.
  if (spec.secrets_fd >= 0) add(argv, {"--args", std::to_string(spec.secrets_fd)});
}

void add_mount(Argv& argv, const Mount& mount) {
  const bool by_fd = mount.fd >= 0;
  const std::string source = by_fd ? std::to_string(mount.fd) : mount.source;
  switch (mount.mode) {
    case Mount::Mode::read_only: add(argv, {by_fd ? "--ro-bind-fd" : "--ro-bind"}); break;
    case Mount::Mode::writable: add(argv, {by_fd ? "--bind-fd" : "--bind"}); break;
    case Mount::Mode::device: add(argv, {"--dev-bind"}); break;
  }
  add(argv, {by_fd && mount.mode == Mount::Mode::device ? mount.source : source, mount.at});
}

void add_root(Argv& argv, const SandboxSpec& spec) {
  for (const Mount& mount : spec.root) add_mount(argv, mount);
  for (const Symlink& link : spec.links) add(argv, {"--symlink", link.target, link.at});
  for (const DataFile& file : spec.files)
    add(argv, {"--perms", "0644", "--file", std::to_string(file.fd), file.at});
}

void add_private_places(Argv& argv, const SandboxSpec& spec) {
  add(argv, {"--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm",
             "--remount-ro", "/dev"});
  add(argv, {"--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/var/tmp"});
  if (spec.home_directory)
    add_mount(argv, *spec.home_directory);
  else
    add(argv, {"--perms", "0700", "--tmpfs", spec.home});
  for (const Mount& kept : spec.kept) add_mount(argv, kept);
}

void add_workspace(Argv& argv, const SandboxSpec& spec) {
  add_mount(argv, spec.socket_directory);
  add(argv, {"--tmpfs", kPrivateDirectory});
  add_mount(argv, spec.init_program);
  add_mount(argv, spec.fuse_program);
  add_mount(argv, spec.fuse_device);
  add(argv, {"--dir", spec.workspace});
  add(argv, {"--remount-ro", "/"});  // last: bwrap makes mount points in it
}

void add_descriptors(Argv& argv, const SandboxSpec& spec) {
  if (spec.info_fd >= 0) add(argv, {"--info-fd", std::to_string(spec.info_fd)});
  if (spec.block_fd >= 0) add(argv, {"--block-fd", std::to_string(spec.block_fd)});
}

void add_limit(Argv& argv, const char* name, std::uint64_t value) {
  add(argv, {"--limit", std::string(name) + "=" + std::to_string(value)});
}

void add_init(Argv& argv, const SandboxSpec& spec) {
  add(argv, {"--", spec.init_program.at, "--fuse", spec.fuse_program.at, "--device",
             spec.fuse_device.at, "--socket", std::string(kSocketDirectory) + "/" + spec.socket_name,
             "--transport", spec.transport, "--mount", spec.workspace, "--chdir", spec.workspace, "--uid", std::to_string(spec.uid),
             "--gid", std::to_string(spec.gid), "--hide", kPrivateDirectory});
  add_limit(argv, "processes", spec.limits.processes);
  if (spec.limits.memory) add_limit(argv, "memory", *spec.limits.memory);
  if (spec.limits.file_size) add_limit(argv, "file-size", *spec.limits.file_size);
  if (spec.status_fd >= 0) add(argv, {"--status-fd", std::to_string(spec.status_fd)});
  if (!spec.proxy.empty()) add(argv, {"--proxy", spec.proxy});
  if (spec.publish_fd >= 0) add(argv, {"--publish-fd", std::to_string(spec.publish_fd)});
  if (spec.terminal.wanted) {
    add(argv, {"--console-fd", std::to_string(spec.console_fd), "--size",
               std::to_string(spec.terminal.rows) + "x" + std::to_string(spec.terminal.columns)});
    if (spec.terminal.keep_stderr) argv.push_back("--keep-stderr");
  }
  argv.push_back("--");
  argv.insert(argv.end(), spec.command.begin(), spec.command.end());
}

}  // namespace

std::string bwrap_secrets(const SandboxSpec& spec) {
  std::string words;
  for (const auto& [name, value] : spec.secrets)
    for (const std::string& word : {std::string("--setenv"), name, value}) words.append(word).push_back('\0');
  return words;
}

std::vector<std::string> bwrap_argv(const SandboxSpec& spec) {
  Argv argv{"bwrap"};
  add_namespaces(argv);
  add_environment(argv, spec);
  add_root(argv, spec);
  add_private_places(argv, spec);
  // After /tmp and HOME: a toolchain may lie below either.
  for (const Mount& tool : spec.tools) add_mount(argv, tool);
  for (const Symlink& link : spec.tool_links) add(argv, {"--symlink", link.target, link.at});
  add_workspace(argv, spec);
  add_descriptors(argv, spec);
  add_init(argv, spec);
  return argv;
}

}  // namespace fbroker::container
