#include "container/agents/resolve.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <sstream>

#include "container/agents/walk.h"
#include "container/host_root.h"
#include "container/preconditions.h"
#include "container/words.h"

namespace fbroker::container::agents {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostOfFirstLine = 512;
constexpr int kMostInterpreters = 4;

bool is_program(const std::string& path) {
  struct stat found {};
  return ::stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

std::string name_of(const std::string& path) { return fs::path(path).filename().string(); }
std::string directory_of(const std::string& path) { return fs::path(path).parent_path().string(); }

// pyenv, asdf, mise, volta: a program that asks its manager which one is meant.
// The manager and its settings are not shown, so it could not start inside.
bool is_shim(const std::string& path) {
  if (name_of(directory_of(path)) == "shims") return true;
  const auto walked = walk(path);
  return walked && name_of(walked->real) == "volta-shim";
}

// Calls `use` with each absolute entry until it returns true.
template <class Use>
void each_entry(std::string_view path, Use use) {
  while (!path.empty()) {
    const std::string_view one = path.substr(0, path.find(':'));
    path.remove_prefix(std::min(path.size(), one.size() + 1));
    if (one.starts_with('/') && use(std::string(one))) return;
  }
}

// Like find_in_path, past shims; the first of those goes to `shim`.
std::string find_real(const std::string& name, const std::string& path, std::string* shim) {
  std::string found;
  each_entry(path, [&](const std::string& directory) {
    const std::string candidate = (fs::path(directory) / name).string();
    if (!is_program(candidate)) return false;
    if (!is_shim(candidate)) return found = candidate, true;
    if (shim != nullptr && shim->empty()) *shim = candidate;
    return false;
  });
  return found;
}

std::string in_home(const std::string& place, const std::string& home) {
  return place.starts_with("~/") ? home + place.substr(1) : place;
}

// The first line of a script after "#!"; nothing for other programs.
std::optional<std::string> first_line(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC));
  char buffer[kMostOfFirstLine];
  const ssize_t size = fd ? ::read(fd.get(), buffer, sizeof buffer) : -1;
  const std::string_view text(buffer, size > 0 ? static_cast<std::size_t>(size) : 0);
  if (!text.starts_with("#!")) return std::nullopt;
  return std::string(text.substr(2, text.find('\n') == text.npos ? text.npos : text.find('\n') - 2));
}

// What a script's first line names: a path, or a name that env(1) looks up.
struct Interpreter {
  std::string word;
  bool looked_up = false;
};

Interpreter interpreter_in(const std::string& line) {
  std::istringstream words(line);
  Interpreter found;
  words >> found.word;
  if (name_of(found.word) != "env") return found;
  for (std::string word; words >> word;)
    if (!word.starts_with('-') && word.find('=') == word.npos) return {word, word.find('/') == word.npos};
  return found;
}

// The outermost directory of that name that holds it: packages are hoisted,
// and look each other up on the way to the root.
std::string outermost(const std::string& path, std::string_view name) {
  for (std::size_t at = 1; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    if (path.substr(at, end - at) == name && end < path.size()) return path.substr(0, end);
    at = end + 1;
  }
  return "";
}

// The Python environment that it lies in.
std::string environment_of(const std::string& path) {
  std::error_code error;
  for (fs::path at = fs::path(path).parent_path(); at.has_relative_path(); at = at.parent_path())
    if (fs::is_regular_file(at / "pyvenv.cfg", error)) return at.string();
  return "";
}

bool is_python(const std::string& path) { return name_of(path).starts_with("python"); }

// "v22.3.0" -> 22
std::optional<int> major_of(std::string_view version) {
  if (version.starts_with('v')) version.remove_prefix(1);
  int number = 0;
  const auto parsed = std::from_chars(version.data(), version.data() + version.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr == version.data() + version.size() || *parsed.ptr != '.') return std::nullopt;
  return number;
}

// One profile being resolved.
class Resolver {
 public:
  Resolver(const Profile& profile, const Person& person, const Forbidden& forbidden)
      : profile_(profile), person_(person), forbidden_(forbidden) {}

  Result<Resolved> run() {
    std::string shim;
    result_.found = find_program(profile_.program, person_, &shim);
    if (result_.found.empty()) return not_installed(shim);
    FBROKER_TRY(result_.program, follow(result_.found));
    FBROKER_TRY_VOID(show_program());
    FBROKER_TRY_VOID(add_interpreters(result_.program, 0));
    drop_links_inside();
    return std::move(result_);
  }

 private:
  std::string who() const { return "--agent " + profile_.name; }
  std::string shortly(const std::string& path) const { return printable(shortened(path, person_.home)); }

  Error not_installed(const std::string& shim) const {
    if (!shim.empty())
      return Error{who(), "only found as " + shortly(shim) + ", which a version manager's own files are needed for; "
                          "put the directory of the real program into PATH, or install it: " + profile_.install};
    return Error{who(), profile_.title + " is not installed: no " + profile_.program.names.front() +
                            " in PATH nor where it is usually put; install it: " + profile_.install};
  }

  // Where a path leads; its links are kept.
  // ATTACK: an agent that writes into the workspace puts a link there, in a
  //   directory that PATH names (node_modules/.bin), and what it points to,
  //   ~/.ssh/id_ed25519, would be shown to the next run. So no way may lead
  //   through a place where a sandbox writes.
  Result<std::string> follow(const std::string& path) {
    FBROKER_TRY(Walk walked, walk(path));
    for (const Symlink& link : walked.links) {
      if (system_shows(link.at)) continue;
      FBROKER_TRY_VOID(may_show(link.at));
      const auto same = [&](const Symlink& other) { return other.at == link.at; };
      if (std::none_of(result_.links.begin(), result_.links.end(), same)) result_.links.push_back(link);
    }
    if (!system_shows(walked.real)) FBROKER_TRY_VOID(may_show(walked.real));
    return walked.real;
  }

  Result<void> may_show(const std::string& path) const {
    std::string why = why_not_shown(path, forbidden_);
    // A link there would stand where the sandbox makes a directory.
    if (why.empty() && at_or_below(kHomeInside, path)) why = "stands where the sandbox has its own HOME";
    if (why.empty()) return ok;
    return Error{who(), shortly(path) + " " + why};
  }

  // Opens it as what it was found to be, through no link.
  Result<void> show(const std::string& path) {
    if (path.empty() || system_shows(path)) return ok;
    for (const Shown& other : result_.shown)
      if (other.directory ? at_or_below(path, other.path) : path == other.path) return ok;
    FBROKER_TRY_VOID(may_show(path));
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_NO_SYMLINKS;
    UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how)));
    struct stat found {};
    if (!fd || ::fstat(fd.get(), &found) < 0) return Error{who(), shortly(path) + ": " + std::strerror(errno)};
    if (!S_ISDIR(found.st_mode) && !S_ISREG(found.st_mode))
      return Error{who(), shortly(path) + " is neither a file nor a directory"};
    result_.shown.push_back({path, std::move(fd), S_ISDIR(found.st_mode)});
    return ok;
  }

  Result<void> show_program() {
    const std::string& program = result_.program;
    if (profile_.program.directory) return show(directory_of(program));
    if (const std::string modules = outermost(program, "node_modules"); !modules.empty()) return show(modules);
    if (const std::string environment = environment_of(program); !environment.empty()) return show_environment(environment);
    return show(program);
  }

  // The environment, and the Python that it was made from.
  Result<void> show_environment(const std::string& environment) {
    FBROKER_TRY_VOID(show(environment));
    FBROKER_TRY(const std::string python, follow(environment + "/bin/python"));
    if (system_shows(python)) return ok;
    return show(directory_of(directory_of(python)));
  }

  Result<void> add_interpreters(const std::string& script, int depth) {
    const auto line = first_line(script);
    if (!line) return ok;
    if (depth == kMostInterpreters) return Error{who(), shortly(script) + " is a script for a script for a script …"};
    const Interpreter wanted = interpreter_in(*line);
    std::string path = wanted.looked_up ? find_real(wanted.word, person_.path, nullptr) : wanted.word;
    if (!path.starts_with('/') || !is_program(path))
      return Error{who(), shortly(script) + " is a script for " + printable(wanted.word) +
                              ", which is not in PATH" + (wanted.word == "node" ? node_cure() : "")};
    FBROKER_TRY(const std::string real, follow(path));
    if (is_python(path)) return add_python(script, path, real);
    if (name_of(path) == "node") FBROKER_TRY_VOID(check_node(path, real));
    FBROKER_TRY_VOID(show(real));
    // env(1) looks it up anew inside.
    if (wanted.looked_up && find_in_path(wanted.word, kSystemPath) != path) add_to_path(directory_of(path));
    return add_interpreters(real, depth + 1);
  }

  Result<void> add_python(const std::string& script, const std::string& path, const std::string& real) {
    if (const std::string environment = environment_of(path); !environment.empty()) return show_environment(environment);
    if (!system_shows(real)) return show(directory_of(directory_of(real)));
    if (system_shows(script) || !environment_of(script).empty()) return ok;
    return Error{who(), shortly(script) + " belongs to no Python environment: its modules lie in ~/.local/lib, which "
                                          "the sandbox does not show; " + profile_.install};
  }

  Result<void> check_node(const std::string& path, const std::string& real) const {
    if (!profile_.program.node) return ok;
    // Its place was checked before: it is run as the person, outside.
    std::string version = output_of(real, "--version");
    version.resize(std::min(version.find_first_of("\r\n"), version.size()));
    const auto major = major_of(version);
    if (major && *major >= *profile_.program.node) return ok;
    return Error{who(), profile_.title + " needs Node " + std::to_string(*profile_.program.node) + " or newer; " +
                            shortly(path) + " is " + (major ? printable(version) : "none that tells its version") + node_cure()};
  }

  static std::string node_cure() {
    return ". A newer one must come first in PATH: the npm package `node` has one (npm install -g node), nvm too (nvm install 22)";
  }

  void add_to_path(const std::string& directory) {
    auto& programs = result_.programs;
    if (std::find(programs.begin(), programs.end(), directory) == programs.end()) programs.push_back(directory);
  }

  // Those are there with what holds them.
  void drop_links_inside() {
    std::erase_if(result_.links, [&](const Symlink& link) {
      return std::any_of(result_.shown.begin(), result_.shown.end(),
                         [&](const Shown& one) { return one.directory && at_or_below(link.at, one.path); });
    });
  }

  const Profile& profile_;
  const Person& person_;
  const Forbidden& forbidden_;
  Resolved result_;
};

}  // namespace

std::string find_in_path(const std::string& name, const std::string& path) {
  std::string found;
  each_entry(path, [&](const std::string& directory) {
    const std::string candidate = (fs::path(directory) / name).string();
    return is_program(candidate) ? (found = candidate, true) : false;
  });
  return found;
}

std::string find_program(const Program& program, const Person& person, std::string* shim) {
  for (const std::string& name : program.names)
    if (std::string found = find_real(name, person.path, shim); !found.empty()) return found;
  for (const std::string& place : program.places)
    if (std::string path = in_home(place, person.home); path.starts_with('/') && is_program(path)) return path;
  return "";
}

Result<Resolved> resolve(const Profile& profile, const Person& person, const Forbidden& forbidden) {
  return Resolver(profile, person, forbidden).run();
}

}  // namespace fbroker::container::agents
