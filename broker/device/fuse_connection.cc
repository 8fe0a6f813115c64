#include "broker/device/fuse_connection.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

namespace fbroker::broker {

namespace {

std::optional<std::uint32_t> number_in(std::string_view text) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return number;
}

// Without number_of(): the device number of our mount where `pid` lives, if there is just one.
std::optional<std::uint32_t> number_of_mount(pid_t pid) {
  std::ifstream mounts("/proc/" + std::to_string(pid) + "/mountinfo");
  std::optional<std::uint32_t> found;
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string id, parent, device;
    words >> id >> parent >> device;   // proc(5): "0:MINOR" of a file system without a disk
    if (line.find(" - fuse.fbroker ") == line.npos || !device.starts_with("0:")) continue;
    if (found) return std::nullopt;
    found = number_in(std::string_view(device).substr(2));
  }
  return found;
}

}  // namespace

std::optional<std::uint32_t> FuseConnection::number_of(int device) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(device));
  constexpr std::string_view kKey = "fuse_connection:\t";
  for (std::string line; std::getline(info, line);)
    if (line.starts_with(kKey)) return number_in(std::string_view(line).substr(kKey.size()));
  return std::nullopt;
}

Result<FuseConnection> FuseConnection::of(int device, pid_t mounted_by) {
  auto number = number_of(device);
  if (!number) number = number_of_mount(mounted_by);
  if (!number) return Error{"device", "its connection cannot be found"};
  const std::string file = "/sys/fs/fuse/connections/" + std::to_string(*number) + "/abort";
  UniqueFd abort(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (abort) return FuseConnection(*number, std::move(abort));
  std::string why = std::strerror(errno);
  if (errno == ENOENT) why += " (as root: mount -t fusectl fusectl /sys/fs/fuse/connections)";
  return Error{file, "the connection could not be aborted: " + why};
}

void FuseConnection::abort() const noexcept { [[maybe_unused]] const auto written = ::write(abort_.get(), "1", 1); }

}  // namespace fbroker::broker
