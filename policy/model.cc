#include "policy/model.h"

#include <algorithm>

namespace fbroker::policy {
namespace {

constexpr std::array<std::string_view, kOperations> kOperationNames{
    "list", "read", "write", "create", "delete", "execute"};

struct Level {
  std::string_view name;
  OperationSet operations;
};

using enum Operation;

// `allow` widens from level to level; a permission to write a file that cannot
// be seen or read would only surprise.
constexpr std::array kAllowLevels{
    Level{"list", {list}},
    Level{"read", {list, read, execute}},
    Level{"write", {list, read, execute, write, create, delete_}},
};

// `deny` and `ask` take away one kind of thing; "read" leaves the name visible.
constexpr std::array kStrictLevels{
    Level{"read", {read, execute}},
    Level{"write", {write, create, delete_}},
    Level{"all", OperationSet::all()},
};

std::optional<OperationSet> find(const auto& levels, std::string_view name) {
  for (const Level& level : levels)
    if (level.name == name) return level.operations;
  return std::nullopt;
}

}  // namespace

std::string_view name_of(Effect effect) noexcept {
  switch (effect) {
    case Effect::deny: return "deny";
    case Effect::ask: return "ask";
    case Effect::allow: return "allow";
  }
  return "deny";
}

std::string_view name_of(Durability durability) noexcept {
  return durability == Durability::strict ? "strict" : "normal";
}

std::string_view name_of(Operation operation) noexcept {
  return kOperationNames[static_cast<std::size_t>(operation)];
}

std::optional<Operation> operation_named(std::string_view name) noexcept {
  const auto found = std::ranges::find(kOperationNames, name);
  if (found == kOperationNames.end()) return std::nullopt;
  return static_cast<Operation>(found - kOperationNames.begin());
}

std::optional<OperationSet> level_of(Effect effect, std::string_view level) noexcept {
  return effect == Effect::allow ? find(kAllowLevels, level) : find(kStrictLevels, level);
}

}  // namespace fbroker::policy
