#include "broker/fuse/inode_table.h"

#include <algorithm>
#include <limits>
#include <optional>

namespace fbroker::fuse {

using protocol::Attributes;
using protocol::FileIdentity;
using protocol::FileType;
using protocol::Lifetime;

namespace {

// No path has more components than this; a longer chain of parents is none.
constexpr std::size_t kMaxDepth = kMaxPathBytes / 2 + 1;

std::int64_t nanoseconds(const timespec& t) {
  return static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

InodeTable::InodeTable(std::size_t max_nodes, std::uint32_t generation)
    : max_nodes_(max_nodes), first_generation_(generation) {
  reset();
}

void InodeTable::reset() {
  by_name_.clear();
  by_identity_.clear();
  absent_in_root_.clear();
  nameless_.clear();
  nameless_bytes_ = 0;
  free_nodes_.clear();
  free_names_.clear();
  names_.clear();
  nodes_.clear();
  Node root;
  root.type = FileType::directory;
  root.used = true;
  root.lookups = 1;  // never forgotten
  nodes_.push_back(root);
  used_ = 1;
}

// ---- ids and paths

NodeId InodeTable::id_of(std::uint32_t slot) const {
  return (static_cast<NodeId>(nodes_[slot].generation) << 32) | (slot + 1);
}

std::uint32_t InodeTable::slot_of(NodeId id) const {
  const auto low = static_cast<std::uint32_t>(id);
  if (low == 0 || low > nodes_.size()) return kNone;
  const Node& node = nodes_[low - 1];
  if (!node.used || node.generation != id >> 32) return kNone;
  return low - 1;
}

std::uint32_t InodeTable::find_name(std::uint32_t parent, std::string_view text) const {
  const auto found = by_name_.find(NameKey{parent, text});
  return found == by_name_.end() ? kNone : *found;
}

std::uint32_t InodeTable::find_identity(const FileIdentity& identity) const {
  if (identity.any()) return kNone;
  const auto found = by_identity_.find(identity);
  return found == by_identity_.end() ? kNone : *found;
}

std::uint32_t InodeTable::resolve(const WorkspacePath& path) const {
  return resolve(0, std::string_view(path.bytes()).substr(1));
}

std::uint32_t InodeTable::resolve(std::uint32_t slot, std::string_view rest) const {
  while (!rest.empty()) {
    const std::size_t slash = rest.find('/');
    const std::uint32_t name = find_name(slot, rest.substr(0, slash));
    if (name == kNone) return kNone;
    slot = names_[name].node;
    rest.remove_prefix(slash == rest.npos ? rest.size() : slash + 1);
  }
  return slot;
}

bool InodeTable::path_of(std::uint32_t directory, std::string& out) const {
  std::vector<std::uint32_t> chain;
  for (std::uint32_t slot = directory; slot != 0;) {
    const std::uint32_t name = nodes_[slot].first_name;
    if (name == kNone || chain.size() >= kMaxDepth) return false;
    chain.push_back(name);
    slot = names_[name].parent;
  }
  out.clear();
  for (auto name = chain.rbegin(); name != chain.rend(); ++name) out += '/' + names_[*name].text;
  if (out.empty()) out = "/";
  return true;
}

bool InodeTable::is_at_or_below(std::uint32_t node, std::uint32_t directory) const {
  for (std::size_t depth = 0; depth < kMaxDepth; ++depth) {
    if (node == directory) return true;
    if (node == 0 || nodes_[node].first_name == kNone) return false;
    node = names_[nodes_[node].first_name].parent;
  }
  return true;
}

Result<NodeView, Errno> InodeTable::view(NodeId id) const {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(id);
  if (slot == kNone || nodes_[slot].retired) return Errno{ESTALE};
  const Node& node = nodes_[slot];
  NodeView view{{}, node.identity, node.type, node.lifetime, node.permissions,
                node.permissions_fresh};
  if (slot == 0) view.names.push_back({});
  std::string bytes;
  for (std::uint32_t i = node.first_name; i != kNone; i = names_[i].next_of_node) {
    const Name& name = names_[i];
    if (!path_of(name.parent, bytes)) continue;
    auto parent = WorkspacePath::parse(bytes);
    if (!parent) continue;
    auto path = parent->child(name.text);
    if (path) view.names.push_back({id_of(name.parent), name.text, std::move(*path)});
  }
  return view;
}

Result<WorkspacePath, Errno> InodeTable::child_path(NodeId directory, std::string_view name) const {
  std::string bytes;
  {
    const std::lock_guard lock(mutex_);
    const std::uint32_t slot = slot_of(directory);
    if (slot == kNone || nodes_[slot].retired || !path_of(slot, bytes)) return Errno{ESTALE};
    if (nodes_[slot].type != FileType::directory) return Errno{ENOTDIR};
  }
  FBROKER_TRY(const WorkspacePath path, WorkspacePath::parse(bytes));
  return path.child(name);
}

bool InodeTable::usable(NodeId id) const {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(id);
  return slot != kNone && !nodes_[slot].retired;
}

// ---- nodes and names

Result<std::uint32_t, Errno> InodeTable::new_node(const Attributes& attributes) {
  if (used_ >= max_nodes_) return Errno{ENOMEM};
  std::uint32_t slot;
  if (!free_nodes_.empty()) {
    slot = free_nodes_.back();
    free_nodes_.pop_back();
  } else {
    slot = static_cast<std::uint32_t>(nodes_.size());
    nodes_.emplace_back();
    nodes_[slot].generation = first_generation_;
  }
  Node& node = nodes_[slot];
  const std::uint32_t generation = node.generation;
  node = Node{};
  node.generation = generation;
  node.used = true;
  node.type = attributes.type;
  node.identity = attributes.identity;
  if (node.type != FileType::directory && !node.identity.any()) by_identity_.insert(slot);
  ++used_;
  return slot;
}

void InodeTable::free_node(std::uint32_t slot) {
  Node& node = nodes_[slot];
  // The kernel keeps a directory as long as a name in it; what is left here
  // can only be reached again by a look-up.
  while (node.first_child != kNone) remove_name(node.first_child);
  while (node.first_name != kNone) remove_name(node.first_name);
  forget_nameless(slot);
  if (const auto known = by_identity_.find(node.identity);
      known != by_identity_.end() && *known == slot)
    by_identity_.erase(known);
  node.used = false;
  --used_;
  // INVARIANT: ids are never reused.
  if (node.generation == std::numeric_limits<std::uint32_t>::max()) return;
  ++node.generation;
  free_nodes_.push_back(slot);
}

void InodeTable::attach_to_parent(std::uint32_t index) {
  Name& name = names_[index];
  Node& parent = nodes_[name.parent];
  name.previous_sibling = kNone;
  name.next_sibling = parent.first_child;
  if (parent.first_child != kNone) names_[parent.first_child].previous_sibling = index;
  parent.first_child = index;
  by_name_.insert(index);
}

void InodeTable::detach_from_parent(std::uint32_t index) {
  by_name_.erase(index);
  Name& name = names_[index];
  if (name.next_sibling != kNone) names_[name.next_sibling].previous_sibling = name.previous_sibling;
  if (name.previous_sibling != kNone)
    names_[name.previous_sibling].next_sibling = name.next_sibling;
  else
    nodes_[name.parent].first_child = name.next_sibling;
}

void InodeTable::add_name(std::uint32_t node, std::uint32_t parent, std::string_view text) {
  std::uint32_t index;
  if (!free_names_.empty()) {
    index = free_names_.back();
    free_names_.pop_back();
  } else {
    index = static_cast<std::uint32_t>(names_.size());
    names_.emplace_back();
  }
  forget_nameless(node);
  Name& name = names_[index];
  name.text = text;
  name.parent = parent;
  name.node = node;
  name.next_of_node = nodes_[node].first_name;
  nodes_[node].first_name = index;
  attach_to_parent(index);
}

void InodeTable::remove_name(std::uint32_t index) {
  const std::uint32_t slot = names_[index].node;
  const Node& node = nodes_[slot];
  const bool last = node.first_name == index && names_[index].next_of_node == kNone;
  if (last && node.lookups > 0 && !node.retired) remember_nameless(slot, last_path_of(index));
  detach_from_parent(index);
  std::uint32_t* link = &nodes_[slot].first_name;
  while (*link != index) link = &names_[*link].next_of_node;
  *link = names_[index].next_of_node;
  names_[index] = Name{};
  free_names_.push_back(index);
}

// Where the name is, or was when the directories above it had names; "": not known.
std::string InodeTable::last_path_of(std::uint32_t name) const {
  std::string path;
  for (std::size_t depth = 0; depth < kMaxDepth; ++depth) {
    path.insert(0, '/' + names_[name].text);
    const std::uint32_t parent = names_[name].parent;
    if (parent == 0) return path;
    name = nodes_[parent].first_name;
    if (name != kNone) continue;
    const auto known = nameless_.find(parent);
    return known == nameless_.end() || known->second.empty() ? "" : known->second + path;
  }
  return "";
}

// What there is no room for is taken to have been anywhere.
void InodeTable::remember_nameless(std::uint32_t slot, std::string path) {
  if (nameless_bytes_ + path.size() > kMaxNamelessBytes) path.clear();
  nameless_bytes_ += path.size();
  nameless_[slot] = std::move(path);
}

void InodeTable::forget_nameless(std::uint32_t slot) {
  const auto known = nameless_.find(slot);
  if (known == nameless_.end()) return;
  nameless_bytes_ -= known->second.size();
  nameless_.erase(known);
}

void InodeTable::set_attributes(Node& node, const Attributes& attributes, Lifetime lifetime) {
  node.lifetime = lifetime;
  node.permissions = static_cast<std::uint16_t>(attributes.permissions & 07777);
  node.permissions_fresh = lifetime == Lifetime::until_told;
}

Result<NodeId, Errno> InodeTable::remember(NodeId parent_id, std::string_view text,
                                           const Attributes& attributes, Lifetime lifetime) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t parent = slot_of(parent_id);
  if (parent == kNone || nodes_[parent].type != FileType::directory) return Errno{ESTALE};

  std::uint32_t slot = kNone;
  if (const std::uint32_t name = find_name(parent, text); name != kNone) {
    const Node& known = nodes_[names_[name].node];
    if (known.identity == attributes.identity && known.type == attributes.type) {
      slot = names_[name].node;
      note(node_record::kLookedUp, {}, id_of(slot));
    } else {
      remove_name(name);
      note(node_record::kUnnamed, text, parent_id);
    }
  }
  if (slot == kNone) {
    // A hard link, or another way to the same file, is the same node.
    if (attributes.type != FileType::directory) slot = find_identity(attributes.identity);
    if (slot != kNone && nodes_[slot].type != attributes.type) slot = kNone;
    if (slot == kNone) {
      FBROKER_TRY(slot, new_node(attributes));
      const FileIdentity& made = attributes.identity;
      note(node_record::kMade, text, id_of(slot), parent_id, made.device, made.inode, made.birth_ns, attributes.type);
    } else {
      note(node_record::kNamed, text, id_of(slot), parent_id);
    }
    add_name(slot, parent, text);
  }
  Node& node = nodes_[slot];
  ++node.lookups;
  set_attributes(node, attributes, lifetime);
  compact_if_due();
  return id_of(slot);
}

void InodeTable::refresh(NodeId id, const Attributes& attributes, Lifetime lifetime) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(id);
  if (slot == kNone || nodes_[slot].retired) return;
  // The root is not looked up; it learns who it is here.
  if (slot == 0 && nodes_[0].identity != attributes.identity) {
    const FileIdentity& root = nodes_[0].identity = attributes.identity;
    note(node_record::kRoot, {}, root.device, root.inode, root.birth_ns);
  }
  set_attributes(nodes_[slot], attributes, lifetime);
}

void InodeTable::forget(NodeId id, std::uint64_t lookups) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(id);
  if (slot == kNone || slot == 0) return;
  Node& node = nodes_[slot];
  // ATTACK: a forged count takes away what is there and no more.
  node.lookups -= std::min(node.lookups, lookups);
  note(node_record::kForgot, {}, id, lookups);
  if (node.lookups == 0) free_node(slot);
  compact_if_due();
}

bool InodeTable::remember_absent(NodeId directory, std::string_view name) {
  if (directory != kRootNode) return true;
  const std::lock_guard lock(mutex_);
  if (absent_in_root_.contains(name)) return true;
  if (absent_in_root_.size() >= kMaxAbsentInRoot) return false;
  absent_in_root_.emplace(name);
  return true;
}

void InodeTable::drop_name(NodeId parent, std::string_view text) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(parent);
  if (slot == kNone) return;
  const std::uint32_t name = find_name(slot, text);
  if (name == kNone) return;
  remove_name(name);
  note(node_record::kUnnamed, text, parent);
}

NodeId InodeTable::named(NodeId directory, std::string_view text) const {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(directory);
  if (slot == kNone) return 0;
  const std::uint32_t name = find_name(slot, text);
  return name == kNone ? 0 : id_of(names_[name].node);
}

void InodeTable::disown(NodeId node, NodeId parent, std::string_view text) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(parent);
  if (slot == kNone) return;
  const std::uint32_t name = find_name(slot, text);
  if (name == kNone || id_of(names_[name].node) != node) return;
  remove_name(name);
  note(node_record::kUnnamed, text, parent);
}

void InodeTable::moved(NodeId parent, std::string_view text, NodeId new_parent,
                       std::string_view new_text) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t from = slot_of(parent);
  const std::uint32_t to = slot_of(new_parent);
  if (from == kNone || to == kNone) return;
  const std::uint32_t name = find_name(from, text);
  const std::uint32_t replaced = find_name(to, new_text);
  if (replaced == kNone && name == kNone) return;
  if (journal_) note(node_record::kMoved, std::string(text).append(new_text), parent, new_parent, text.size());
  if (replaced != kNone && replaced != name) remove_name(replaced);
  if (name == kNone) return;
  // The host refuses to move a directory below itself; were this table's idea
  // of the tree an older one, a circle of parents would have no path.
  if (is_at_or_below(to, names_[name].node)) return remove_name(name);
  detach_from_parent(name);
  names_[name].parent = to;
  names_[name].text = new_text;
  attach_to_parent(name);
  nodes_[names_[name].node].permissions_fresh = false;
  compact_if_due();
}

// ---- versions and listings

InodeTable::Version InodeTable::version_of(const Attributes& attributes) {
  return {attributes.size, nanoseconds(attributes.modified), nanoseconds(attributes.changed)};
}

bool InodeTable::same_version(NodeId id, const Attributes& attributes) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(id);
  if (slot == kNone) return false;
  Node& node = nodes_[slot];
  const Version opened = version_of(attributes);
  const bool same = node.version_known && node.version == opened;
  node.version = opened;
  node.version_known = true;
  note_cached_once(slot);
  return same;
}

void InodeTable::note_cached(NodeId id) {
  const std::lock_guard lock(mutex_);
  if (const std::uint32_t slot = slot_of(id); slot != kNone) note_cached_once(slot);
}

InodeTable::Listing InodeTable::open_listing(NodeId id, const Attributes& attributes) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(id);
  if (slot == kNone) return {};
  Node& node = nodes_[slot];
  note_cached_once(slot);
  return {node.listing_epoch, node.version_known && node.version == version_of(attributes)};
}

void InodeTable::listed(NodeId id, std::uint32_t epoch, bool to_the_end,
                        const Attributes& at_open) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(id);
  if (slot == kNone) return;
  Node& node = nodes_[slot];
  if (node.listing_epoch != epoch) {
    // Entries from before an event go into the kernel's one listing of this
    // directory: whoever is reading it now must not vouch for it at its end.
    ++node.listing_epoch;
    node.version_known = false;
  } else if (to_the_end) {
    node.version = version_of(at_open);
    node.version_known = true;
  }
}

// ---- events

void InodeTable::retire_node(std::uint32_t slot) {
  Node& node = nodes_[slot];
  // Only what can be mapped or appended to. A directory stays, or a shell that
  // stands in it would have to leave and come back.
  if (slot == 0 || node.type != FileType::regular) return;
  if (!node.retired) note(node_record::kRetired, {}, id_of(slot));
  node.retired = true;
  while (node.first_name != kNone) remove_name(node.first_name);
  forget_nameless(slot);
  if (const auto known = by_identity_.find(node.identity);
      known != by_identity_.end() && *known == slot)
    by_identity_.erase(known);
}

// What was cached of the node does not count any more.
void InodeTable::mark(std::uint32_t slot) {
  Node& node = nodes_[slot];
  node.version_known = false;
  node.permissions_fresh = false;
  ++node.listing_epoch;
}

// And the kernel is to be told.
void InodeTable::mark(std::uint32_t slot, Affected& affected) {
  mark(slot);
  affected.nodes.push_back(id_of(slot));
}

// The same where the names are told too: attributes come anew with the next
// look-up, so only inodes that may have pages are worth a notification.
void InodeTable::mark_with_names(std::uint32_t slot, Affected& affected) {
  mark(slot);
  if (nodes_[slot].cached) affected.nodes.push_back(id_of(slot));
  mark_names(slot, affected);
}

void InodeTable::mark_names(std::uint32_t slot, Affected& affected) {
  const bool directory = nodes_[slot].type == FileType::directory;
  for (std::uint32_t i = nodes_[slot].first_name; i != kNone; i = names_[i].next_of_node)
    affected.entries.push_back({id_of(names_[i].parent), names_[i].text, directory});
}

// Everything on the way to `path`, as far as it is known, and the name after
// that: a look-up of it may be under way, or it may be known as absent.
void InodeTable::mark_ancestors(const WorkspacePath& path, Affected& affected) {
  std::uint32_t slot = 0;
  std::string_view rest = path.bytes();
  rest.remove_prefix(1);
  while (!rest.empty()) {
    mark(slot, affected);
    const std::string_view text = rest.substr(0, rest.find('/'));
    const std::uint32_t name = find_name(slot, text);
    const bool directory = name != kNone && nodes_[names_[name].node].type == FileType::directory;
    affected.entries.push_back({id_of(slot), std::string(text), directory});
    if (name == kNone) return;
    slot = names_[name].node;
    rest.remove_prefix(std::min(rest.size(), text.size() + 1));
  }
}

void InodeTable::mark_absent(Affected& affected) {
  for (const std::string& name : absent_in_root_)
    affected.entries.push_back({kRootNode, name, false});
  absent_in_root_.clear();
}

void InodeTable::mark_tree(std::uint32_t top, bool retire, Affected& affected) {
  if (top == 0) mark_absent(affected);
  std::vector<std::uint32_t> below{top};
  for (std::size_t i = 0; i < below.size(); ++i) {
    const std::uint32_t slot = below[i];
    if (nodes_[slot].type == FileType::directory) affected.directories.push_back(id_of(slot));
    for (std::uint32_t c = nodes_[slot].first_child; c != kNone; c = names_[c].next_sibling)
      below.push_back(names_[c].node);
  }
  // Two hard links below it are two visits of one node.
  std::sort(below.begin(), below.end());
  below.erase(std::unique(below.begin(), below.end()), below.end());
  for (const std::uint32_t slot : below) {
    mark_with_names(slot, affected);
    if (retire) retire_node(slot);
  }
}

namespace {

// Of `place`, what comes below `directory`; none: it is not there.
std::optional<std::string_view> rest_below(std::string_view place, std::string_view directory) {
  if (directory == "/") return place.substr(1);
  if (!place.starts_with(directory)) return std::nullopt;
  place.remove_prefix(directory.size());
  if (place.empty()) return place;
  return place.front() == '/' ? std::optional(place.substr(1)) : std::nullopt;
}

}  // namespace

// What was at or below `path` when it had a name, and what is still below a
// directory that was on the way to it.
void InodeTable::mark_nameless(const WorkspacePath& path, bool retire, Affected& affected) {
  std::vector<std::uint32_t> tops;
  for (const auto& [slot, place] : nameless_) {
    if (place.empty() || rest_below(place, path.bytes())) {
      tops.push_back(slot);
    } else if (const auto rest = rest_below(path.bytes(), place)) {
      if (const std::uint32_t inside = resolve(slot, *rest); inside != kNone) tops.push_back(inside);
    }
  }
  for (const std::uint32_t top : tops) mark_tree(top, retire, affected);   // retiring changes nameless_
}

Affected InodeTable::below(const WorkspacePath& path, const FileIdentity& identity, bool retire) {
  const std::lock_guard lock(mutex_);
  Affected affected;
  mark_ancestors(path, affected);
  const std::uint32_t slot = resolve(path);
  // The same file under names elsewhere.
  const std::uint32_t same = find_identity(identity);
  if (slot != kNone) mark_tree(slot, retire, affected);
  if (same != kNone && same != slot && !nodes_[same].retired) mark_tree(same, retire, affected);
  mark_nameless(path, retire, affected);
  return affected;
}

Affected InodeTable::entry(const WorkspacePath& path, const FileIdentity& identity) {
  const std::lock_guard lock(mutex_);
  Affected affected;
  if (!path.is_root()) {
    if (const std::uint32_t parent = resolve(path.parent()); parent != kNone) {
      mark(parent, affected);
      const std::uint32_t name = find_name(parent, path.name());
      const bool directory = name != kNone && nodes_[names_[name].node].type == FileType::directory;
      affected.entries.push_back({id_of(parent), std::string(path.name()), directory});
    }
  }
  const std::uint32_t slot = resolve(path);
  const std::uint32_t same = find_identity(identity);
  if (slot != kNone) mark(slot, affected);
  if (same != kNone && same != slot) mark(same, affected);
  return affected;
}

Affected InodeTable::content(const WorkspacePath& path, const FileIdentity& identity, bool forget_names) {
  const std::lock_guard lock(mutex_);
  Affected affected;
  const auto add = [&](std::uint32_t slot) {
    if (slot == kNone) return;
    for (std::uint32_t i = nodes_[slot].first_name; i != kNone; i = names_[i].next_of_node)
      affected.directories.push_back(id_of(names_[i].parent));
    mark(slot, affected);
    if (forget_names && nodes_[slot].type == FileType::regular) mark_names(slot, affected);
  };
  const std::uint32_t slot = resolve(path);
  const std::uint32_t same = find_identity(identity);
  add(slot);
  if (same != slot) add(same);
  return affected;
}

Affected InodeTable::everything() {
  const std::lock_guard lock(mutex_);
  Affected affected;
  mark_absent(affected);
  for (std::uint32_t slot = 0; slot < nodes_.size(); ++slot) {
    if (!nodes_[slot].used) continue;
    if (nodes_[slot].type == FileType::directory) affected.directories.push_back(id_of(slot));
    mark_with_names(slot, affected);
    // Nobody may be telling any more; a look-up says what holds from now on.
    nodes_[slot].lifetime = Lifetime::none;
  }
  return affected;
}

std::size_t InodeTable::size() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

std::uint64_t InodeTable::journal_bytes() const {
  const std::lock_guard lock(mutex_);
  return journal_ ? journal_->bytes() : 0;
}

bool InodeTable::journal_given_up() const {
  const std::lock_guard lock(mutex_);
  return journal_ && journal_->given_up();
}

std::size_t InodeTable::memory() const {
  const std::lock_guard lock(mutex_);
  // A node of std::set: three pointers, a colour, the value; the allocator's header.
  constexpr std::size_t kSetNode = 48;
  std::size_t bytes = nodes_.size() * sizeof(Node) + names_.size() * sizeof(Name) +
                      (by_name_.size() + by_identity_.size()) * kSetNode +
                      (free_nodes_.capacity() + free_names_.capacity()) * sizeof(std::uint32_t);
  bytes += nameless_.size() * (kSetNode + sizeof(std::string)) + nameless_bytes_;
  for (const Name& name : names_)
    if (name.text.capacity() > 15) bytes += name.text.capacity() + 17;
  return bytes;
}

}  // namespace fbroker::fuse
