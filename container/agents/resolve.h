// Resolve: from an agent's name to the files that it is made of.
//
// A program on a person's machine is seldom one file: a link in ~/.local/bin,
// a script for a Node out of nvm, a tree of node_modules, a Python
// environment whose interpreter lies elsewhere. What is found here is shown
// read-only, each thing at its own path, and as little as will do.
#pragma once

#include <string>
#include <vector>

#include "container/agents/profile.h"
#include "container/spec.h"
#include "container/tools.h"
#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::container::agents {

// Whose program is meant: what their shell would find.
struct Person {
  std::string path;   // PATH; only its absolute entries count
  std::string home;
};

// One thing that is shown.
struct Shown {
  std::string path;   // canonical
  UniqueFd fd;        // O_PATH: what was checked is what is mounted
  bool directory = false;
};

struct Resolved {
  std::string found;                   // as the person's shell names it
  std::string program;                 // canonical: what is run inside
  std::vector<Shown> shown;            // none: the system shows it already
  std::vector<Symlink> links;          // that lie in nothing shown: made anew inside
  std::vector<std::string> programs;   // what comes first in PATH
};

// The first of a profile's names and places that there is. "" = none; then
// `shim` may tell of one that only a version manager can start.
std::string find_program(const Program& program, const Person& person, std::string* shim = nullptr);

// The program and all that it needs. Opens everything; runs nothing but
// `node --version`, and that only after Node's place was found to be no workspace.
// Errors: not installed (and how it is), not to be shown (and why), too old a Node.
Result<Resolved> resolve(const Profile& profile, const Person& person, const Forbidden& forbidden);

// A program of this name in a PATH; "" = none. Empty and relative entries do not count.
std::string find_in_path(const std::string& name, const std::string& path);

}  // namespace fbroker::container::agents
