// The inode table's journal: what is written, and how a table comes out of it.
// A record is believed only as far as the table could have written it itself.
#include <limits>

#include "broker/fuse/inode_table.h"

namespace fbroker::fuse {

using protocol::FileIdentity;
using protocol::FileType;

namespace {

using namespace node_record;

// Bits of kNode.
constexpr std::uint64_t kTypeMask = 0xff, kRetiredBit = 0x100, kCachedBit = 0x200;

constexpr std::uint32_t kUsedUp = std::numeric_limits<std::uint32_t>::max();

bool has(const JournalRecord& record, std::size_t words, bool text) {
  return record.words.size() == words && record.text.empty() != text;
}

bool is_type(std::uint64_t type) { return type <= static_cast<std::uint64_t>(FileType::symlink); }

FileIdentity identity_of(std::span<const std::uint64_t> words) {
  return {words[0], words[1], static_cast<std::int64_t>(words[2])};
}

bool is_name(std::string_view text) { return WorkspacePath().child(text).has_value(); }

}  // namespace

// ---- writing

void InodeTable::note_cached_once(std::uint32_t slot) {
  if (nodes_[slot].cached) return;
  nodes_[slot].cached = true;
  note(kCached, {}, id_of(slot));
}

void InodeTable::compact_if_due() {
  if (journal_ && journal_->wants_compaction())
    journal_->compact([this](Journal& to) { write_live(to); });
}

void InodeTable::write_live(Journal& to) const {
  to.append(kBase, {first_generation_});
  for (std::uint32_t slot = 0; slot < nodes_.size(); ++slot) {
    const Node& node = nodes_[slot];
    if (!node.used) {
      to.append(kVacant, {id_of(slot)});
      continue;
    }
    const std::uint64_t bits = static_cast<std::uint64_t>(node.type) | (node.retired ? kRetiredBit : 0) |
                               (node.cached ? kCachedBit : 0);
    to.append(kNode, {id_of(slot), node.identity.device, node.identity.inode,
                      static_cast<std::uint64_t>(node.identity.birth_ns), node.lookups, bits});
  }
  for (const Name& name : names_)
    if (name.node != kNone) to.append(kName, {id_of(name.node), id_of(name.parent)}, name.text);
}

Result<void> InodeTable::keep_in(const std::string& path) {
  const std::lock_guard lock(mutex_);
  FBROKER_TRY(journal_, Journal::create(path, JournalOf::nodes));
  write_live(*journal_);
  return ok;
}

// ---- reading

Result<void> InodeTable::resume(const std::string& path) {
  const std::uint32_t first_generation = first_generation_;
  auto loaded = Journal::load(path, JournalOf::nodes, [this](const JournalRecord& record) { return replay(record); });
  const std::lock_guard lock(mutex_);
  const Result<void> sound = loaded ? check_tree() : ok;
  if (!loaded || !sound) {
    reset();
    first_generation_ = first_generation;
    if (!loaded) return loaded.error();
    return Error{path, "is damaged: " + sound.error().what};
  }
  free_nodes_.clear();
  for (std::uint32_t slot = 1; slot < nodes_.size(); ++slot) {
    const Node& node = nodes_[slot];
    if (!node.used && node.generation != kUsedUp) free_nodes_.push_back(slot);
    // Where those were that had lost their names is not written down anew.
    if (node.used && node.first_name == kNone && !node.retired && !nameless_.contains(slot))
      remember_nameless(slot, {});
  }
  journal_ = std::move(*loaded);
  return ok;
}

void InodeTable::start_over(std::uint32_t generation) {
  const std::lock_guard lock(mutex_);
  journal_.reset();
  reset();
  first_generation_ = generation;
}

// The slot of an id that is about to be made; slots up to it come into being.
std::uint32_t InodeTable::slot_for(NodeId id, bool vacant) {
  const auto low = static_cast<std::uint32_t>(id);
  const auto generation = static_cast<std::uint32_t>(id >> 32);
  // Slots whose generations are used up are beyond max_nodes.
  if (low < 2 || low > 2 * max_nodes_ + 16) return kNone;
  while (nodes_.size() < low) {
    nodes_.emplace_back();
    nodes_.back().generation = first_generation_;
  }
  const Node& node = nodes_[low - 1];
  if (node.used) return kNone;
  // Of a vacant slot it is said once how far it is.
  if (vacant ? generation < node.generation : generation != node.generation) return kNone;
  return low - 1;
}

bool InodeTable::replay(const JournalRecord& record) {
  switch (record.kind) {
    case kBase:
      // First of all, or the slots made before began elsewhere.
      if (!has(record, 1, false) || record.words[0] >= kUsedUp || nodes_.size() != 1) return false;
      first_generation_ = static_cast<std::uint32_t>(record.words[0]);
      return true;
    case kNode:
    case kVacant: return replay_node(record);
    case kMade: return replay_made(record);
    case kName:
    case kNamed: return replay_name(record);
    default: return replay_change(record);
  }
}

bool InodeTable::replay_node(const JournalRecord& record) {
  const auto& words = record.words;
  if (record.kind == kVacant) {
    if (!has(record, 1, false)) return false;
    const std::uint32_t slot = slot_for(words[0], true);
    if (slot == kNone) return false;
    nodes_[slot].generation = static_cast<std::uint32_t>(words[0] >> 32);
    return true;
  }
  if (!has(record, 6, false)) return false;
  const std::uint64_t bits = words[5];
  if (!is_type(bits & kTypeMask) || (bits & ~(kTypeMask | kRetiredBit | kCachedBit)) != 0 || words[4] == 0) return false;
  std::uint32_t slot = 0;
  if (words[0] == kRootNode) {
    if (static_cast<FileType>(bits & kTypeMask) != FileType::directory) return false;
  } else {
    slot = slot_for(words[0], true);
    if (slot == kNone || used_ >= max_nodes_) return false;
    ++used_;
  }
  Node& node = nodes_[slot];
  node.generation = static_cast<std::uint32_t>(words[0] >> 32);
  node.used = true;
  node.identity = identity_of(words.subspan(1));
  node.lookups = words[4];
  node.type = static_cast<FileType>(bits & kTypeMask);
  node.retired = (bits & kRetiredBit) != 0;
  node.cached = (bits & kCachedBit) != 0;
  if (node.retired && node.type != FileType::regular) return false;
  if (node.type != FileType::directory && !node.retired && !node.identity.any()) by_identity_.insert(slot);
  return true;
}

bool InodeTable::replay_made(const JournalRecord& record) {
  const auto& words = record.words;
  if (!has(record, 6, true) || !is_type(words[5]) || !is_name(record.text)) return false;
  const std::uint32_t parent = slot_of(words[1]);
  if (parent == kNone || nodes_[parent].type != FileType::directory) return false;
  if (find_name(parent, record.text) != kNone || used_ >= max_nodes_) return false;
  const std::uint32_t slot = slot_for(words[0], false);
  if (slot == kNone) return false;
  Node& node = nodes_[slot];
  const std::uint32_t generation = node.generation;
  node = Node{};
  node.generation = generation;
  node.used = true;
  node.identity = identity_of(words.subspan(2));
  node.type = static_cast<FileType>(words[5]);
  node.lookups = 1;
  if (node.type != FileType::directory && !node.identity.any()) by_identity_.insert(slot);
  ++used_;
  add_name(slot, parent, record.text);
  return true;
}

bool InodeTable::replay_name(const JournalRecord& record) {
  if (!has(record, 2, true) || !is_name(record.text)) return false;
  const std::uint32_t slot = slot_of(record.words[0]);
  const std::uint32_t parent = slot_of(record.words[1]);
  if (slot == kNone || slot == 0 || parent == kNone || nodes_[parent].type != FileType::directory) return false;
  if (nodes_[slot].retired || find_name(parent, record.text) != kNone) return false;
  // A directory has one name.
  if (nodes_[slot].type == FileType::directory && nodes_[slot].first_name != kNone) return false;
  add_name(slot, parent, record.text);
  if (record.kind == kNamed) ++nodes_[slot].lookups;
  return true;
}

bool InodeTable::replay_change(const JournalRecord& record) {
  const auto& words = record.words;
  const auto node = [&](std::size_t count, bool text) { return has(record, count, text) ? slot_of(words[0]) : kNone; };
  switch (record.kind) {
    case kLookedUp: {
      const std::uint32_t slot = node(1, false);
      if (slot == kNone || slot == 0) return false;
      ++nodes_[slot].lookups;
      return true;
    }
    case kForgot:
      if (const std::uint32_t slot = node(2, false); slot == kNone || slot == 0) return false;
      forget(words[0], words[1]);
      return true;
    case kUnnamed:
      if (node(1, true) == kNone) return false;
      drop_name(words[0], record.text);
      return true;
    case kMoved: {
      if (node(3, true) == kNone || slot_of(words[1]) == kNone || words[2] == 0 || words[2] >= record.text.size())
        return false;
      const std::string_view from = record.text.substr(0, words[2]), to = record.text.substr(words[2]);
      if (!is_name(from) || !is_name(to) || nodes_[slot_of(words[1])].type != FileType::directory) return false;
      moved(words[0], from, words[1], to);
      return true;
    }
    case kRetired:
      if (const std::uint32_t slot = node(1, false); slot != kNone && nodes_[slot].type == FileType::regular) {
        retire_node(slot);
        return true;
      }
      return false;
    case kCached: {
      const std::uint32_t slot = node(1, false);
      if (slot == kNone) return false;
      nodes_[slot].cached = true;
      return true;
    }
    case kRoot:
      if (!has(record, 3, false)) return false;
      nodes_[0].identity = identity_of(words);
      return true;
    default: return false;
  }
}

// No directory is below itself: what walks the tree relies on it.
Result<void> InodeTable::check_tree() const {
  enum : std::uint8_t { unknown, on_the_way, sound };
  std::vector<std::uint8_t> state(nodes_.size(), unknown);
  std::vector<std::uint32_t> way;
  for (std::uint32_t first = 0; first < nodes_.size(); ++first) {
    way.clear();
    bool at_top = false;
    std::uint32_t slot = first;
    while (!at_top && state[slot] == unknown && nodes_[slot].type == FileType::directory) {
      state[slot] = on_the_way;
      way.push_back(slot);
      at_top = slot == 0 || nodes_[slot].first_name == kNone;
      if (!at_top) slot = names_[nodes_[slot].first_name].parent;
    }
    if (!at_top && state[slot] == on_the_way) return Error{"", "a directory is below itself"};
    for (const std::uint32_t one : way) state[one] = sound;
  }
  return ok;
}

}  // namespace fbroker::fuse
