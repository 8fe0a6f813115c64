// Which existing files the policy hides: told at a session's start, so that
// nobody wonders later why the agent cannot find one.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "broker/sessions/view.h"
#include "policy/base/workspace_path.h"

namespace fbroker::broker {

struct HiddenFiles {
  std::vector<WorkspacePath> first;   // up to `named`, in the order of the walk
  std::uint64_t count = 0;            // all that were found
  bool complete = true;               // false: a bound ended the walk
};

struct HiddenBounds {
  std::size_t named = 20;
  std::size_t visited = 20'000;                   // names looked at
  std::chrono::milliseconds time{300};
};

// Walks the exports, breadth first. A hidden directory counts as one and is
// not entered; .git is not entered either.
HiddenFiles find_hidden(const View& view, HiddenBounds bounds = {});

}  // namespace fbroker::broker
