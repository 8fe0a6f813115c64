// The policy's vocabulary: plain data, no behaviour beyond bit sets.
// Enumerators that reach the wire are spelled there as here (delete_ as "delete").
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/base/workspace_path.h"

namespace fbroker::policy {

// Strictest first: the smaller one wins.
enum class Effect : std::uint8_t { deny, ask, allow };

enum class Operation : std::uint8_t { list, read, write, create, delete_, execute };
inline constexpr std::size_t kOperations = 6;

std::string_view name_of(Effect effect) noexcept;
std::string_view name_of(Operation operation) noexcept;
std::optional<Operation> operation_named(std::string_view name) noexcept;

// A set of operations, six bits.
class OperationSet {
 public:
  constexpr OperationSet() = default;
  constexpr OperationSet(std::initializer_list<Operation> operations) {
    for (Operation operation : operations) add(operation);
  }
  static constexpr OperationSet all() {
    OperationSet set;
    set.bits_ = (1u << kOperations) - 1;
    return set;
  }
  constexpr OperationSet& add(Operation operation) {
    bits_ = static_cast<std::uint8_t>(bits_ | 1u << static_cast<unsigned>(operation));
    return *this;
  }
  constexpr bool has(Operation operation) const {
    return (bits_ >> static_cast<unsigned>(operation) & 1u) != 0;
  }
  constexpr bool has_all(OperationSet other) const { return (other.bits_ & ~bits_) == 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr std::uint8_t bits() const { return bits_; }
  friend constexpr OperationSet operator|(OperationSet a, OperationSet b) {
    OperationSet set;
    set.bits_ = static_cast<std::uint8_t>(a.bits_ | b.bits_);
    return set;
  }
  friend constexpr OperationSet operator-(OperationSet a, OperationSet b) {
    OperationSet set;
    set.bits_ = static_cast<std::uint8_t>(a.bits_ & ~b.bits_);
    return set;
  }
  friend constexpr bool operator==(OperationSet, OperationSet) = default;

 private:
  std::uint8_t bits_ = 0;
};

// When a change is answered: as soon as its record survives the broker
// (normal), or only when it would survive a power loss too (strict).
enum class Durability : std::uint8_t { normal, strict };
std::string_view name_of(Durability durability) noexcept;

// What a level name means. For `allow` the levels widen: list < read < write;
// for `deny` and `ask` "read" leaves the name visible and "all" hides it.
std::optional<OperationSet> level_of(Effect effect, std::string_view level) noexcept;

// One host directory (or file) placed at a workspace path.
struct Export {
  WorkspacePath at;
  std::string from;          // as written: relative to the run's root, "~/…" or absolute
  bool submounts = false;    // whether mounts below `from` are shown
  bool static_content = false;  // "static": the host never changes it
  bool agent_is_only_writer = false;  // "writer": "agent"
};

// Which rules a layer's text became. `id` names the rule wherever a decision
// is explained: "base:env", "policy:/rules/3", ….
struct Rule {
  std::string id;
  Effect effect = Effect::deny;
  OperationSet operations;
  std::vector<std::string> paths;     // globs, checked by compile()
  std::vector<std::string> except;    // globs
  std::optional<std::string> match;   // RE2 over the whole path
  std::vector<std::string> match_except;
  std::string because;
  // A guard: holds only for what this session did not itself create.
  bool unless_created = false;
};

// A live entry made by a person (a grant), or by a revoke that had to overrule
// a rule (a session deny). Later entries overrule earlier ones: `order` counts
// up. A grant lifts `ask` and the default; a rule's deny only with override_deny.
struct Grant {
  std::string id;                     // "g1", "g2", … ; denies "r1", …
  Effect effect = Effect::allow;      // allow = grant, deny = session deny
  WorkspacePath path;                 // holds for it and everything below
  OperationSet operations;
  bool override_deny = false;
  std::uint64_t order = 0;
  std::optional<std::chrono::system_clock::time_point> expires;
  bool once = false;                  // ends with the first open that needed it
  std::string because;
};

}  // namespace fbroker::policy
