// fbroker keeper: started by the broker, for descriptors that outlive it
// (broker/device/keeper.h). No person's verb: not in --help.
#include <fcntl.h>

#include <cstdio>
#include <memory>

#include "broker/cli/verbs.h"
#include "broker/device/keeper_process.h"

namespace fbroker::cli {

namespace {

struct KeeperWords {
  int socket = -1;
  std::int64_t grace_ms = 0, files_ms = 0, check_ms = 0;
  std::size_t max_kept = 0;
};

int keep(const KeeperWords& words) {
  broker::KeeperProcessOptions options;
  if (words.grace_ms > 0) options.grace = std::chrono::milliseconds(words.grace_ms);
  if (words.files_ms > 0) options.files_alone = std::chrono::milliseconds(words.files_ms);
  if (words.check_ms > 0) options.device_check = std::chrono::milliseconds(words.check_ms);
  if (words.max_kept > 0) options.max_kept = std::min(words.max_kept, broker::kMaxKept);
  if (!broker::run_keeper(words.socket, options))
    std::fprintf(stderr, "fbroker keeper: is started by the broker; --socket-fd is no listening socket of one\n");
  return kUsage;
}

}  // namespace

void add_keeper(CLI::App& app, int& status) {
  auto words = std::make_shared<KeeperWords>();
  CLI::App* verb = app.add_subcommand("keeper", "Started by the broker: keeps descriptors while it is restarted");
  verb->group("");   // hidden
  verb->add_option("--socket-fd", words->socket)->required();
  verb->add_option("--grace-ms", words->grace_ms)->check(CLI::Range(1, 3'600'000));
  verb->add_option("--files-alone-ms", words->files_ms)->check(CLI::Range(1, 86'400'000));
  verb->add_option("--device-check-ms", words->check_ms)->check(CLI::Range(1, 3'600'000));
  verb->add_option("--max-kept", words->max_kept);
  verb->callback([words, &status] { status = keep(*words); });
}

}  // namespace fbroker::cli
