#include "broker/fuse/handle_table.h"

#include <limits>

namespace fbroker::fuse {

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
  }
  Slot& slot = slots_[index];
  slot.used = true;
  slot.handle = std::move(handle);
  if (!slot.handle.cursor) of_node_.emplace(slot.handle.node, index);
  ++used_;
  return (static_cast<std::uint64_t>(slot.generation) << 32) | (index + 1);
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
  const std::uint32_t index = static_cast<std::uint32_t>(id) - 1;
  const auto [first, last] = of_node_.equal_range(node);
  for (auto it = first; it != last; ++it)
    if (it->second == index) {
      of_node_.erase(it);
      break;
    }
  Slot& slot = slots_[index];
  slot.used = false;
  slot.handle = {};
  --used_;
  // INVARIANT: a handle's number is never used for a second one.
  if (slot.generation != std::numeric_limits<std::uint32_t>::max()) {
    ++slot.generation;
    free_.push_back(index);
  }
  return handle;
}

protocol::HandleId HandleTable::any_of(NodeId node) const {
  const std::lock_guard lock(mutex_);
  protocol::HandleId found = 0;
  const auto [first, last] = of_node_.equal_range(node);
  for (auto it = first; it != last; ++it) {
    const OpenHandle& handle = slots_[it->second].handle;
    if (found == 0 || handle.writes) found = handle.service;
    if (handle.writes) break;
  }
  return found;
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

std::size_t HandleTable::size() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

}  // namespace fbroker::fuse
