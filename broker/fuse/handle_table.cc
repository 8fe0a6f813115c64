#include "broker/fuse/handle_table.h"

#include <fcntl.h>

#include <limits>

namespace fbroker::fuse {

using namespace handle_record;
using protocol::HandleId;

namespace {

constexpr std::uint32_t kUsedUp = std::numeric_limits<std::uint32_t>::max();

std::uint64_t id_of(std::uint32_t generation, std::size_t index) {
  return static_cast<std::uint64_t>(generation) << 32 | (index + 1);
}

std::uint64_t bits_of(const OpenHandle& handle) {
  return static_cast<std::uint32_t>(handle.flags) | (handle.cursor ? kDirectoryBit : 0);
}

}  // namespace

Result<std::uint64_t, Errno> HandleTable::add(OpenHandle handle) {
  const std::lock_guard lock(mutex_);
  if (used_ >= max_) return Errno{ENFILE};
  std::uint32_t index;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    index = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
    slots_[index].generation = first_generation_;
  }
  Slot& slot = slots_[index];
  slot.used = true;
  slot.handle = std::move(handle);
  if (!slot.handle.cursor) of_node_.emplace(slot.handle.node, index);
  ++used_;
  const std::uint64_t id = id_of(slot.generation, index);
  if (journal_) journal_->append(kOpened, {id, slot.handle.node, bits_of(slot.handle)});
  compact_if_due();
  return id;
}

Result<OpenHandle, Errno> HandleTable::find(std::uint64_t id, NodeId node, bool directory) const {
  const auto low = static_cast<std::uint32_t>(id);
  if (low == 0 || low > slots_.size()) return Errno{EBADF};
  const Slot& slot = slots_[low - 1];
  if (!slot.used || slot.generation != id >> 32) return Errno{EBADF};
  if (slot.handle.node != node || (slot.handle.cursor != nullptr) != directory) return Errno{EBADF};
  return slot.handle;
}

Result<OpenHandle, Errno> HandleTable::file(std::uint64_t id, NodeId node) const {
  const std::lock_guard lock(mutex_);
  return find(id, node, false);
}

Result<OpenHandle, Errno> HandleTable::directory(std::uint64_t id, NodeId node) const {
  const std::lock_guard lock(mutex_);
  return find(id, node, true);
}

Result<OpenHandle, Errno> HandleTable::remove(std::uint64_t id, NodeId node, bool directory) {
  const std::lock_guard lock(mutex_);
  FBROKER_TRY(OpenHandle handle, find(id, node, directory));
  vacate(static_cast<std::uint32_t>(id) - 1);
  if (journal_) journal_->append(kClosed, {id});
  compact_if_due();
  return handle;
}

void HandleTable::vacate(std::uint32_t index) {
  Slot& slot = slots_[index];
  const auto [first, last] = of_node_.equal_range(slot.handle.node);
  for (auto it = first; it != last; ++it)
    if (it->second == index) {
      of_node_.erase(it);
      break;
    }
  slot.used = false;
  slot.handle = {};
  --used_;
  // INVARIANT: a handle's number is never used for a second one.
  if (slot.generation == kUsedUp) return;
  ++slot.generation;
  free_.push_back(index);
}

std::optional<NumberedHandle> HandleTable::any_of(NodeId node) const {
  const std::lock_guard lock(mutex_);
  std::optional<NumberedHandle> found;
  const auto [first, last] = of_node_.equal_range(node);
  for (auto it = first; it != last; ++it) {
    const Slot& slot = slots_[it->second];
    if (!found || slot.handle.writes) found = {id_of(slot.generation, it->second), slot.handle};
    if (slot.handle.writes) break;
  }
  return found;
}

std::vector<NodeId> HandleTable::written() const {
  const std::lock_guard lock(mutex_);
  std::vector<NodeId> nodes;
  for (const Slot& slot : slots_)
    if (slot.used && slot.handle.writes) nodes.push_back(slot.handle.node);
  return nodes;
}

std::vector<NumberedHandle> HandleTable::all_of(NodeId node) const {
  const std::lock_guard lock(mutex_);
  std::vector<NumberedHandle> all;
  const auto [first, last] = of_node_.equal_range(node);
  for (auto it = first; it != last; ++it)
    all.push_back({id_of(slots_[it->second].generation, it->second), slots_[it->second].handle});
  return all;
}

Result<HandleId, Errno> HandleTable::woken(std::uint64_t id, NodeId node, HandleId service,
                                           const protocol::Attributes& now) {
  const std::lock_guard lock(mutex_);
  const auto low = static_cast<std::uint32_t>(id);
  const bool directory = low != 0 && low <= slots_.size() && slots_[low - 1].handle.cursor != nullptr;
  FBROKER_TRY(const OpenHandle handle, find(id, node, directory));
  if (handle.service != 0) return handle.service;
  if (directory) {
    const std::lock_guard cursor(handle.cursor->mutex);
    handle.cursor->at_open = now;
  }
  slots_[low - 1].handle.service = service;
  return service;
}

bool HandleTable::note_kept(std::uint64_t id, NodeId node, const WorkspacePath& last) {
  const std::lock_guard lock(mutex_);
  if (!find(id, node, false)) return false;
  slots_[static_cast<std::uint32_t>(id) - 1].handle.kept = std::make_shared<const WorkspacePath>(last);
  if (journal_) journal_->append(kKept, {id}, last.bytes());
  compact_if_due();
  return true;
}

std::vector<OpenHandle> HandleTable::take_all() {
  const std::lock_guard lock(mutex_);
  std::vector<OpenHandle> all;
  for (Slot& slot : slots_)
    if (slot.used) all.push_back(std::move(slot.handle));
  slots_.clear();
  free_.clear();
  of_node_.clear();
  used_ = 0;
  return all;
}

// ---- the journal

void HandleTable::compact_if_due() {
  if (journal_ && journal_->wants_compaction())
    journal_->compact([this](Journal& to) { write_live(to); });
}

void HandleTable::write_live(Journal& to) const {
  to.append(kBase, {first_generation_});
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    const std::uint64_t id = id_of(slot.generation, i);
    to.append(kVacant, {id});
    if (!slot.used) continue;
    to.append(kOpened, {id, slot.handle.node, bits_of(slot.handle)});
    if (slot.handle.kept) to.append(kKept, {id}, slot.handle.kept->bytes());
  }
}

Result<void> HandleTable::keep_in(const std::string& path) {
  const std::lock_guard lock(mutex_);
  FBROKER_TRY(journal_, Journal::create(path, JournalOf::handles));
  write_live(*journal_);
  return ok;
}

Result<void> HandleTable::resume(const std::string& path) {
  auto loaded = Journal::load(path, JournalOf::handles, [this](const JournalRecord& record) { return replay(record); });
  if (!loaded) {
    start_over(0);
    return loaded.error();
  }
  const std::lock_guard lock(mutex_);
  free_.clear();
  for (std::uint32_t i = 0; i < slots_.size(); ++i)
    if (!slots_[i].used && slots_[i].generation != kUsedUp) free_.push_back(i);
  journal_ = std::move(*loaded);
  return ok;
}

void HandleTable::start_over(std::uint32_t generation) {
  const std::lock_guard lock(mutex_);
  journal_.reset();
  slots_.clear();
  free_.clear();
  of_node_.clear();
  used_ = 0;
  first_generation_ = generation;
}

bool HandleTable::replay(const JournalRecord& record) {
  const auto& words = record.words;
  constexpr std::size_t kWords[] = {0, 1, 3, 1, 1, 1};
  if (record.kind == 0 || record.kind > kVacant || words.size() != kWords[record.kind]) return false;
  if ((record.kind == kKept) == record.text.empty()) return false;
  if (record.kind == kBase) {
    if (words[0] >= kUsedUp || !slots_.empty()) return false;
    first_generation_ = static_cast<std::uint32_t>(words[0]);
    return true;
  }
  const auto low = static_cast<std::uint32_t>(words[0]);
  const auto generation = static_cast<std::uint32_t>(words[0] >> 32);
  if (low == 0 || low > 2 * max_ + 16) return false;
  const std::uint32_t index = low - 1;
  const bool makes = record.kind == kOpened || record.kind == kVacant;
  while (makes && slots_.size() < low) {
    slots_.emplace_back();
    slots_.back().generation = first_generation_;
  }
  if (low > slots_.size()) return false;
  Slot& slot = slots_[index];
  if (slot.used == makes) return false;
  if (record.kind == kVacant) {
    if (generation < slot.generation) return false;
    slot.generation = generation;
    return true;
  }
  if (generation != slot.generation) return false;
  switch (record.kind) {
    case kOpened: {
      const int flags = static_cast<int>(static_cast<std::uint32_t>(words[2]));
      if (used_ >= max_ || words[1] == 0 || (words[2] & ~(kDirectoryBit | 0xffffffff)) != 0) return false;
      if (!protocol::open_flags_known(flags & ~(protocol::kAlsoRead | kOthersWrite))) return false;
      slot.used = true;
      slot.handle.node = words[1];
      slot.handle.flags = flags;
      slot.handle.writes = (flags & O_ACCMODE) != O_RDONLY;
      if ((words[2] & kDirectoryBit) != 0) slot.handle.cursor = std::make_shared<DirectoryCursor>();
      else of_node_.emplace(slot.handle.node, index);
      ++used_;
      return true;
    }
    case kKept: {
      auto path = WorkspacePath::parse(record.text);
      if (!path || slot.handle.cursor) return false;
      slot.handle.kept = std::make_shared<const WorkspacePath>(std::move(*path));
      return true;
    }
    default: vacate(index); return true;
  }
}

bool HandleTable::journal_given_up() const {
  const std::lock_guard lock(mutex_);
  return journal_ && journal_->given_up();
}

std::size_t HandleTable::size() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

}  // namespace fbroker::fuse
