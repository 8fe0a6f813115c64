// Every call of the file service and the operation it needs. What a call may do
// is decided from this table alone, so that a new one cannot forget to ask.
// (Private to broker/files.)
#pragma once

#include <fcntl.h>

#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "broker/files/descriptor_name.h"
#include "broker/files/local_file_service.h"
#include "policy/model.h"

namespace fbroker::broker {

using NamesShared = std::shared_lock<FairSharedMutex>;
using NamesAlone = std::unique_lock<FairSharedMutex>;

enum class LocalFileService::Call : std::uint8_t {
  lookup, stat, readlink, open, read, write, fsync, open_directory, read_directory, close,
  mkdir, symlink, link, unlink, rmdir, rename, truncate, chmod, utimens, statfs, resolve,
};

struct CallInfo {
  std::string_view name;         // the syscall's, as records spell it
  policy::Operation needs;       // open: besides, what its flags say
};

inline constexpr std::array<CallInfo, 21> kCalls{{
    {"lookup", policy::Operation::list},
    {"stat", policy::Operation::list},
    {"readlink", policy::Operation::read},
    {"open", policy::Operation::list},
    {"read", policy::Operation::read},
    {"write", policy::Operation::write},
    {"fsync", policy::Operation::list},
    {"opendir", policy::Operation::list},
    {"readdir", policy::Operation::list},
    {"close", policy::Operation::list},
    {"mkdir", policy::Operation::create},
    {"symlink", policy::Operation::create},
    {"link", policy::Operation::create},
    {"unlink", policy::Operation::delete_},
    {"rmdir", policy::Operation::delete_},
    {"rename", policy::Operation::delete_},   // and create and more on the target
    {"truncate", policy::Operation::write},
    {"chmod", policy::Operation::write},
    {"utimens", policy::Operation::write},
    {"statfs", policy::Operation::list},
    {"lookup", policy::Operation::list},      // resolve: a lookup per component
}};

template <class CallType>
constexpr const CallInfo& info_of(CallType call) {
  return kCalls[static_cast<std::size_t>(call)];
}

// INVARIANT: with "durability": "strict" nothing is answered, well or not, whose
//   record a power loss could still take; what cannot be on disk is EIO.
template <class Act>
auto LocalFileService::answer_durably(const Gate& gate, Act&& act) -> decltype(act()) {
  auto outcome = act();
  if (gate.admission.view().durability == policy::Durability::normal) return outcome;
  const auto on_disk = session_.audit.wait_durable();
  if (on_disk) return outcome;
  if constexpr (std::is_same_v<decltype(outcome), Result<protocol::Opened, Errno>>)
    if (outcome) handles_.remove(outcome->handle);   // nobody is told of it
  return on_disk.error();
}

// INVARIANT: nobody resolves a name while names change their meaning; every
//   handle is either entered before and follows, or opened after. And whoever
//   waits for that holds no admission: it is decided by what is true then.
template <class Lock, class Act>
auto LocalFileService::holding_names(const protocol::Caller& caller, Call call, Act&& act) {
  Lock names(names_);
  const Gate gate = enter(caller, call);
  return answer_durably(gate, [&] {
    const Lock held = std::move(names);
    return act(gate);
  });
}

// The name by which a descriptor can be named to calls that take only names.
inline std::string proc_name(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

// Opens the very file that `fd` (O_PATH) holds.
inline Result<UniqueFd, Errno> reopen(int fd, int flags) {
  const DescriptorName name(fd);
  UniqueFd opened(::openat(name.directory(), name.name(), flags | O_CLOEXEC));
  if (!opened) return Errno::last();
  return opened;
}

}  // namespace fbroker::broker
