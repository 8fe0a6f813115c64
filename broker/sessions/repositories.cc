#include "broker/sessions/repositories.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <climits>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string_view>

#include "policy/host_names.h"

namespace fbroker::broker {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxConfigBytes = 256 * 1024;

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

// git-config(1), "Syntax": quotes are left out, a backslash takes the next
// byte, a comment ends it.
std::string value_of(std::string_view text) {
  std::string value;
  bool quoted = false;
  std::size_t kept = 0;   // blanks at the end do not count outside of quotes
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') {
      quoted = !quoted;
      kept = value.size();
      continue;
    }
    if (!quoted && (text[i] == '#' || text[i] == ';')) break;
    if (text[i] == '\\' && i + 1 < text.size()) ++i;
    value += text[i];
    if (quoted || std::isspace(static_cast<unsigned char>(text[i])) == 0) kept = value.size();
  }
  value.resize(kept);
  return value;
}

// A small regular file, "" where there is none.
std::string text_at(const std::string& host_path) {
  const UniqueFd fd(::open(host_path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) return "";
  std::string text(kMaxConfigBytes, '\0');
  const ssize_t size = ::read(fd.get(), text.data(), text.size());
  text.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
  return text;
}

bool is_at_or_below(const std::string& path, const std::string& place) {
  return path.starts_with(place) && (path.size() == place.size() || place == "/" || path[place.size()] == '/');
}

std::string normal(const std::string& path) {
  std::string made = fs::path(path).lexically_normal().string();
  while (made.size() > 1 && made.back() == '/') made.pop_back();
  return made;
}

class Search {
 public:
  Search(const ExportTable& exports, std::string home, RepositoryBounds bounds)
      : exports_(exports), home_(std::move(home)), bounds_(bounds),
        until_(std::chrono::steady_clock::now() + bounds.time) {
    for (const std::string& file : {std::string("/etc/gitconfig"), home_ + "/.gitconfig", home_ + "/.config/git/config"}) {
      GitPaths found = git_paths_in(text_at(file));
      everywhere_.insert(everywhere_.end(), found.hooks.begin(), found.hooks.end());
    }
  }

  std::vector<policy::Rule> run() {
    std::deque<WorkspacePath> waiting;
    for (const auto& on : exports_.exports())
      if (!on->is_file()) waiting.push_back(on->at());
    for (; !waiting.empty() && !over(); waiting.pop_front()) look_into(waiting.front(), waiting);
    if (patterns_.empty()) return {};
    policy::Rule guard;
    guard.id = "base:git";
    guard.operations = {policy::Operation::write, policy::Operation::create, policy::Operation::delete_};
    guard.because = "git on the host would run it";
    guard.unless_created = true;
    guard.paths.assign(patterns_.begin(), patterns_.end());
    return {policy::always(guard), guard};
  }

 private:
  bool over() const {
    return visited_ > bounds_.visited || seen_.size() > bounds_.repositories ||
           std::chrono::steady_clock::now() > until_;
  }

  void look_into(const WorkspacePath& directory, std::deque<WorkspacePath>& waiting) {
    const Export* on = exports_.find(directory);
    if (on == nullptr) return;
    auto opened = on->open(directory, O_RDONLY | O_DIRECTORY);
    if (!opened) return;
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(opened->get()), &::closedir);
    if (!stream) return;
    (void)opened->release();
    const std::string top = on->host_path(directory);
    int parts = 0;   // of a repository
    while (const dirent* entry = ::readdir(stream.get())) {
      const auto path = directory.child(entry->d_name);
      if (!path) continue;   // "." and ".." too
      if (++visited_ > bounds_.visited) return;
      const std::string_view name(entry->d_name);
      parts += name == "HEAD" || name == "objects" || name == "refs" ? 1 : 0;
      if (name == ".git") dot_git(top, entry->d_type);
      else if (entry->d_type == DT_DIR && !name.ends_with(".git")) waiting.push_back(*path);
    }
    if (parts == 3) repository(top, top);
  }

  // `top`: the folder that has it, where git runs hooks.
  void dot_git(const std::string& top, unsigned char type) {
    const std::string at = top + "/.git";
    if (type == DT_DIR) return configurations(at, top);
    if (type == DT_LNK) {
      char target[PATH_MAX];
      const ssize_t size = ::readlink(at.c_str(), target, sizeof target);
      if (size > 0) repository(resolved(std::string(target, static_cast<std::size_t>(size)), top), top);
      return;
    }
    const std::string text = text_at(at);
    constexpr std::string_view kKey = "gitdir:";
    if (!text.starts_with(kKey)) return;
    repository(resolved(std::string(trimmed(std::string_view(text).substr(kKey.size()))), top), top);
  }

  void repository(const std::string& at, const std::string& top) {
    if (at.empty() || !seen_.insert(at).second) return;
    for (const char* part :
         {"/hooks", "/config", "/config.lock", "/config.worktree", "/config.worktree.lock", "/commondir",
          "/objects/info/alternates", "/modules/**/hooks", "/modules/**/config", "/modules/**/config.lock",
          "/modules/**/config.worktree", "/modules/**/commondir", "/worktrees/**/hooks", "/worktrees/**/config",
          "/worktrees/**/config.lock", "/worktrees/**/config.worktree", "/worktrees/**/commondir"})
      guard(at, part);
    configurations(at, top);
    const std::string common(trimmed(text_at(at + "/commondir")));
    if (!common.empty()) repository(resolved(common, at), top);
  }

  void configurations(const std::string& at, const std::string& top) {
    for (const std::string& hooks : everywhere_) guard(resolved(hooks, top));
    for (const char* name : {"/config", "/config.worktree"}) {
      const GitPaths found = git_paths_in(text_at(at + name));
      for (const std::string& hooks : found.hooks) guard(resolved(hooks, top));
      for (const std::string& file : found.includes) included(resolved(file, at), top, 0);
    }
  }

  void included(const std::string& file, const std::string& top, int depth) {
    if (file.empty() || depth > 8) return;
    guard(file);
    const GitPaths found = git_paths_in(text_at(file));
    for (const std::string& hooks : found.hooks) guard(resolved(hooks, top));
    for (const std::string& more : found.includes)
      included(resolved(more, fs::path(file).parent_path().string()), top, depth + 1);
  }

  std::string resolved(const std::string& written, const std::string& base) const {
    if (written.empty()) return "";
    if (written == "~" || written.starts_with("~/")) return normal(home_ + written.substr(1));
    return normal(written.starts_with('/') ? written : base + "/" + written);
  }

  // At every name under which the exports show it.
  void guard(const std::string& host_path, const std::string& below = "") {
    for (const auto& on : exports_.exports()) {
      const std::string root = on->host_path(on->at());
      // A hooksPath of "." or above: the whole tree; nothing could be written any more.
      if (host_path.empty() || host_path == root || !is_at_or_below(host_path, root)) {
        if (host_path != root || below.empty()) continue;
      }
      const std::string rest = host_path.substr(root == "/" ? 0 : root.size());
      const std::string at = on->at().is_root() ? "" : on->at().bytes();
      patterns_.insert(policy::literal_pattern(at + rest) + below);
    }
  }

  const ExportTable& exports_;
  const std::string home_;
  const RepositoryBounds bounds_;
  const std::chrono::steady_clock::time_point until_;
  std::vector<std::string> everywhere_;   // core.hooksPath of all repositories
  std::set<std::string> seen_, patterns_;
  std::size_t visited_ = 0;
};

}  // namespace

GitPaths git_paths_in(std::string_view config) {
  GitPaths found;
  std::string section;
  while (!config.empty()) {
    const std::size_t end = std::min(config.find('\n'), config.size());
    std::string_view line = trimmed(config.substr(0, end));
    config.remove_prefix(std::min(end + 1, config.size()));
    if (line.starts_with('[')) {
      const std::size_t close = std::min(line.find(']'), line.size());
      section = lower(line.substr(1, close - 1));
      section.resize(std::min(section.find_first_of(" \t\""), section.size()));
      line = trimmed(line.substr(std::min(close + 1, line.size())));
    }
    const std::size_t equals = line.find('=');
    if (equals == line.npos) continue;
    const std::string key = lower(trimmed(line.substr(0, equals)));
    const std::string value = value_of(trimmed(line.substr(equals + 1)));
    if (value.empty()) continue;
    if (section == "core" && key == "hookspath") found.hooks.push_back(value);
    if ((section == "include" || section == "includeif") && key == "path") found.includes.push_back(value);
  }
  return found;
}

std::vector<policy::Rule> guards_of_repositories(const ExportTable& exports, const std::string& home,
                                                 RepositoryBounds bounds) {
  return Search(exports, home, bounds).run();
}

}  // namespace fbroker::broker
