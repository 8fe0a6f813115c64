#include "broker/sessions/sandbox.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

namespace fbroker::broker {

namespace {

// Of /proc/PID/status, which shows it of processes that are not dumpable too.
struct Place {
  pid_t parent = 0;
  std::string levels;   // of PID namespaces, a mark each
  std::string innermost;   // its number there
};

Place place_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  Place place;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key, number;
    words >> key;
    if (key == "PPid:") words >> place.parent;
    if (key == "NSpid:")
      while (words >> number) {
        place.levels += '.';
        place.innermost = number;
      }
  }
  return place;
}

}  // namespace

Result<Sandbox> Sandbox::open(pid_t pid, std::uint64_t started) {
  const std::string name = "pid " + std::to_string(pid);
  if (pid <= 1 || pid == ::getpid() || pid == ::getppid())
    return Error{name, "cannot be a sandbox"};
  FBROKER_TRY(HostProcess process, HostProcess::open(pid, started));
  // May we kill it? Asked now, not when it matters.
  if (const auto may = process.signal(0); !may)
    return Error{name, std::string("cannot be killed by us: ") + std::strerror(may.error().value)};
  return Sandbox(std::move(process));
}

bool Sandbox::is_first_of_its_own(pid_t pid) {
  if (pid <= 1) return false;
  const Place place = place_of(pid);
  return place.levels.size() > 1 && place.innermost == "1";
}

bool Sandbox::kill(std::chrono::milliseconds bound) const {
  (void)process_.signal(SIGKILL);
  return process_.wait_gone(bound);
}

bool Sandbox::is_file_service(pid_t pid) const {
  if (pid <= 1) return false;
  const Place one = place_of(pid);
  return one.parent == process_.pid() && !one.levels.empty() && one.levels == place_of(process_.pid()).levels &&
         process_.alive();  // last: the number was the sandbox's all the while
}

// fbroker-init has one thread, so these are all its children.
bool Sandbox::has_file_service() const {
  const std::string pid = std::to_string(process_.pid());
  std::ifstream file("/proc/" + pid + "/task/" + pid + "/children");
  for (pid_t child = 0; file >> child;)
    if (is_file_service(child)) return true;
  return false;
}

}  // namespace fbroker::broker
