#include "tests/support/agent_session.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace fbroker::test {

namespace fs = std::filesystem;

namespace {

std::string program() { return programs_directory() + "/fbroker"; }

}  // namespace

Home::Home(const std::string& user) : user_(user) {
  std::string name = "/tmp/fbroker-home-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
  path_ = name;
  project_ = path_ / "project";
  for (const char* part : {"project", "run", "state", "tmp"}) fs::create_directory(path_ / part);
  fs::permissions(path_ / "run", fs::perms::owner_all);
  if (!user_.empty()) {
    const passwd* entry = ::getpwnam(user_.c_str());
    if (entry == nullptr) throw std::runtime_error("no user " + user_ + ": tests/run.sh makes it");
    for (const fs::path& part : {path_, project_, path_ / "run", path_ / "state", path_ / "tmp"})
      if (::chown(part.c_str(), entry->pw_uid, entry->pw_gid) != 0) throw std::runtime_error("chown");
  }
}

Home::~Home() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

fs::path Home::audit_dir(const std::string& session) const {
  return path_ / "state" / "fbroker" / session / "audit";
}

As Home::as() const {
  return As{.user = user_,
            .environment = {{"HOME", path_.string()},
                            {"XDG_RUNTIME_DIR", (path_ / "run").string()},
                            {"XDG_STATE_HOME", (path_ / "state").string()},
                            {"TERM", "xterm"}},
            .directory = project_.string()};
}

Output Home::fbroker(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), program());
  return run(arguments, as());
}

Output Home::shell(const std::string& script) const {
  return run({"/bin/bash", "-euc", script}, as());
}

void Home::write(const std::string& name, const std::string& content) const {
  const Output output = run({"/bin/bash", "-euc", "mkdir -p -- \"$(dirname -- \"$1\")\"; cat > \"$1\"", "-", name},
                            as(), std::chrono::seconds(20), content);
  if (output.status != 0) throw std::runtime_error("write " + name + ": " + output.err);
}

std::string Way::name() const {
  const std::string who = !user.empty() ? "ordinary" : ::getuid() == 0 ? "root" : "self";
  return who + "_" + transport;
}

std::vector<Way> Way::over(const std::string& transport) {
  std::vector<Way> ways{{"", transport}};
  if (::getuid() == 0) ways.push_back({"fbroker-test", transport});
  return ways;
}

std::vector<Way> Way::all() {
  std::vector<Way> ways = over("device");
  for (Way& way : over("http")) ways.push_back(std::move(way));
  return ways;
}

AgentShell::AgentShell(const Home& home, const std::string& session, std::vector<std::string> options)
    : process_([&] {
        std::vector<std::string> argv{program(), "run", "--name", session};
        argv.insert(argv.end(), options.begin(), options.end());
        argv.insert(argv.end(), {"--", "/bin/bash"});
        return Process::start(argv, home.as());
      }()) {}

AgentShell::Answer AgentShell::operator()(const std::string& command, std::chrono::seconds bound) {
  static int count = 0;
  const std::string mark = "=end-of-" + std::to_string(++count) + "=";
  process_.write_line("{ " + command + "\n} 2>&1; echo \"" + mark + "$?=\"");
  auto out = process_.read_until(mark, bound);
  if (!out) return {-1, process_.rest() + "\n[stderr] " + process_.errors()};
  const auto status = process_.read_until("=\n", bound);
  return {status ? std::atoi(status->c_str()) : -1, *out};
}

int AgentShell::finish() {
  process_.close_input();
  return process_.wait();
}

}  // namespace fbroker::test
