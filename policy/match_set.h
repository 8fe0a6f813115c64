// MatchSet: the `match` rules' RE2 expressions, run together in bounded memory.
//
// An expression is matched against the whole path, as bytes (Latin1, dot_nl):
// "^" and "$" around it may be left out. Where `below` is asked for it also
// holds for everything below a path that it matches, as deny and ask do.
// Threads: const members from any thread (RE2 guards its own state cache).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "policy/base/result.h"

namespace fbroker::policy {

class MatchSet {
 public:
  MatchSet();
  ~MatchSet();
  MatchSet(MatchSet&&) noexcept;
  MatchSet& operator=(MatchSet&&) noexcept;

  // Errors: what is wrong with the expression.
  Result<std::size_t> add(std::string_view expression, bool below);
  // After the last add(), before the first find(). Errors: too large.
  Result<void> compile();

  bool empty() const noexcept;

  // Fills in the indexes of the expressions that match.
  // Errors: RE2 ran out of memory. INVARIANT: the caller denies.
  Result<void, Errno> find(std::string_view path, std::vector<int>& found) const;

  // Whether expression `index` could match something below the directory.
  // True when in doubt.
  bool may_match_below(std::size_t index, std::string_view directory) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbroker::policy
