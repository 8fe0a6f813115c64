#include "policy/trie.h"

namespace fbroker::policy {

NodeId Trie::add(const Glob& glob) {
  NodeId node = kRoot;
  for (const GlobComponent& component : glob.components) node = child(node, component);
  return node;
}

NodeId Trie::new_node(NodeId parent) {
  nodes_.emplace_back().parent = parent;
  return static_cast<NodeId>(nodes_.size() - 1);
}

NodeId Trie::child(NodeId parent, const GlobComponent& component) {
  using enum GlobComponent::Kind;
  switch (component.kind) {
    case literal: return literal_child(parent, component.text);
    case wild: return glob_child(parent, component);
    case any: {
      if (nodes_[parent].any == kNone) {
        const NodeId made = new_node(parent);
        nodes_[parent].any = made;
      }
      return nodes_[parent].any;
    }
    case tree: {
      if (nodes_[parent].tree == kNone) {
        const NodeId made = new_node(parent);
        nodes_[made].is_tree = true;
        nodes_[parent].tree = made;
      }
      return nodes_[parent].tree;
    }
  }
  return parent;
}

NodeId Trie::literal_child(NodeId parent, const std::string& name) {
  const auto found = literals_.find(Edge{parent, hash_of(name), name});
  if (found != literals_.end()) return found->second;
  const NodeId made = new_node(parent);
  const std::string& kept = names_.emplace_back(name);
  literals_.emplace(Edge{parent, hash_of(kept), kept}, made);
  nodes_[parent].literals = true;
  return made;
}

// The longer of the literal bytes before and after the wildcards says where
// the glob is looked for, so that ten thousand "*.ext" cost what one costs.
NodeId Trie::glob_child(NodeId parent, const GlobComponent& component) {
  const bool by_head = component.prefix.size() > component.suffix.size();
  std::uint32_t place = by_head ? nodes_[parent].heads : nodes_[parent].tails;
  if (place == 0) {
    place = static_cast<std::uint32_t>(globs_at_.size());
    globs_at_.emplace_back();
    (by_head ? nodes_[parent].heads : nodes_[parent].tails) = place;
  }
  if (by_head) {
    for (const char byte : component.prefix)
      place = byte_step(place, static_cast<unsigned char>(byte));
  } else {
    for (auto byte = component.suffix.rbegin(); byte != component.suffix.rend(); ++byte)
      place = byte_step(place, static_cast<unsigned char>(*byte));
  }
  for (const std::uint32_t index : globs_at_[place])
    if (globs_[index].glob.text == component.text) return globs_[index].child;
  const NodeId made = new_node(parent);
  globs_at_[place].push_back(static_cast<std::uint32_t>(globs_.size()));
  globs_.push_back({component, made});
  return made;
}

std::uint32_t Trie::byte_step(std::uint32_t place, unsigned char byte) {
  const auto [at, made] =
      bytes_.try_emplace(byte_key(place, byte), static_cast<std::uint32_t>(globs_at_.size()));
  if (made) globs_at_.emplace_back();
  return at->second;
}

}  // namespace fbroker::policy
