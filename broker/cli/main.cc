// fbroker: the host's one program. Wiring only: each verb lies in a file of its own.
#include <fcntl.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "broker/cli/verbs.h"
#include "policy/words.h"

namespace {

// One that is closed would be the number of the next file that is opened, and
// what is said to stderr would be written into it.
void open_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd)
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) std::abort();
}

// Whether `word` was refused here as none of the verbs.
bool is_unknown_verb(const CLI::App& app, const std::string& word) {
  std::vector<std::string> verbs;
  for (const CLI::App* verb : app.get_subcommands({})) verbs.push_back(verb->get_name());
  if (word.starts_with('-') || std::find(verbs.begin(), verbs.end(), word) != verbs.end()) return false;
  std::vector<std::string_view> known;
  for (const CLI::App* verb : app.get_subcommands({}))
    if (!verb->get_group().empty()) known.push_back(verb->get_name());   // what --help lists
  const std::string near = fbroker::policy::nearest(word, known);
  std::fprintf(stderr, "fbroker: no verb is called %s%s; fbroker --help lists them\n",
               fbroker::policy::in_quotes(word).c_str(), near.empty() ? "" : ("; did you mean \"" + near + "\"?").c_str());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace fbroker::cli;
  open_standard_descriptors();
  int status = kYes;
  CLI::App app("fbroker: shows an agent in a sandbox exactly the files that you approve, and writes down "
               "every access");
  app.set_version_flag("--version", std::string("fbroker ") + FBROKER_VERSION);
  app.require_subcommand(1);
  app.footer("Exit status: 0 yes or done, 1 no, 2 usage or configuration, 3 no broker answers, 4 would be asked.");
  add_run(app, status);
  add_agents(app, status);
  add_serve(app, status);
  add_grants(app, status);
  add_check(app, status);
  add_status(app, status);
  add_policy(app, status);
  add_audit(app, status);
  add_keeper(app, status);
  if (argc > 1 && is_unknown_verb(app, argv[1])) return kUsage;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kYes : kUsage;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fbroker: %s\n", error.what());
    return kUsage;
  }
  return status;
}
