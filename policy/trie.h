// Trie: many globs compiled into one tree of components, walked along a path.
//
// A walk holds the set of nodes that the path so far has reached (an NFA's
// states). One step costs a hash look-up per state and a walk over the name's
// first and last bytes, whatever the number of patterns. The set is small: a
// node is reached only through its one parent, and only "**" stays reached.
//
// ATTACK: the agent chooses the paths. Nothing is cached from them, no lock is
//   taken and no memory outlives a walk; the number of states is bounded by
//   the policy's own patterns.
// Threads: const members from any thread, once the last add() is done.
#pragma once

#include <boost/container/small_vector.hpp>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "policy/glob.h"

namespace fbroker::policy {

using NodeId = std::uint32_t;

class Trie {
 public:
  static constexpr NodeId kRoot = 0;
  static constexpr NodeId kNone = ~NodeId{0};

  // Where a walk is. Sets without repetition; their order says nothing.
  struct States {
    boost::container::small_vector<NodeId, 12> passing;  // reached by the last component
    boost::container::small_vector<NodeId, 12> trees;    // "**": reached once, reached for ever
  };

  Trie() { nodes_.emplace_back(); }

  // The node that a path reaches exactly when it matches `glob`.
  NodeId add(const Glob& glob);

  std::size_t size() const noexcept { return nodes_.size(); }
  // The node it hangs below; kNone for the root. Parents have smaller ids.
  NodeId parent(NodeId node) const noexcept { return nodes_[node].parent; }

  // Enters the root. `visit(NodeId)` is called for every node newly reached.
  template <class Visit>
  void start(States& states, Visit&& visit) const {
    enter(kRoot, states, visit);
  }

  // Goes down by one name.
  template <class Visit>
  void step(States& states, std::string_view name, Visit&& visit) const {
    const auto before = std::exchange(states.passing, {});
    const std::size_t trees = states.trees.size();  // those reached now do not move yet
    const std::uint64_t hash = hash_of(name);
    for (const NodeId node : before) follow(node, name, hash, states, visit);
    for (std::size_t i = 0; i < trees; ++i) follow(states.trees[i], name, hash, states, visit);
  }

 private:
  struct Node {
    NodeId parent = kNone;
    NodeId any = kNone;       // child by "*"
    NodeId tree = kNone;      // child by "**"
    std::uint32_t heads = 0;  // where its globs begin in the byte tries, by
    std::uint32_t tails = 0;  //   first bytes, by last bytes; 0 = none
    bool literals = false;    // has children by name
    bool is_tree = false;

    bool leads_on() const { return literals || any != kNone || heads != 0 || tails != 0; }
  };
  struct Edge {
    NodeId parent;
    std::uint64_t hash;  // of the name
    std::string_view name;
    bool operator==(const Edge& other) const {
      return parent == other.parent && name == other.name;
    }
  };
  struct EdgeHash {
    using is_avalanching = void;
    std::size_t operator()(const Edge& edge) const noexcept { return mix(edge.hash ^ edge.parent); }
  };
  struct ByteHash {
    using is_avalanching = void;
    std::size_t operator()(std::uint64_t key) const noexcept { return mix(key); }
  };
  // A glob's child, found at the place in a byte trie that its literal first
  // (or last) bytes lead to.
  struct GlobEdge {
    GlobComponent glob;
    NodeId child;
  };

  static std::uint64_t mix(std::uint64_t x) noexcept {
    x *= 0x9e3779b97f4a7c15u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
  }
  static std::uint64_t hash_of(std::string_view name) noexcept {
    return std::hash<std::string_view>()(name);
  }

  NodeId new_node(NodeId parent);
  NodeId child(NodeId parent, const GlobComponent& component);
  NodeId literal_child(NodeId parent, const std::string& name);
  NodeId glob_child(NodeId parent, const GlobComponent& component);
  std::uint32_t byte_step(std::uint32_t place, unsigned char byte);

  template <class Visit>
  void enter(NodeId id, States& states, Visit& visit) const {
    const Node& node = nodes_[id];
    visit(id);
    if (node.leads_on()) states.passing.push_back(id);
    if (node.tree != kNone) enter_tree(node.tree, states, visit);
  }

  template <class Visit>
  void enter_tree(NodeId id, States& states, Visit& visit) const {
    for (const NodeId reached : states.trees)
      if (reached == id) return;
    states.trees.push_back(id);
    visit(id);
  }

  template <class Visit>
  void follow(NodeId id, std::string_view name, std::uint64_t hash, States& states,
              Visit& visit) const {
    const Node& node = nodes_[id];
    if (node.literals) {
      const auto found = literals_.find(Edge{id, hash, name});
      if (found != literals_.end()) enter(found->second, states, visit);
    }
    if (node.any != kNone) enter(node.any, states, visit);
    if (node.heads != 0) follow_globs(node.heads, name.begin(), name.end(), name, states, visit);
    if (node.tails != 0) follow_globs(node.tails, name.rbegin(), name.rend(), name, states, visit);
  }

  template <class Iterator, class Visit>
  void follow_globs(std::uint32_t place, Iterator at, Iterator end, std::string_view name,
                    States& states, Visit& visit) const {
    for (;; ++at) {
      for (const std::uint32_t index : globs_at_[place])
        if (globs_[index].glob.matches(name)) enter(globs_[index].child, states, visit);
      if (at == end) return;
      const auto next = bytes_.find(byte_key(place, static_cast<unsigned char>(*at)));
      if (next == bytes_.end()) return;
      place = next->second;
    }
  }

  static std::uint64_t byte_key(std::uint32_t place, unsigned char byte) {
    return std::uint64_t{place} << 8 | byte;
  }

  std::vector<Node> nodes_;
  std::deque<std::string> names_;  // what the edges' names point into
  boost::unordered_flat_map<Edge, NodeId, EdgeHash> literals_;
  std::vector<GlobEdge> globs_;
  boost::unordered_flat_map<std::uint64_t, std::uint32_t, ByteHash> bytes_;
  std::vector<std::vector<std::uint32_t>> globs_at_{1};  // place in a byte trie -> globs_
};

}  // namespace fbroker::policy
