#include "broker/handles/handle_table.h"

#include <random>

namespace fbroker::broker {

namespace {

constexpr int kCounterBits = 40;   // 35 years of a thousand opens a second
constexpr protocol::HandleId kCounterMask = (protocol::HandleId{1} << kCounterBits) - 1;

// 23 random bits above the counter; the top bit stays 0, so that an id is a
// positive number in every language.
protocol::HandleId random_instance() {
  std::random_device device;
  return static_cast<protocol::HandleId>(device() & 0x7fffffu) << kCounterBits;
}

}  // namespace

HandleTable::HandleTable(std::size_t max_handles)
    : max_handles_(max_handles), instance_(random_instance()) {}

Result<HandleTable::Slot, Errno> HandleTable::reserve() {
  const std::unique_lock lock(mutex_);
  if (handles_.size() + reserved_ >= max_handles_ || next_ + reserved_ > kCounterMask)
    return Errno{EMFILE};
  ++reserved_;
  return Slot(this);
}

void HandleTable::give_up() {
  const std::unique_lock lock(mutex_);
  --reserved_;
}

Result<protocol::HandleId, Errno> HandleTable::insert(std::shared_ptr<Handle> handle) {
  FBROKER_TRY(Slot slot, reserve());
  return insert(std::move(slot), std::move(handle));
}

protocol::HandleId HandleTable::insert(Slot slot, std::shared_ptr<Handle> handle) {
  const std::unique_lock lock(mutex_);
  slot.table_ = nullptr;
  --reserved_;
  handle->id = instance_ | next_++;
  const protocol::HandleId id = handle->id;
  handles_.emplace(id, std::move(handle));
  return id;
}

std::shared_ptr<Handle> HandleTable::find(protocol::HandleId id) const {
  const std::shared_lock lock(mutex_);
  const auto found = handles_.find(id);
  return found == handles_.end() ? nullptr : found->second;
}

std::shared_ptr<Handle> HandleTable::remove(protocol::HandleId id) {
  const std::unique_lock lock(mutex_);
  const auto found = handles_.find(id);
  if (found == handles_.end()) return nullptr;
  auto handle = std::move(found->second);
  handles_.erase(found);
  return handle;
}

std::vector<std::shared_ptr<Handle>> HandleTable::all() const {
  const std::shared_lock lock(mutex_);
  std::vector<std::shared_ptr<Handle>> handles;
  handles.reserve(handles_.size());
  for (const auto& [id, handle] : handles_) handles.push_back(handle);
  return handles;
}

std::size_t HandleTable::size() const {
  const std::shared_lock lock(mutex_);
  return handles_.size();
}

bool HandleTable::full() const {
  const std::shared_lock lock(mutex_);
  return handles_.size() + reserved_ >= max_handles_;
}

}  // namespace fbroker::broker
