// Programs under test, as a person would start them.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "policy/base/unique_fd.h"

namespace fbroker::test {

using namespace std::chrono_literals;

inline constexpr auto kPatience = std::chrono::seconds(60);  // for what must happen in the end

// Waits until `condition` holds; false when that took longer than `bound`.
bool wait_until(const std::function<bool()>& condition, std::chrono::milliseconds bound = kPatience);

// Where fbroker, fbroker-init and fbroker-fuse are, and the examples, for any
// user to run: FBROKER_TEST_STAGE (tests/run.sh copies them there, as a tree
// below /root or a closed home is no other user's), else the build's own.
std::string programs_directory();
std::string examples_directory();

struct As {
  std::string user;                           // "" = as we are
  std::map<std::string, std::string> environment;  // on top of a clean one
  std::string directory;                      // "" = ours
};

struct Output {
  int status = -1;      // exit status; 128 + signal when killed
  std::string out;      // standard output
  std::string err;      // standard error
};

// Runs a program to its end. Killed (status 137) after `bound`.
Output run(const std::vector<std::string>& argv, const As& as = {},
           std::chrono::seconds bound = std::chrono::seconds(120), const std::string& input = "");

// A program that runs beside the test; killed and reaped at the end.
class Process {
 public:
  static Process start(const std::vector<std::string>& argv, const As& as = {});
  Process(Process&& other) noexcept;
  ~Process();

  void write_line(const std::string& line);   // to its standard input
  void close_input();
  // Reads standard output until `text` has appeared; what came until then,
  // without it. Nothing when the output ended or `bound` passed.
  std::optional<std::string> read_until(const std::string& text,
                                        std::chrono::seconds bound = kPatience);
  std::string rest() const { return pending_; }  // read, but not yet asked for
  std::string errors() const;                 // standard error until now
  void signal(int number);
  int wait(std::chrono::seconds bound = kPatience);  // exit status as Output's
  pid_t pid() const { return pid_; }

 private:
  Process() = default;
  pid_t pid_ = -1;
  std::optional<int> status_;
  UniqueFd input_, output_;
  std::string pending_;
  std::string error_file_;
};

}  // namespace fbroker::test
