// Snapshot: what the policy says, compiled, immutable, with a generation.
//
// Pure: no disk, no clock, no network. Grants whose time is over are left out
// by whoever compiles the next one.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "policy/model.h"

namespace fbroker::policy {

// Facts about a path that only the broker knows.
struct Facts {
  // The session itself made this path, or a directory above it. Lifts guards.
  bool created_by_session = false;
};

// What a snapshot says of one path, for all operations at once.
struct PathDecision {
  struct Entry {
    Effect effect = Effect::deny;
    std::uint32_t reason = 0;        // index for Snapshot::reason; 0 = "default"
    bool guard = false;              // denied by a guard alone: worth asking again
                                     // with created_by_session
  };
  std::array<Entry, kOperations> entries{};
  // Something below may be listed, so this directory can be traversed and
  // listed although `list` on it is not itself allowed (showing only what is
  // itself visible).
  bool leads_to_visible = false;

  const Entry& of(Operation operation) const {
    return entries[static_cast<std::size_t>(operation)];
  }
  bool allows(Operation operation) const { return of(operation).effect == Effect::allow; }
  // Whether the name may exist for the agent, as far as a path alone can tell.
  bool visible() const { return allows(Operation::list) || leads_to_visible; }
  // The same once it is known what the name is. Only a directory leads on:
  // under "**/*.md" every name does by its path, and a file that is none of
  // those must not show.
  bool visible_as(bool directory) const {
    return allows(Operation::list) || (directory && leads_to_visible);
  }
};

// Why: the rule or grant behind a reason index.
struct Reason {
  std::string_view id;               // "default", "base:env", "policy:/rules/0", "g3"
  std::string_view because;          // the rule's own words, "" = none
};

struct SnapshotInput {
  std::vector<Rule> rules;           // base and policy, in any order
  std::vector<Grant> grants;         // grants and session denies
  std::uint64_t generation = 1;
};

// Threads: immutable after compile(); every member is const and safe from any thread.
class Snapshot {
 public:
  // Errors: a pattern that does not compile (`where` = the rule's id and pattern).
  static Result<std::shared_ptr<const Snapshot>> compile(SnapshotInput input);
  ~Snapshot();

  std::uint64_t generation() const noexcept;

  // Cost: a step per component, whatever the number of rules.
  PathDecision decide(const WorkspacePath& path, Facts facts = {}) const;

  Reason reason(std::uint32_t index) const;

  // A rename or link must never change what the policy says of a file, now or
  // when a grant has ended: true
  // when something at or below `to` would be allowed that is not allowed at the
  // same place below `from`. `directory`: compare the trie states of both, not
  // only the two paths; `match` rules that could differ count as differing. A
  // directory may not come under a guard either, although guards only restrict.
  bool would_widen(const WorkspacePath& from, const WorkspacePath& to, bool directory,
                   Facts from_facts, Facts to_facts) const;

  // The grants it was compiled with.
  std::span<const Grant> grants() const noexcept;

 private:
  struct Impl;
  explicit Snapshot(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
  std::shared_ptr<const Snapshot> lasting_;   // what holds without the grants; none: there are none
};

// A node's or handle's decision with the generation it belongs to. A known
// node costs one integer compare.
// Threads: none; its owner serialises.
class CachedDecision {
 public:
  const PathDecision& get(const Snapshot& snapshot, const WorkspacePath& path, Facts facts) {
    if (generation_ != snapshot.generation() || facts.created_by_session != facts_.created_by_session) {
      decision_ = snapshot.decide(path, facts);
      generation_ = snapshot.generation();
      facts_ = facts;
    }
    return decision_;
  }
  void forget() noexcept { generation_ = 0; }

 private:
  std::uint64_t generation_ = 0;   // snapshots count from 1
  Facts facts_;
  PathDecision decision_;
};

}  // namespace fbroker::policy
