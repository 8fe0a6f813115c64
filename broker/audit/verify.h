// verify: is this log what was written, and nothing else?
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "broker/audit/chain.h"
#include "broker/audit/signing.h"
#include "policy/base/result.h"

namespace fbroker::audit {

struct Verdict {
  struct Bad {
    std::string file;          // segment
    std::uint64_t line = 0;    // in it, from 1; 0 = the file as a whole
    std::uint64_t sequence = 0;  // of the record concerned, as far as it can be told; 0 = unknown
    std::string what;          // for a person
  };
  std::optional<Bad> bad;      // the first; none = the log is whole
  ChainHead head;              // the last record that is right, with all before it
  std::uint64_t records = 0;   // up to there
  std::uint64_t checkpoints = 0;       // among them; with a key, all of them signed by it
  std::uint64_t after_checkpoint = 0;  // records after the last of them, or all
  std::uint64_t waiting = 0;   // records a killed broker left in its ring, for the next one's start
  bool live = false;           // a broker is writing now
};

// What is known of the log from elsewhere. Without a head a log that lost its
// newest records can look whole, as far as the directory's own note of it was
// removed with them; without a key, one that was written anew.
struct Known {
  std::optional<ChainHead> noted = {};    // as somebody wrote it down
  std::optional<ChainHead> signed_head = {};  // of a file that read_signed_head() accepted
  const PublicKey* key = nullptr;         // none: signatures are not looked at
};

// Precondition: `known` was read before. Errors: the directory cannot be read.
Result<Verdict> verify(const std::string& directory, const Known& known = {});

}  // namespace fbroker::audit
