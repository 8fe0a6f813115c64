// What a socket leaves on the disk: itself, its lock and, for a session's, its
// directory; and who clears that away.
//
// A socket that is to go with a certain process (a launcher's session, an
// embedded broker's control socket) names that process in its lock file. When
// both that process and the broker are gone nobody can come back to it, and
// the next broker to start removes it. A socket without such an owner waits
// for its broker: containers have its directory mounted.
#pragma once

#include <string>

#include "broker/sessions/host_process.h"
#include "policy/base/result.h"

namespace fbroker::broker {

// `lock`: the held lock of `socket`.
Result<void> write_owner(int lock, const HostProcess& owner, const std::string& socket);

// Precondition: the caller holds the socket's lock, and lets go of it next.
void remove_socket(const std::string& socket);

// The same for a socket of a broker that may be dead; a live one's stays.
void remove_dead_socket(const std::string& socket);

// Removes every socket whose owner is gone and which no broker holds.
void remove_orphaned_sockets();

}  // namespace fbroker::broker
