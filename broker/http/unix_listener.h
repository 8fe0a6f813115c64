// A listening Unix socket: made in its directory, taken over from a broker
// that died, refused while another one lives there; and who is calling.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

// A listening socket and the lock that says it is alive. The lock is held by
// the descriptor: a broker that is killed lets go of it.
struct UnixListener {
  UniqueFd socket;   // non-blocking, close-on-exec
  UniqueFd lock;     // `lock_path`, flock'ed
  std::string path;
};

// Listens on `directory`/`name` with `mode`. The directory must exist, belong
// to the caller and be writable by nobody else.
// `lock_path` must lie where no sandbox can open it: a sandbox that sees the
// socket's directory could lock a file in it, and keep a restarted broker out.
// A socket left by a dead broker is replaced atomically (rename over it), so
// that a client never finds the name missing.
// Errors (with the cure): a live broker holds it; something else than a socket
//   lies there; the directory is not ours; the path is too long (107 bytes).
Result<UnixListener> bind_unix_socket(const std::string& directory, const std::string& name,
                                      mode_t mode, const std::string& lock_path);

// The lock of the socket at `path`, empty and held for as long as the
// descriptor lives. Errors: a live broker has it.
Result<UniqueFd> take_lock(const std::string& lock_path, const std::string& path);

struct Peer {
  std::uint32_t pid = 0;   // as seen from here; 0 = in a namespace we cannot see
  uid_t uid = 0;
};

// SO_PEERCRED: who called connect(2), told by the kernel.
Result<Peer, Errno> peer_of(int socket);

// User ids that may call besides the broker's own, for example those that a
// rootless container's users are mapped to. Ends included.
struct UidRange {
  uid_t first = 0;
  uid_t last = 0;
};

// Whether `uid` is this process's own or in one of the ranges.
bool may_call(uid_t uid, const std::vector<UidRange>& others) noexcept;

}  // namespace fbroker::broker
