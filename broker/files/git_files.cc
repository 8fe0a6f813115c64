#include "broker/files/git_files.h"

#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <span>
#include <vector>

namespace fbroker::broker::git {
namespace {

using Names = std::vector<std::string_view>;

Names names_of(std::string_view path) {
  Names names;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    if (slash != 0) names.push_back(path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return names;
}

bool is_repository(std::string_view name) { return name.ends_with(".git"); }

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> these) {
  return std::ranges::find(these, name) != these.end();
}

bool is_config(std::string_view name) {
  return is_one_of(name, {"config", "config.lock", "config.worktree", "config.worktree.lock"});
}

// Below these lie names that people choose (branches), and no repository.
bool holds_data(std::string_view name) { return is_one_of(name, {"refs", "logs", "objects"}); }

// `rest` begins at "hooks".
Role role_of_hook(std::span<const std::string_view> rest) {
  if (rest.size() == 1) return Role::hooks;
  return rest.size() == 2 && rest[1].ends_with(".sample") ? Role::none : Role::closed;
}

Role role_in_modules(std::span<const std::string_view> rest) {
  for (std::size_t at = 0; at < rest.size(); ++at) {
    if (holds_data(rest[at])) return Role::none;
    if (rest[at] == "hooks") return role_of_hook(rest.subspan(at));
  }
  if (rest.empty()) return Role::none;
  if (is_config(rest.back())) return Role::config;
  return rest.back() == "commondir" ? Role::closed : Role::none;
}

// `rest` follows the repository's name.
Role role_within(std::span<const std::string_view> rest) {
  if (rest.empty()) return Role::none;
  if (rest.front() == "hooks") return role_of_hook(rest);
  if (rest.front() == "modules") return role_in_modules(rest.subspan(1));
  if (rest.size() == 1 && is_config(rest[0])) return Role::config;
  if (rest.size() == 1 && rest[0] == "commondir") return Role::closed;
  if (rest.size() < 3 || rest[0] != "worktrees") return Role::none;
  if (rest.size() == 3 && rest[2] == "commondir") return Role::commondir;
  // ATTACK: without a commondir it is a repository itself, with hooks; so is
  //   what lies in its "modules". Its own name may be any, "refs" as well.
  return role_in_modules(rest.subspan(2));
}

// Any name of the path, the last one too.
bool is_of_repository(const WorkspacePath& path) {
  return std::ranges::any_of(names_of(path.bytes()), is_repository);
}

// ---- configuration ----------------------------------------------------------------

// INVARIANT: keys that can make git run a program, load a file, connect without
//   being told to (a promisor remote is asked by a plain status), or write outside of the work tree are not here. What is
//   not here is refused.
struct Section {
  std::string_view name;
  bool named;   // [section "name"]
  std::vector<std::string_view> keys;
};

const std::vector<Section>& harmless() {
  static const std::vector<Section> sections{
      {"core", false,
       {"repositoryformatversion", "filemode", "bare", "logallrefupdates", "ignorecase", "symlinks",
        "precomposeunicode", "autocrlf", "eol", "safecrlf", "whitespace", "quotepath", "abbrev",
        "protecthfs", "protectntfs", "trustctime", "checkstat", "preloadindex", "untrackedcache",
        "sparsecheckout", "sparsecheckoutcone", "splitindex", "multipackindex", "commitgraph",
        "compression", "loosecompression", "bigfilethreshold", "packedgitlimit",
        "packedgitwindowsize", "deltabasecachelimit", "longpaths", "sharedrepository",
        "worktree"}},
      {"extensions", false,
       {"objectformat", "compatobjectformat", "refstorage", "worktreeconfig", "noop", "preciousobjects"}},
      {"remote", true,
       {"url", "pushurl", "fetch", "push", "tagopt", "prune", "prunetags", "mirror",
        "skipdefaultupdate", "skipfetchall"}},
      {"remote", false, {"pushdefault"}},
      {"branch", true, {"remote", "pushremote", "merge", "rebase", "description"}},
      {"branch", false, {"autosetupmerge", "autosetuprebase", "sort"}},
      {"submodule", true, {"url", "active", "branch", "update", "ignore", "shallow",
                           "fetchrecursesubmodules"}},
      {"submodule", false, {"active", "recurse", "fetchjobs"}},
      {"user", false, {"name", "email", "useconfigonly"}},
      {"author", false, {"name", "email"}},
      {"committer", false, {"name", "email"}},
      {"init", false, {"defaultbranch"}},
      {"pull", false, {"rebase", "ff"}},
      {"push", false, {"default", "autosetupremote", "followtags"}},
      {"fetch", false, {"prune", "prunetags", "parallel", "writecommitgraph", "recursesubmodules",
                        "showforcedupdates", "fsckobjects"}},
      {"merge", false, {"ff", "conflictstyle", "renames", "renamelimit", "stat", "log",
                        "directoryrenames"}},
      {"rebase", false, {"autostash", "autosquash", "updaterefs", "stat"}},
      {"rerere", false, {"enabled", "autoupdate"}},
      {"diff", false, {"renames", "renamelimit", "algorithm", "context", "colormoved", "noprefix",
                       "mnemonicprefix", "submodule", "ignoresubmodules", "indentheuristic"}},
      {"status", false, {"showuntrackedfiles", "short", "branch", "submodulesummary", "renames",
                         "aheadbehind", "showstash"}},
      {"commit", false, {"verbose", "status", "cleanup"}},
      {"log", false, {"date", "decorate", "follow", "abbrevcommit"}},
      {"tag", false, {"sort"}},
      {"index", false, {"version", "threads", "sparse", "recordendofindexentries"}},
      {"gc", false, {"auto", "autodetach", "autopacklimit", "packrefs", "pruneexpire", "aggressivedepth",
                     "aggressivewindow", "reflogexpire", "reflogexpireunreachable"}},
      {"maintenance", false, {"auto", "strategy"}},
      {"pack", false, {"threads", "window", "depth", "compression", "indexversion", "windowmemory",
                       "writebitmaphashcache"}},
      {"receive", false, {"denycurrentbranch", "denynonfastforwards", "denydeletes", "fsckobjects"}},
      {"transfer", false, {"fsckobjects", "unpacklimit"}},
      {"http", false, {"postbuffer", "version", "lowspeedlimit", "lowspeedtime"}},
      {"color", false, {"ui", "status", "branch", "diff", "interactive"}},
      {"feature", false, {"manyfiles", "experimental"}},
      {"lfs", false, {"repositoryformatversion"}},
      {"filter", true, {"clean", "smudge", "process", "required"}},
  };
  return sections;
}

bool is_harmless(std::string_view section, bool named, std::string_view key) {
  if (section == "advice") return !named;   // every one of them is a yes or no
  return std::ranges::any_of(harmless(), [&](const Section& known) {
    return known.name == section && known.named == named &&
           std::ranges::find(known.keys, key) != known.keys.end();
  });
}

// `git lfs install --local` writes just this; the program is the host's own.
bool is_lfs(std::string_view filter, std::string_view key, std::string_view value) {
  if (filter != "lfs") return false;
  return key == "required" || (key == "clean" && value == "git-lfs clean -- %f") ||
         (key == "smudge" && value == "git-lfs smudge -- %f") ||
         (key == "process" && value == "git-lfs filter-process");
}

// Where a submodule's files lie: beside the repository that is `within` folders
// up, and in no folder of settings. The host's `git checkout` writes there.
bool is_work_tree(std::string_view value, std::size_t within) {
  const Names names = names_of(value);
  const auto first = std::ranges::find_if(names, [](auto name) { return name != ".."; });
  return !value.starts_with('/') && first != names.end() &&
         static_cast<std::size_t>(first - names.begin()) == within &&
         std::none_of(first, names.end(), [](std::string_view name) {
           return name.starts_with('.') || is_repository(name);
         });
}

bool value_is_harmless(std::string_view section, std::string_view name, std::string_view key,
                       std::string_view value, std::size_t within) {
  // "helper::address" runs git-remote-helper, "-…" could be taken for an option.
  if (key == "url" || key == "pushurl")
    return !value.starts_with('-') && value.find("::") == value.npos;
  if (section == "submodule" && key == "update")
    return is_one_of(value, {"checkout", "rebase", "merge", "none"});
  if (section == "core" && key == "worktree") return is_work_tree(value, within);
  if (section == "filter") return is_lfs(name, key, value);
  return true;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

// A subset of git-config(1)'s syntax in which a line is a line: no
// continuation, quotes or escapes, no key beside a section's name. Git writes
// nothing else unless a value needs quotes.
std::optional<std::string> objection_to_config(std::string_view content, std::size_t within) {
  static const RE2::Options bytes = [] {
    RE2::Options options;
    options.set_encoding(RE2::Options::EncodingLatin1);   // names and values are bytes
    return options;
  }();
  static const RE2 blank(R"([ \t]*(?:[#;][^\x00\n]*)?)", bytes);
  static const RE2 heading(R"re([ \t]*\[([A-Za-z0-9-]+)(?:[ \t]+("[^"\\\x00-\x1f]*"))?\][ \t]*)re", bytes);
  static const RE2 setting(
      R"re([ \t]*([A-Za-z][A-Za-z0-9-]*)[ \t]*(=[ \t]*([^"\\#;\x00-\x08\x0a-\x1f]*?)[ \t]*)?)re", bytes);

  std::string section, name, key, assigned, value;
  bool named = false;
  while (!content.empty()) {
    const std::size_t end = std::min(content.find('\n'), content.size());
    const std::string_view line = content.substr(0, end);
    content.remove_prefix(std::min(end + 1, content.size()));
    if (RE2::FullMatch(line, blank)) continue;
    if (RE2::FullMatch(line, heading, &section, &name)) {
      section = lower(section);
      named = !name.empty();
      if (named) name = name.substr(1, name.size() - 2);
      continue;
    }
    if (!RE2::FullMatch(line, setting, &key, &assigned, &value))
      return "git configuration with quotes, escapes or more than one word a line";
    key = lower(key);
    if (!is_harmless(section, named, key) ||
        !value_is_harmless(section, name, key, value, within))
      return section + (named ? "." + name : "") + "." + key +
             " could make git on the host run something";
  }
  return {};
}

// ---- where a repository lies --------------------------------------------------------

std::string_view without_newline(std::string_view content) {
  if (content.ends_with('\n')) content.remove_suffix(1);
  return content;
}

// Must end in a place whose configuration and hooks have a role, and always
// had one.
// ATTACK: a folder "x.git" that was checked out with the project holds what
//   nobody has looked at. In one that is called ".git" git checks nothing out.
std::optional<std::string> objection_to_gitfile(std::string_view content) {
  constexpr std::string_view kHead = "gitdir: ";
  const std::string wrong = "a .git file that leads out of any repository's folder";
  if (content.empty()) return {};
  std::string_view target = without_newline(content);
  if (!target.starts_with(kHead)) return wrong;
  target.remove_prefix(kHead.size());
  if (std::ranges::any_of(target, [](unsigned char c) { return c < 0x20; })) return wrong;
  const Names names = names_of(target);
  const auto up = std::ranges::find_if(names, [](auto name) { return name != ".."; });
  if (std::find_if(up, names.end(), [](auto name) { return name == ".." || name == "."; }) != names.end())
    return wrong;
  const auto last = std::find(names.rbegin(), names.rend(), ".git");
  if (last == names.rend()) return wrong;
  const std::span rest(last.base(), names.end());
  if (rest.empty()) return {};
  const bool in_worktree = rest.size() >= 2 && rest[0] == "worktrees";
  if (in_worktree && rest.size() == 2) return {};
  const auto modules = rest.subspan(in_worktree ? 2 : 0);
  if (modules.size() >= 2 && modules[0] == "modules" && std::ranges::none_of(modules, holds_data) &&
      std::ranges::find(modules, "hooks") == modules.end())
    return {};
  return wrong;
}

// What git takes for a HEAD: setup.c of git, validate_headref().
bool is_head(std::string_view content) {
  constexpr std::size_t kHexDigits = 40;
  return content.starts_with("ref:") ||
         (content.size() >= kHexDigits &&
          std::ranges::all_of(content.substr(0, kHexDigits), [](unsigned char c) { return std::isxdigit(c); }));
}

}  // namespace

Role role_of(const WorkspacePath& path) {
  const Names names = names_of(path.bytes());
  for (std::size_t at = 0; at + 1 < names.size(); ++at) {
    if (!is_repository(names[at])) continue;
    const Role role = role_within(std::span(names).subspan(at + 1));
    if (role != Role::none) return role;
  }
  if (path.name() == ".git") return Role::gitfile;
  // ATTACK: with the .git of the root broken, git looks whether the root itself
  //   is a repository; and a folder that is one, its person enters.
  return path.name() == "HEAD" && !is_of_repository(path) ? Role::head : Role::none;
}

std::optional<std::string> objection(const WorkspacePath& path, std::string_view content) {
  const Role role = role_of(path);
  if (role != Role::none && content.size() > kMaxBytes) return "larger than such a file is";
  switch (role) {
    case Role::none: return {};
    case Role::config: {
      const Names names = names_of(path.bytes());
      const auto repository = std::ranges::find_if(names, is_repository);
      const auto within = static_cast<std::size_t>(names.end() - repository) - 1;
      return objection_to_config(content, within);
    }
    case Role::gitfile: return objection_to_gitfile(content);
    case Role::commondir:
      if (content.empty() || without_newline(content) == "../..") return {};
      return "a commondir that is not the repository's own";
    case Role::hooks: return "a file in place of the folder of hooks";
    case Role::head:
      if (!is_head(content)) return {};
      return "a repository's HEAD in a folder that is not called *.git";
    case Role::closed: break;
  }
  return "git on the host would run or follow it";
}

bool is_within_repository(const WorkspacePath& path) {
  const Names names = names_of(path.bytes());
  return !names.empty() && std::any_of(names.begin(), names.end() - 1, is_repository);
}

bool roles_differ_below(const WorkspacePath& from, const WorkspacePath& to) {
  if (is_of_repository(from) != is_of_repository(to)) return true;
  // One for each state that the names on the way can lead to (role_within).
  constexpr std::string_view kProbes[] = {"config",           "commondir",        "hooks/x",   "m/config",
                                          "m/hooks/x",        "m/commondir",      "m/n/config",
                                          "modules/m/config", "worktrees/w/config"};
  return std::ranges::any_of(kProbes, [&](std::string_view below) {
    const auto at = [&](const WorkspacePath& folder) {
      return WorkspacePath::parse(folder.bytes() + (folder.is_root() ? "" : "/") + std::string(below));
    };
    const auto before = at(from), after = at(to);
    return !before || !after || role_of(*before) != role_of(*after);
  });
}

bool link_misleads(const WorkspacePath& path, std::string_view target) {
  // ATTACK: core.worktree may name a folder of links, and git then checks out
  //   into the hooks of a repository that is not its own.
  if (std::ranges::any_of(names_of(target), is_repository)) return true;
  const Names names = names_of(path.bytes());
  const auto at = std::ranges::find_if(names, is_repository);
  if (at == names.end()) return !names.empty() && names.back() == "HEAD";
  static const RE2 kTrial("t[A-Za-z0-9]{6}");   // git's own "tXXXXXX"
  return !(names.end() - at == 2 && target == "testing" && RE2::FullMatch(names.back(), kTrial));
}

}  // namespace fbroker::broker::git
