// Each list says why it is what it is; docs/policy.md tells the person.
#include "policy/presets.h"

#include <algorithm>

namespace fbroker::policy {
namespace {

std::vector<Preset> all() {
  return {
      // The base rule "git" still guards hooks and configuration in there.
      {"preset:git", "git's own files",
       {"**/.git", "**/.gitignore", "**/.gitattributes", "**/.gitmodules", "**/.mailmap"},
       {"github.com", "codeload.github.com", "objects.githubusercontent.com", "gitlab.com", "codeberg.org",
        "bitbucket.org"}},
      // Not package.json: what it names is run by the person's own next install.
      {"preset:node", "what npm, pnpm, yarn and bundlers write",
       {"**/node_modules", "**/package-lock.json", "**/npm-shrinkwrap.json", "**/pnpm-lock.yaml", "**/yarn.lock",
        "**/.yarn", "**/.pnpm-store", "**/dist", "**/build", "**/coverage", "**/.next", "**/.turbo", "**/*.tsbuildinfo"},
       {"registry.npmjs.org", "registry.yarnpkg.com"}},
      {"preset:python", "what pip, venv, pytest and build tools write",
       {"**/.venv", "**/venv", "**/__pycache__", "**/.pytest_cache", "**/.mypy_cache", "**/.ruff_cache", "**/.tox",
        "**/.nox", "**/*.egg-info", "**/build", "**/dist", "**/.coverage", "**/poetry.lock", "**/uv.lock"},
       {"pypi.org", "files.pythonhosted.org"}},
      // cargo's own home is the sandbox's HOME.
      {"preset:rust", "what cargo writes",
       {"**/target", "**/Cargo.lock"},
       {"crates.io", "index.crates.io", "static.crates.io"}},
  };
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> list = all();
  return list;
}

std::vector<std::string_view> preset_words() {
  std::vector<std::string_view> words;
  for (const Preset& preset : presets()) words.push_back(preset.word);
  return words;
}

const Preset* preset_named(std::string_view word) {
  const auto found = std::ranges::find(presets(), word, &Preset::word);
  return found == presets().end() ? nullptr : &*found;
}

}  // namespace fbroker::policy
