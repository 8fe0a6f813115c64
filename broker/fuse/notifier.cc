#include "broker/fuse/notifier.h"

#include <linux/fuse.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace fbroker::fuse {

namespace {

// Not in this system's headers.
constexpr int kResend = 7;                    // FUSE_NOTIFY_RESEND
constexpr int kIncEpoch = 8;                  // FUSE_NOTIFY_INC_EPOCH

template <class Body>
std::span<const std::byte> bytes_of(const Body& body) {
  return std::as_bytes(std::span(&body, 1));
}

// A name or an inode that the kernel does not have, or a connection that is no more.
bool nothing_to_forget(int error) noexcept {
  return error == ENOENT || error == ENOTDIR || error == ENODEV || error == EPERM;
}

}  // namespace

void Notices::add(int code, std::span<const std::byte> body, std::string_view name) {
  fuse_out_header header{};
  const std::size_t name_bytes = name.empty() ? 0 : name.size() + 1;
  header.len = static_cast<std::uint32_t>(sizeof header + body.size() + name_bytes);
  header.error = code;
  const std::size_t at = bytes_.size();
  bytes_.resize(at + header.len);   // the name's NUL with it
  std::memcpy(bytes_.data() + at, &header, sizeof header);
  if (!body.empty()) std::memcpy(bytes_.data() + at + sizeof header, body.data(), body.size());
  if (!name.empty()) std::memcpy(bytes_.data() + at + sizeof header + body.size(), name.data(), name.size());
}

void Notices::name(std::uint64_t parent, std::string_view name, std::uint32_t flags) {
  fuse_notify_inval_entry_out body{};
  body.parent = parent;
  body.namelen = static_cast<std::uint32_t>(name.size());
  body.flags = flags;
  add(FUSE_NOTIFY_INVAL_ENTRY, bytes_of(body), name);
}

void Notices::forget_name(std::uint64_t parent, std::string_view text) { name(parent, text, 0); }
void Notices::expire_name(std::uint64_t parent, std::string_view text) { name(parent, text, FUSE_EXPIRE_ONLY); }

void Notices::forget_inode(std::uint64_t node) {
  fuse_notify_inval_inode_out body{};
  body.ino = node;   // from 0, of length 0: to the end
  add(FUSE_NOTIFY_INVAL_INODE, bytes_of(body));
}

void Notices::next_epoch() { add(kIncEpoch, {}); }
void Notices::send_again() { add(kResend, {}); }

int write_notices(int device, std::span<const std::byte> notices) noexcept {
  int failed = 0;
  while (notices.size() >= sizeof(fuse_out_header)) {
    fuse_out_header header;
    std::memcpy(&header, notices.data(), sizeof header);
    if (header.len < sizeof header || header.len > notices.size()) return EINVAL;
    if (::write(device, notices.data(), header.len) < 0 && !nothing_to_forget(errno) && failed == 0) failed = errno;
    notices = notices.subspan(header.len);
  }
  return failed;
}

}  // namespace fbroker::fuse
