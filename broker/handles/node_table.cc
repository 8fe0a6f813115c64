#include "broker/handles/node_table.h"

#include <algorithm>

namespace fbroker::broker {

namespace {
// So few that they stay in the processor's cache: most files are open for a moment only.
constexpr std::size_t kFewNodes = 128;
}  // namespace

std::size_t IdentityHash::operator()(const protocol::FileIdentity& identity) const noexcept {
  return std::hash<std::uint64_t>()(identity.inode ^ identity.device << 48 ^
                                    static_cast<std::uint64_t>(identity.birth_ns) << 20);
}

std::shared_ptr<Node> NodeTable::node(const protocol::FileIdentity& identity) {
  const std::lock_guard lock(mutex_);
  if (nodes_.size() >= sweep_at_) {
    std::erase_if(nodes_, [](const auto& entry) { return entry.second.expired(); });
    sweep_at_ = std::max<std::size_t>(kFewNodes, nodes_.size() * 2);
  }
  std::weak_ptr<Node>& known = nodes_[identity];
  if (auto node = known.lock()) return node;
  auto node = std::shared_ptr<Node>(new Node{identity, {}});
  known = node;
  return node;
}

std::size_t NodeTable::size() const {
  const std::lock_guard lock(mutex_);
  return nodes_.size();
}

}  // namespace fbroker::broker
