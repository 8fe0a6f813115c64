// Where the broker's sockets and state lie, and that they are ours alone.
//
//   $XDG_RUNTIME_DIR/fbroker/            0700   (else /tmp/fbroker-UID/)
//     SESSION/broker.sock                the data socket, alone in its directory
//     control/BROKER.sock                0600, never mounted anywhere
//     .locks/                            which sockets have a live broker; never mounted
//   ${XDG_STATE_HOME:-~/.local/state}/fbroker/BROKER/   0700
//     grants.json sessions.json audit/
#pragma once

#include <string>
#include <string_view>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

// The base of all sockets; nothing is created. XDG_RUNTIME_DIR counts only when
// it is absolute and belongs to the effective user (it does not after `sudo`).
std::string runtime_path();
// ${XDG_STATE_HOME:-~/.local/state}/fbroker: every broker's state, and agents' homes.
std::string state_root();
// ${XDG_CONFIG_HOME:-~/.config}/fbroker: what the person wrote for all brokers.
std::string config_root();
// state_root()/BROKER; nothing is created.
std::string state_path(std::string_view broker);
std::string control_socket_path(std::string_view broker);
std::string session_directory_path(std::string_view session);
// Where the locks of all sockets lie.
std::string locks_path();
// The lock of the socket at that absolute path; its directory is made by
// make_runtime_directory().
std::string lock_path_of(const std::string& socket);
// The person's home directory: HOME, else the password database; "" = none.
std::string home_directory();

// Names of sessions and brokers become names of directories: letters, digits,
// ".", "_" and "-", 1 to 64 of them, not starting with "." or "-"; "control" is taken.
bool is_session_name(std::string_view name) noexcept;

enum class Access { owner_only, anybody_may_enter };

// Makes the directory (parents too) unless it is there, and opens it.
// ATTACK: in a shared /tmp somebody else made it first, or put a symlink in
//   its place. So: no symlink as last component, it must belong to us, and
//   `owner_only` must give nothing to anybody else.
// anybody_may_enter: 0755, for what is mounted into a sandbox under another
// uid; its parent keeps everybody else out.
Result<UniqueFd> private_directory(const std::string& path, Access access = Access::owner_only);

// runtime_path(), made and checked.
Result<void> make_runtime_directory();

}  // namespace fbroker::broker
