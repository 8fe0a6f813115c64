// Each list says why it is what it is; docs/policy.md tells the person.
#include "policy/base_rules.h"

#include <algorithm>

namespace fbroker::policy {
namespace {

using enum Operation;

constexpr OperationSet kAll = OperationSet::all();
constexpr OperationSet kWrite{write, create, delete_};

BaseRule secret(std::string_view id, std::string_view because, std::vector<std::string> paths,
                std::vector<std::string> except = {}) {
  return {id, false, kAll, because, std::move(paths), std::move(except)};
}

BaseRule guard(std::string_view id, std::string_view because, std::vector<std::string> paths,
               OperationSet operations = kWrite, std::vector<std::string> except = {}) {
  return {id, true, operations, because, std::move(paths), std::move(except)};
}

// ---- secrets: they do not exist -----------------------------------------------
// Not here, on purpose: "*.pem" and "*.crt" (most are certificates, and TLS
// needs its bundle), ".npmrc" (npm and pnpm keep a project's settings there),
// "*.tfstate" (terraform does not work without).

std::vector<BaseRule> secrets() {
  return {
      secret("env", "environment files hold passwords and tokens",
             {"**/.env", "**/.env.*", "**/.dev.vars", "**/.dev.vars.*"},
             {"**/.env.example", "**/.env.sample", "**/.env.template", "**/.env.dist",
              "**/.env.*.example", "**/.env.*.sample", "**/.env.*.template", "**/.env.*.dist",
              "**/.dev.vars.example"}),
      secret("ssh", "SSH keys and hosts", {"**/.ssh"}),
      secret("ssh", "SSH private keys",
             {"**/id_rsa", "**/id_dsa", "**/id_ecdsa", "**/id_ed25519", "**/id_ecdsa_sk",
              "**/id_ed25519_sk", "**/id_rsa[._-]*", "**/id_dsa[._-]*", "**/id_ecdsa[._-]*",
              "**/id_ed25519[._-]*", "**/ssh_host_*_key", "**/*.ppk"},
             {"**/*.pub"}),
      secret("gnupg", "GnuPG keys", {"**/.gnupg", "**/secring.gpg", "**/private-keys-v1.d"}),
      secret("keys", "private keys of certificates",
             {"**/privkey*.pem", "**/*-key.pem", "**/*_key.pem", "**/*private*.key",
              "**/server.key", "**/tls.key", "**/client.key", "**/master.key", "**/*.p12",
              "**/*.pfx"}),
      secret("cloud", "cloud and cluster credentials",
             {"**/.aws", "**/.azure", "**/.config/gcloud", "**/.kube", "**/kubeconfig",
              "**/.docker/config.json", "**/.config/containers/auth.json", "**/.oci",
              "**/.config/doctl", "**/.config/hcloud", "**/.fly", "**/.boto", "**/.s3cfg",
              "**/.config/rclone", "**/.config/gh", "**/.config/glab-cli", "**/.vault-token",
              "**/.terraformrc", "**/.terraform.d/credentials.tfrc.json",
              "**/application_default_credentials.json"}),
      secret("netrc", "passwords for hosts and databases",
             {"**/.netrc", "**/_netrc", "**/.git-credentials", "**/.config/git/credentials",
              "**/.pgpass", "**/.my.cnf", "**/.mylogin.cnf"}),
      secret("registry", "tokens for package registries",
             {"**/.pypirc", "**/.cargo/credentials", "**/.cargo/credentials.toml",
              "**/.gem/credentials", "**/.m2/settings-security.xml", "**/.yarnrc.local.yml"}),
      secret("keychain", "password stores",
             {"**/*.kdbx", "**/*.kdb", "**/*.keychain", "**/*.keychain-db",
              "**/Library/Keychains", "**/.local/share/keyrings", "**/.password-store",
              "**/.config/op", "**/.config/Bitwarden*"}),
      secret("browser", "browser profiles hold sessions and passwords",
             {"**/.mozilla", "**/.config/google-chrome", "**/.config/chromium",
              "**/.config/BraveSoftware", "**/.config/microsoft-edge",
              "**/Library/Application Support/Google/Chrome",
              "**/Library/Application Support/Firefox"}),
      secret("history", "shell histories hold typed secrets",
             {"**/.bash_history", "**/.zsh_history", "**/.python_history", "**/.psql_history",
              "**/.mysql_history", "**/.sqlite_history", "**/.node_repl_history",
              "**/.local/share/fish/fish_history"}),
      secret("login", "agents' own log-ins",
             {"**/.claude/.credentials.json", "**/.codex/auth.json", "**/.gemini/oauth_creds.json",
              "**/.config/github-copilot"}),
  };
}

// ---- guards: not to be changed where the session did not make them -------------
// Files that a tool on the host runs or obeys without being told to. What a
// person starts by name (Makefile, package.json) is the project's work itself.

std::vector<BaseRule> guards() {
  return {
      // "commondir" makes git take its configuration from elsewhere; a ref in
      // a submodule that is called "hooks" or "config" is guarded with them.
      // Not "info/attributes": a .gitattributes in the tree can do the same,
      // and neither runs anything that the configuration does not name.
      // What a session writes into those that it made itself is looked at:
      // broker/files/git_files.h, which must know each of these names.
      guard("git", "git on the host would run it",
            {"**/*.git/hooks", "**/*.git/config", "**/*.git/config.lock", "**/*.git/config.worktree",
             "**/*.git/config.worktree.lock", "**/*.git/commondir",
             "**/*.git/objects/info/alternates", "**/*.git/modules/**/hooks",
             "**/*.git/modules/**/config", "**/*.git/modules/**/config.lock",
             "**/*.git/modules/**/config.worktree", "**/*.git/modules/**/config.worktree.lock",
             "**/*.git/modules/**/commondir", "**/*.git/worktrees/**/hooks",
             "**/*.git/worktrees/**/config", "**/*.git/worktrees/**/config.lock",
             "**/*.git/worktrees/**/config.worktree", "**/*.git/worktrees/**/config.worktree.lock",
             "**/*.git/worktrees/**/commondir"}),
      // Whatever its folder is called, a HEAD is what makes it a repository.
      guard("git", "git on the host would take its folder for a repository", {"**/HEAD"}, {write, create},
            {"**/*.git/**"}),
      // A ".git" file says where the repository is. It may be created (git
      // init, clone and worktree do), but one that is there not turned round.
      guard("git", "git on the host would follow it", {"**/.git"}, {write, delete_},
            {"**/.git/*"}),
      guard("hg", "mercurial on the host would run it",
            {"**/.hg/hgrc", "**/.hg/hgrc-not-shared", "**/.hg/sharedpath"}),
      guard("jj", "jj on the host would run it",
            {"**/.jj/repo/config.toml", "**/.jj/workspace-config.toml", "**/.jj/config.toml"}),
      guard("husky", "git on the host would run it",
            {"**/.husky", "**/.githooks", "**/lefthook.yml", "**/.lefthook.yml",
             "**/lefthook-local.yml", "**/.pre-commit-config.yaml", "**/.overcommit.yml"}),
      guard("editor", "an editor on the host would run it",
            {"**/.vscode", "**/*.code-workspace", "**/.idea", "**/.zed", "**/.fleet",
             "**/.devcontainer", "**/.devcontainer.json", "**/.exrc", "**/.vimrc", "**/.nvimrc",
             "**/.nvim.lua", "**/.dir-locals.el", "**/.dir-locals-2.el", "**/*.sublime-project"}),
      guard("direnv", "a shell on the host would run it",
            {"**/.envrc", "**/.direnv", "**/mise.toml", "**/.mise.toml", "**/mise.local.toml",
             "**/.mise.local.toml", "**/.autoenv"}),
      guard("shellrc", "a program on the host would run it",
            {"**/.bashrc", "**/.bash_profile", "**/.bash_login", "**/.bash_logout",
             "**/.bash_aliases", "**/.profile", "**/.zshrc", "**/.zshenv", "**/.zprofile",
             "**/.zlogin", "**/.zlogout", "**/.kshrc", "**/.cshrc", "**/.tcshrc", "**/.inputrc",
             "**/.config/fish", "**/.config/autostart", "**/.config/systemd", "**/.xprofile",
             "**/.xsession", "**/.xinitrc", "**/.gitconfig", "**/.config/git", "**/.gdbinit",
             "**/.lldbinit", "**/.Rprofile"}),
      guard("agent", "an agent on the host would obey it",
            {"**/.mcp.json", "**/.claude/settings.json", "**/.claude/settings.local.json",
             "**/.claude/hooks", "**/.claude/commands", "**/.claude/agents", "**/.claude/skills",
             "**/.claude/plugins", "**/.cursor/mcp.json", "**/.cursor/hooks.json",
             "**/.cursor/cli.json", "**/.codex", "**/.gemini", "**/.continue", "**/.windsurf",
             "**/.roo/mcp.json", "**/.opencode", "**/opencode.json", "**/opencode.jsonc",
             "**/.qwen", "**/.kiro", "**/.factory", "**/.amazonq", "**/.junie", "**/.trae",
             "**/.kilocode/mcp.json", "**/.crush.json", "**/crush.json", "**/.goose",
             "**/.aider.conf.yml", "**/.goosehints", "**/agent-permissions.json"}),
      // Where there is no such folder yet the session would make it, and what a
      // session made has no guards: its settings.json would be the agent's to
      // write. A link of that name would do as well, so it is the name that is
      // not given. What an agent keeps beside them in one that is there it may.
      guard("agent", "an agent on the host would take its settings from there",
            {"**/.claude", "**/.cursor", "**/.roo", "**/.kilocode"}, {create, delete_},
            {"**/.claude/*", "**/.cursor/*", "**/.roo/*", "**/.kilocode/*"}),
  };
}

std::vector<BaseRule> all() {
  auto rules = secrets();
  std::ranges::move(guards(), std::back_inserter(rules));
  return rules;
}

}  // namespace

const std::vector<BaseRule>& base_rules() {
  static const std::vector<BaseRule> rules = all();
  return rules;
}

std::vector<std::string_view> base_ids() {
  std::vector<std::string_view> ids;
  for (const BaseRule& rule : base_rules())
    if (std::ranges::find(ids, rule.id) == ids.end()) ids.push_back(rule.id);
  return ids;
}

Rule to_rule(const BaseRule& base, std::span<const std::string> more_except) {
  Rule rule;
  rule.id = "base:" + std::string(base.id);
  rule.effect = Effect::deny;
  rule.operations = base.operations;
  rule.paths = base.paths;
  rule.except = base.except;
  rule.except.insert(rule.except.end(), more_except.begin(), more_except.end());
  rule.because = base.because;
  rule.unless_created = base.guard;
  return rule;
}

}  // namespace fbroker::policy
