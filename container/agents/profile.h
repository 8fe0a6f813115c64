// Profile: what the sandbox shows, keeps, passes on and reaches for one agent.
//
// Data, out of JSON: shipped (builtin.h) or a person's own. A profile widens
// the sandbox by what stands in it and by nothing else.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "policy/base/result.h"

namespace fbroker::container::agents {

inline constexpr std::size_t kMaxProfileBytes = 64 * 1024;

// Where HOME is inside; profiles name it in values.
inline constexpr char kHomeInside[] = "/home/agent";
// Where its files of settings lie inside.
inline constexpr char kSettingsInside[] = "/etc/agent";

struct Program {
  std::vector<std::string> names;        // looked up in PATH, in this order
  std::vector<std::string> places;       // then these: "~/…" or absolute
  bool directory = false;                // the directory that it lies in is shown, whole
  std::optional<int> node;               // least major version, where Node runs it
  std::vector<std::string> arguments;    // before the person's own
};

struct Login {
  std::vector<std::string> files;        // HOME-relative; what --share-login copies
  std::vector<std::string> domains;
  std::string callback;                  // "127.0.0.1:1455", "" = none is needed
};

struct Profile {
  // Invariant: a lower-case letter, then letters, digits and "-": it names a
  //   directory of ours.
  std::string name;
  std::string title;
  std::string install;                   // the command, for a person
  Program program;
  // HOME-relative directories that are kept. Invariant: no "." or "..", none
  //   lies in another; every login file lies in one.
  std::vector<std::string> state;
  Login login;
  std::vector<std::string> pass;         // variables of the person's, by name
  std::vector<std::pair<std::string, std::string>> set;
  // Files of settings, read-only in kSettingsInside: name and JSON text. For
  // what no variable turns off.
  std::vector<std::pair<std::string, std::string>> settings;
  std::vector<std::string> domains;
  std::vector<std::string> notes;
  std::string origin;                    // the file it came from; "" = shipped
};

// `file`: for errors, and what must agree with the name in it ("claude.json").
// Errors: every one found, a line each: file, line, JSON pointer, what was expected.
Result<Profile> parse_profile(std::string_view text, const std::string& file);

// Why the sandbox's environment cannot have this variable from outside: a
// sentence's end ("is set by the sandbox"), "" = it can.
std::string why_no_variable(std::string_view name);

}  // namespace fbroker::container::agents
