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

// The process's own ids, which never change while sessions are served.
uid_t own_uid() {
  static const uid_t uid = ::geteuid();
  return uid;
}
gid_t own_gid() {
  static const gid_t gid = ::getegid();
  return gid;
}

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

bool runs_as_root() { return own_uid() == 0; }

// Whether the kernel makes no difference between the process's own groups and
// the owner's: fsgid counts as one of them.
bool has_groups_of(const Owner& owner) {
  constexpr std::size_t kFew = 32;   // beyond it the comparison costs more than the call
  const auto& own = own_groups();
  if (owner.gid != own_gid()) return false;
  if (own.size() > kFew || owner.groups.size() > kFew) return false;
  const auto within = [&](const std::vector<gid_t>& some, const std::vector<gid_t>& others) {
    return std::all_of(some.begin(), some.end(), [&](gid_t group) {
      return group == owner.gid || std::find(others.begin(), others.end(), group) != others.end();
    });
  };
  return within(own, owner.groups) && within(owner.groups, own);
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
  return {own_uid(), own_gid(), own_groups()};
}

bool Owner::in_group(gid_t group) const noexcept {
  return group == gid || std::find(groups.begin(), groups.end(), group) != groups.end();
}

namespace {

// What the calling thread has become.
struct Acting {
  const Owner* as = nullptr;   // none: itself
  bool groups = false, ids = false, capabilities = false;   // what was changed for that
  Capabilities before;
};
thread_local Acting t_acting;

void step_down(const Owner& owner) {
  (void)own_groups();  // before they are changed
  t_acting.as = &owner;
  if ((t_acting.groups = !has_groups_of(owner))) set_groups(owner.groups);
  if ((t_acting.capabilities = owner.uid == 0)) {
    t_acting.before.get();
    Capabilities less = t_acting.before;
    less.data[0].effective &= ~kFileCapabilities;
    less.set();
  }
  if ((t_acting.ids = owner.uid != own_uid() || owner.gid != own_gid())) set_ids(owner.uid, owner.gid);
}

void step_up() {
  if (t_acting.ids) set_ids(own_uid(), own_gid());
  if (t_acting.capabilities) t_acting.before.set();
  if (t_acting.groups) set_groups(own_groups());
  t_acting.as = nullptr;
}

bool same(const Owner& a, const Owner& b) {
  return a.uid == b.uid && a.gid == b.gid && a.groups == b.groups;
}

}  // namespace

ActAs::ActAs(const Owner& owner) : before_(t_acting.as) {
  if (!runs_as_root() || (before_ != nullptr && same(*before_, owner))) return;
  if (before_ != nullptr) step_up();
  step_down(owner);
  active_ = true;
}

ActAs::~ActAs() {
  if (!active_) return;
  step_up();
  if (before_ != nullptr) step_down(*before_);
}

ActAsItself::ActAsItself() : before_(t_acting.as) {
  if (before_ != nullptr) step_up();
}

ActAsItself::~ActAsItself() {
  if (before_ != nullptr) step_down(*before_);
}

}  // namespace fbroker::broker
