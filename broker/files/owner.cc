#include "broker/files/owner.h"

#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

namespace fbroker::broker {

namespace {

constexpr std::size_t kMaxGroups = 1024;

constexpr std::uint32_t bit(int capability) { return 1u << capability; }

// What the kernel itself takes away when fsuid leaves 0 (CAP_FS_MASK); taken
// away by hand where the owner is root and fsuid therefore stays 0.
constexpr std::uint32_t kFileCapabilities =
    bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH) | bit(CAP_FOWNER) |
    bit(CAP_FSETID) | bit(CAP_LINUX_IMMUTABLE) | bit(CAP_MKNOD);

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};

  void get() {
    if (::syscall(SYS_capget, &header, data.data()) != 0) std::abort();
  }
  void set() {
    if (::syscall(SYS_capset, &header, data.data()) != 0) std::abort();
  }
};

// The process's own groups, which the thread returns to.
const std::vector<gid_t>& own_groups() {
  static const std::vector<gid_t> groups = [] {
    std::vector<gid_t> found(static_cast<std::size_t>(std::max(0, ::getgroups(0, nullptr))));
    const int count = ::getgroups(static_cast<int>(found.size()), found.data());
    found.resize(static_cast<std::size_t>(std::max(0, count)));
    return found;
  }();
  return groups;
}

void set_groups(const std::vector<gid_t>& groups) {
  if (::syscall(SYS_setgroups, groups.size(), groups.data()) != 0) std::abort();
}

// setfsuid(2) reports no error; asking again tells.
void set_ids(uid_t uid, gid_t gid) {
  ::setfsgid(gid);
  ::setfsuid(uid);
  if (static_cast<gid_t>(::setfsgid(static_cast<gid_t>(-1))) != gid ||
      static_cast<uid_t>(::setfsuid(static_cast<uid_t>(-1))) != uid)
    std::abort();
}

bool runs_as_root() {
  static const bool root = ::geteuid() == 0;
  return root;
}

}  // namespace

Owner Owner::of(uid_t uid, gid_t gid) {
  Owner owner{uid, gid, {gid}};
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr)
    return owner;
  owner.gid = entry.pw_gid;
  std::vector<gid_t> groups(kMaxGroups);
  int count = static_cast<int>(groups.size());
  if (::getgrouplist(entry.pw_name, entry.pw_gid, groups.data(), &count) < 0) return owner;
  groups.resize(static_cast<std::size_t>(count));
  owner.groups = std::move(groups);
  return owner;
}

Owner Owner::acting_for(uid_t uid, gid_t gid) {
  if (runs_as_root()) return of(uid, gid);
  return {::geteuid(), ::getegid(), own_groups()};
}

bool Owner::in_group(gid_t group) const noexcept {
  return group == gid || std::find(groups.begin(), groups.end(), group) != groups.end();
}

ActAs::ActAs(const Owner& owner) {
  if (!runs_as_root()) return;
  active_ = true;
  (void)own_groups();  // before they are changed
  set_groups(owner.groups);
  if (owner.uid == 0) {
    Capabilities now;
    now.get();
    effective_[0] = now.data[0].effective;
    effective_[1] = now.data[1].effective;
    now.data[0].effective &= ~kFileCapabilities;
    now.set();
    dropped_ = true;
  }
  set_ids(owner.uid, owner.gid);
}

ActAs::~ActAs() {
  if (!active_) return;
  set_ids(::geteuid(), ::getegid());
  if (dropped_) {
    Capabilities now;
    now.get();
    now.data[0].effective = effective_[0];
    now.data[1].effective = effective_[1];
    now.set();
  }
  set_groups(own_groups());
}

}  // namespace fbroker::broker
