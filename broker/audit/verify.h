// verify: is this log what was written, and nothing else?
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "broker/audit/chain.h"
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
  std::uint64_t waiting = 0;   // records a killed broker left in its ring, for the next one's start
  bool live = false;           // a broker is writing now
};

// Without `noted` a log that lost its newest records can look whole, as far as
// the directory's own note of the head was removed with them.
// Errors: the directory cannot be read.
Result<Verdict> verify(const std::string& directory, const std::optional<ChainHead>& noted = {});

// "SEQ:HASH", as verify prints it.
std::optional<ChainHead> parse_head(std::string_view text);

}  // namespace fbroker::audit
