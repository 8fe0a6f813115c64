#include "container/hardening/capabilities.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "container/hardening/no_new_privs.h"

namespace fbroker::hardening {
namespace {

// The kernel's own last capability may be newer than our headers' CAP_LAST_CAP.
constexpr int kMostCapabilities = 64;

using Data = std::array<__user_cap_data_struct, 2>;

Error failed(const char* what) { return Error{what, std::strerror(errno)}; }

__user_cap_header_struct header() { return {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0}; }

std::uint64_t joined(std::uint32_t low, std::uint32_t high) {
  return low | static_cast<std::uint64_t>(high) << 32;
}

// Asks `option` of every capability that this kernel knows.
std::uint64_t asked_one_by_one(int option, unsigned long sub_option, bool is_ambient) {
  std::uint64_t set = 0;
  for (int cap = 0; cap < kMostCapabilities; ++cap) {
    const auto number = static_cast<unsigned long>(cap);
    const int has = is_ambient ? ::prctl(option, sub_option, number, 0, 0)
                               : ::prctl(option, number, 0, 0, 0);
    if (has < 0) break;  // EINVAL: past the last one
    if (has > 0) set |= 1ull << cap;
  }
  return set;
}

void drop_bounding() {
  for (int cap = 0; cap < kMostCapabilities; ++cap)
    if (::prctl(PR_CAPBSET_DROP, static_cast<unsigned long>(cap), 0, 0, 0) < 0) break;
}

}  // namespace

Result<CapabilitySets> capability_sets() {
  auto head = header();
  Data data{};
  if (::syscall(SYS_capget, &head, data.data()) < 0) return failed("capget");
  CapabilitySets sets;
  sets.permitted = joined(data[0].permitted, data[1].permitted);
  sets.effective = joined(data[0].effective, data[1].effective);
  sets.inheritable = joined(data[0].inheritable, data[1].inheritable);
  sets.ambient = asked_one_by_one(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, true);
  sets.bounding = asked_one_by_one(PR_CAPBSET_READ, 0, false);
  return sets;
}

Result<void> drop_all_capabilities() {
  drop_bounding();  // first: it needs a capability itself
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
    return failed("clearing the ambient capabilities");
  auto head = header();
  Data nothing{};
  if (::syscall(SYS_capset, &head, nothing.data()) < 0) return failed("capset");

  // INVARIANT: what the kernel says now counts, not what the calls answered.
  FBROKER_TRY(const CapabilitySets left, capability_sets());
  if (!left.none_usable()) return Error{"capabilities", "some are left after dropping all"};
  if (left.bounding != 0 && !has_no_new_privs())
    return Error{"capabilities", "the bounding set could not be emptied (CAP_SETPCAP is missing)"};
  return ok;
}

}  // namespace fbroker::hardening
