// An agent's session as a person has it: a project directory, `fbroker run --
// bash` in it, and the other terminal in which grants are made.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace fbroker::test {

// A user's machine in a folder of its own: HOME, runtime and state directory
// and a project. Removed at the end.
class Home {
 public:
  explicit Home(const std::string& user);  // "" = the user we are
  ~Home();

  const std::filesystem::path& project() const { return project_; }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path audit_dir(const std::string& session) const;
  As as() const;

  // As the user, in the project directory.
  Output fbroker(std::vector<std::string> arguments) const;
  Output shell(const std::string& script) const;
  // Creates missing directories; the file belongs to the user.
  void write(const std::string& name, const std::string& content) const;

 private:
  std::string user_;
  std::filesystem::path path_, project_;
};

// Who runs `fbroker run`, and how its workspace is served: for tests that must
// be green for everybody and every way.
struct Way {
  std::string user;        // "" = the one we are
  std::string transport;   // "device" or "http"

  std::vector<std::string> options() const { return {"--transport", transport}; }
  // "root_device": of a parameterised test.
  std::string name() const;
  static std::vector<Way> all();
  // As all(), over one transport.
  static std::vector<Way> over(const std::string& transport);
};

// A shell in the sandbox that takes one command after another.
class AgentShell {
 public:
  // `options` are those of `fbroker run`.
  AgentShell(const Home& home, const std::string& session, std::vector<std::string> options = {});

  struct Answer {
    int status = -1;    // the command's; -1: the shell gave no answer
    std::string out;    // standard output and error
  };
  Answer operator()(const std::string& command, std::chrono::seconds bound = kPatience);
  int finish();         // ends the shell; exit status of `fbroker run`
  std::string errors() const { return process_.errors(); }
  Process& process() { return process_; }

 private:
  Process process_;
};

}  // namespace fbroker::test
