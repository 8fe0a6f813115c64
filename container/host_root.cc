#include "container/host_root.h"

#include <array>
#include <filesystem>
#include <string_view>

#include "container/proxy.h"

namespace fbroker::container {
namespace {

namespace fs = std::filesystem;

// Debian's merged /usr has them as symlinks, others as directories.
constexpr std::array kBesideUsr{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"};

// Nothing secret, nothing of the person's: how programs find libraries,
// certificates, time zones, names. Not /etc/ssl/private, shadow, ssh, machine-id.
constexpr std::array kFromEtc{
    "/etc/ld.so.cache",   "/etc/ld.so.conf",   "/etc/ld.so.conf.d", "/etc/alternatives",
    "/etc/ssl/certs",     "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/ca-certificates",
    "/etc/localtime",     "/etc/timezone",     "/etc/nsswitch.conf", "/etc/protocols",
    "/etc/services",      "/etc/mime.types",   "/etc/magic",        "/etc/inputrc",
    "/etc/bash.bashrc",   "/etc/profile",      "/etc/terminfo",     "/etc/gai.conf",
    "/etc/host.conf",     "/etc/debian_version", "/etc/os-release", "/etc/fonts",
    "/etc/perl",          "/etc/python3",      "/etc/python3.11",   "/etc/emacs",
    "/etc/vim",           "/etc/manpath.config", "/etc/locale.alias", "/etc/sensors3.conf"};

constexpr std::array<std::string_view, 8> kKept{"TERM",  "COLORTERM", "LANG", "LANGUAGE",
                                                "TZ", "COLUMNS", "LINES", "NO_COLOR"};
constexpr std::size_t kMostValueBytes = 1024;

void add_as_it_is(SandboxSpec& spec, const char* path) {
  std::error_code error;
  const auto status = fs::symlink_status(path, error);
  if (error || !fs::exists(status)) return;
  if (!fs::is_symlink(status)) {
    spec.root.push_back({.source = path, .at = path});
    return;
  }
  const fs::path target = fs::read_symlink(path, error);
  if (!error) spec.links.push_back({.target = target.string(), .at = path});
}

bool is_kept(std::string_view name) {
  if (name.starts_with("LC_")) return true;
  for (const std::string_view kept : kKept)
    if (name == kept) return true;
  return false;
}

}  // namespace

void add_host_system(SandboxSpec& spec) {
  spec.root.push_back({.source = "/usr", .at = "/usr"});
  for (const char* path : kBesideUsr) add_as_it_is(spec, path);
  for (const char* path : kFromEtc) add_as_it_is(spec, path);
}

std::vector<std::pair<std::string, std::string>> written_files(uid_t uid, gid_t gid,
                                                               const std::string& home) {
  const std::string u = std::to_string(uid), g = std::to_string(gid);
  // 65534 is what the kernel shows for every owner outside.
  const std::string nobody = uid == 65534 ? "" : "nobody:x:65534:65534:outside:/nonexistent:/usr/sbin/nologin\n";
  const std::string nogroup = gid == 65534 ? "" : "nogroup:x:65534:\n";
  return {{"/etc/passwd", "agent:x:" + u + ":" + g + ":agent:" + home + ":/bin/bash\n" + nobody},
          {"/etc/group", "agent:x:" + g + ":\n" + nogroup},
          {"/etc/hosts", "127.0.0.1 localhost fbroker\n::1 localhost fbroker\n"}};
}

std::vector<std::pair<std::string, std::string>> environment_inside(
    const char* const* environment, const SandboxSpec& spec,
    const std::vector<std::string>& tool_programs) {
  std::string path;
  for (const std::string& directory : tool_programs) path += directory + ":";
  path += kSystemPath;
  std::vector<std::pair<std::string, std::string>> inside{
      {"PATH", path},           {"HOME", spec.home},   {"USER", "agent"},
      {"LOGNAME", "agent"},     {"SHELL", "/bin/bash"}, {"PWD", spec.workspace},
      {"TMPDIR", "/tmp"},       {"FBROKER_IN_SANDBOX", "1"}};
  if (!spec.proxy.empty())
    for (auto& variable : proxy_environment(spec.proxy)) inside.push_back(std::move(variable));
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view entry = *environment;
    const std::size_t equals = entry.find('=');
    if (equals == entry.npos || !is_kept(entry.substr(0, equals))) continue;
    if (entry.size() - equals - 1 > kMostValueBytes) continue;
    inside.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return inside;
}

}  // namespace fbroker::container
