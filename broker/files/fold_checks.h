// FoldChecks: which directories below an export take "A" for "a".
//
// An export whose root folds case is refused at once. Deeper there may be a
// casefold directory (ext4, f2fs) or another mount; each directory is asked when
// it is first met. A directory that is made to fold later, while it is empty,
// is not noticed (chattr(1), +F).
#pragma once

#include <shared_mutex>
#include <unordered_map>

#include "broker/files/file_stat.h"
#include "broker/files/host_location.h"
#include "broker/handles/node_table.h"

namespace fbroker::broker {

// Threads: all members, any thread.
class FoldChecks {
 public:
  // `directory` may be open with O_PATH; `stat`: its own.
  Folding ask(int directory, const FileStat& stat);

 private:
  static constexpr std::size_t kMaxKnown = 65536;   // then all are asked anew

  std::shared_mutex mutex_;   // guards known_
  std::unordered_map<protocol::FileIdentity, Folding, IdentityHash> known_;
};

}  // namespace fbroker::broker
