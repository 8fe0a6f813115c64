#include "broker/device/mount_state.h"

#include <unistd.h>

#include <charconv>

namespace fbroker::broker {

namespace {

std::string devices_of(const std::string& session) { return session + "/device/"; }

// The two numbers behind "N:" of a device's name.
std::optional<std::pair<std::uint32_t, std::uint32_t>> owner_in(std::string_view name) {
  std::uint32_t numbers[2]{};
  std::size_t at = name.find(':');
  for (std::uint32_t& number : numbers) {
    if (at == name.npos) return std::nullopt;
    name.remove_prefix(at + 1);
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error != std::errc()) return std::nullopt;
    at = name.find(':');
  }
  return std::pair(numbers[0], numbers[1]);
}

}  // namespace

Result<void, Errno> MountState::keep_device(const OfferedDevice& device) {
  const std::string owner = ":" + std::to_string(device.offer.uid) + ":" + std::to_string(device.offer.gid);
  for (std::size_t i = 0; i < device.devices.size(); ++i)
    FBROKER_TRY_VOID(keeper_.keep(devices_of(session_) + std::to_string(i) + owner, Kept::device, device.devices[i].get()));
  return ok;
}

Result<std::optional<OfferedDevice>, Errno> MountState::take_device(Keeper& keeper, const std::string& session) {
  FBROKER_TRY(auto kept, keeper.take(devices_of(session)));
  if (kept.empty()) return std::optional<OfferedDevice>();
  const auto owner = owner_in(kept.front().name);
  if (!owner) return Errno{EINVAL};
  OfferedDevice device;
  device.offer.devices = static_cast<std::uint32_t>(kept.size());
  device.offer.uid = owner->first;
  device.offer.gid = owner->second;
  for (KeptDescriptor& one : kept) device.devices.push_back(std::move(one.fd));
  return std::optional(std::move(device));
}

void MountState::forget(Keeper& keeper, const std::string& directory, const std::string& session) {
  if (const auto names = keeper.list(session + "/"))
    for (const std::string& name : *names) (void)keeper.drop(name);
  for (const char* part : {".nodes", ".handles", ".intents", ".init"})
    ::unlink((directory + "/" + session + part).c_str());
}

std::string MountState::name_of(std::uint64_t handle) const { return session_ + "/file/" + std::to_string(handle); }

// What cannot be kept is lost with this broker and no earlier: the program that
// has it open then sees ESTALE.
void MountState::keep(std::uint64_t handle, int fd) { (void)keeper_.keep(name_of(handle), Kept::file, fd); }

void MountState::drop(std::uint64_t handle) { (void)keeper_.drop(name_of(handle)); }

UniqueFd MountState::take(std::uint64_t handle) {
  auto kept = keeper_.take(name_of(handle));
  if (!kept) return UniqueFd();
  for (KeptDescriptor& one : *kept)
    if (one.name == name_of(handle)) return std::move(one.fd);
  return UniqueFd();
}

}  // namespace fbroker::broker
