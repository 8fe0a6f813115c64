#include "shim/init/give_device.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "broker/protocol/device_offer.h"
#include "shim/init/process.h"

namespace fbroker::init {
namespace {

using protocol::DeviceOffer;
using protocol::kMaxDevices;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostWords = 16 * 1024;
constexpr std::size_t kChannels = 4;   // threads of the broker's that do not share a queue of answers

Result<UniqueFd> connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Error{path, "is too long for a socket's name"};
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return Error{path, last_error()};
  return socket;
}

// Until `end` has come; what the broker says is ours to trust, not its length.
Result<std::string> read_until(int socket, std::string_view end, Clock::time_point until) {
  std::string words;
  while (words.find(end) == words.npos && words.size() < kMostWords) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    pollfd wait{.fd = socket, .events = POLLIN, .revents = 0};
    if (left <= 0 || ::poll(&wait, 1, static_cast<int>(left)) <= 0) return Error{"broker", "did not answer in time"};
    char bytes[1024];
    const ssize_t got = ::recv(socket, bytes, sizeof bytes, 0);
    if (got <= 0) break;
    words.append(bytes, static_cast<std::size_t>(got));
  }
  return words;
}

// Why not, out of a problem+json's "detail".
std::string reason_in(const std::string& answer) {
  constexpr std::string_view kKey = "\"detail\":\"";
  const std::size_t at = answer.find(kKey);
  if (at == answer.npos) return answer.substr(0, answer.find("\r\n"));
  const std::size_t begin = at + kKey.size();
  return answer.substr(begin, answer.find('"', begin) - begin);
}

Result<void> upgrade(int socket, Clock::time_point until) {
  const std::string request = std::string("GET /v1/device HTTP/1.1\r\nHost: fbroker\r\nConnection: Upgrade\r\nUpgrade: ") +
                              protocol::kDeviceUpgrade + "\r\n\r\n";
  if (::send(socket, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    return Error{"broker", last_error()};
  FBROKER_TRY(std::string answer, read_until(socket, "\r\n\r\n", until));
  if (answer.starts_with("HTTP/1.1 101 ")) return ok;
  if (answer.find("\"detail\"") == answer.npos)
    if (auto rest = read_until(socket, "}", until)) answer += *rest;
  return Error{"broker", reason_in(answer)};
}

UniqueFd clone_of(const Options& options, int device) {
  UniqueFd channel(::open(options.device.c_str(), O_RDWR | O_CLOEXEC));
  auto source = static_cast<std::uint32_t>(device);
  if (!channel || ::ioctl(channel.get(), FUSE_DEV_IOC_CLONE, &source) != 0) return UniqueFd();
  return channel;
}

Result<void> send_devices(int socket, const std::vector<int>& devices) {
  DeviceOffer offer;
  offer.devices = static_cast<std::uint32_t>(devices.size());
  offer.uid = ::geteuid();
  offer.gid = ::getegid();
  iovec data{&offer, sizeof offer};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDevices * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(devices.size() * sizeof(int));
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(devices.size() * sizeof(int));
  std::memcpy(CMSG_DATA(part), devices.data(), devices.size() * sizeof(int));
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) return Error{"broker", last_error()};
  return ok;
}

}  // namespace

Result<void> give_device(const Options& options, const UniqueFd& device) {
  const auto until = Clock::now() + options.wait;
  FBROKER_TRY(const UniqueFd socket, connect_to(options.socket));
  FBROKER_TRY_VOID(upgrade(socket.get(), until));
  std::vector<UniqueFd> clones;
  std::vector<int> devices{device.get()};
  while (devices.size() < kChannels) {
    UniqueFd clone = clone_of(options, device.get());
    if (!clone) break;   // the broker's threads share those that there are
    devices.push_back(clone.get());
    clones.push_back(std::move(clone));
  }
  FBROKER_TRY_VOID(send_devices(socket.get(), devices));
  FBROKER_TRY(const std::string answer, read_until(socket.get(), "\n", until));
  if (answer != protocol::kDeviceAdopted) return Error{"broker", answer.substr(0, answer.find('\n'))};
  return ok;
}

}  // namespace fbroker::init
