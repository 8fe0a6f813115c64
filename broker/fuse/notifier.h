// What the kernel is told to forget, and who tells it.
//
// A notification is a write to the FUSE device, and the write does not return
// before the kernel has forgotten: it waits for the lock of the directory
// concerned, which the kernel holds while a request about it is unanswered.
// ATTACK: whoever has a copy of the device takes such a request and never
//   answers; the writer then hangs, beyond SIGKILL. So the broker's notifier
//   is a process of its own (broker/device/helper_notifier.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace fbroker::fuse {

// Messages for the device, one behind the other, each as the kernel wants it.
class Notices {
 public:
  void forget_name(std::uint64_t parent, std::string_view name);
  // Linux 6.2 (protocol 7.38): it is looked up again, and who stands in it stays.
  void expire_name(std::uint64_t parent, std::string_view name);
  // Attributes, pages and a cached listing.
  void forget_inode(std::uint64_t node);
  // Linux 6.16 (7.44): every name, at once.
  void next_epoch();
  // Linux 6.9 (7.40): what was read from the device and not answered comes again.
  void send_again();

  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  bool empty() const noexcept { return bytes_.empty(); }

 private:
  void name(std::uint64_t parent, std::string_view name, std::uint32_t flags);
  void add(int code, std::span<const std::byte> body, std::string_view name = {});
  std::vector<std::byte> bytes_;
};

inline constexpr unsigned kMinorOfExpire = 38, kMinorOfResend = 40, kMinorOfEpoch = 44;

// Writes each message of `notices` to the device. 0, or the errno of the first
// that the kernel did not carry out; what it does not know needs no forgetting.
// Async-signal-safe.
int write_notices(int device, std::span<const std::byte> notices) noexcept;

// Threads: one at a time.
class Notifier {
 public:
  virtual ~Notifier() = default;
  // Whether the kernel has carried out all of it.
  virtual bool tell(const Notices&) = 0;
};

// For a mount whose device nobody else has.
class DirectNotifier final : public Notifier {
 public:
  explicit DirectNotifier(int device) : device_(device) {}   // borrowed
  bool tell(const Notices& notices) override { return write_notices(device_, notices.bytes()) == 0; }

 private:
  int device_;
};

}  // namespace fbroker::fuse
