// Maintenance: one thread for what happens by itself: grants expire, grants for
// one open are used up, policy files change, launchers die.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

class Registry;

// Threads: all members, any thread. Its own thread takes sessions' turns.
class Maintenance {
 public:
  static Result<std::unique_ptr<Maintenance>> start(Registry& registry);
  ~Maintenance();

  // Something changed (a grant with a time, a session): look again.
  void wake();
  void used(std::string session, std::string grant);
  // Watches the file's directory: editors replace files. Errors are told by
  // the result; SIGHUP works all the same.
  Result<void> watch_policy(const std::string& path);

 private:
  Maintenance(Registry& registry, UniqueFd wake, UniqueFd watch);
  void run();
  int milliseconds_to_next() const;
  void end_what_is_over();
  bool policies_changed();

  Registry& registry_;
  UniqueFd wake_;      // eventfd
  UniqueFd watch_;     // inotify
  std::mutex mutex_;   // guards used_, watched_, stop_; no other is taken below it
  std::vector<std::pair<std::string, std::string>> used_;
  std::map<int, std::vector<std::string>> watched_;  // inotify watch -> file names
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace fbroker::broker
