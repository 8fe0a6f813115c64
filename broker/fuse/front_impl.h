// What front.cc (session, threads, events) and operations.cc (requests) share.
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <array>
#include <atomic>
#include <deque>
#include <mutex>
#include <shared_mutex>

#include "broker/fuse/device.h"
#include "broker/fuse/front.h"
#include "broker/fuse/handle_table.h"
#include "broker/fuse/inode_table.h"
#include "broker/fuse/intents.h"
#include "broker/fuse/recent_events.h"

namespace fbroker::fuse {

// A request is its header, at most kMaxTransfer bytes and room to spare for
// the fixed part and two names.
inline constexpr std::size_t kBufferBytes = kMaxTransfer + 64 * 1024;

struct SessionDelete {
  void operator()(fuse_session* session) const { fuse_session_destroy(session); }
};

struct FuseFront::Impl {
  Impl(protocol::FileService& s, Options o)
      : service(s), options(std::move(o)), nodes(options.max_nodes), handles(options.max_handles) {}

  protocol::FileService& service;
  const Options options;
  std::unique_ptr<Notifier> notifier;
  InodeTable nodes;
  HandleTable handles;

  // Held shared from the comparison to the end of the reply, alone while an
  // event is counted. Never while the service or a notification is waited for.
  std::shared_mutex gate;
  RecentEvents events;  // guarded by gate

  std::vector<UniqueFd> devices;
  UniqueFd stop_event;
  std::array<std::atomic<std::uint64_t>, 64> requests{};   // by opcode; the last one: all beyond
  std::atomic<bool> initialised{false};
  std::atomic<bool> announced{false};
  std::atomic<unsigned> kernel_minor{0};   // of the protocol that the kernel speaks, 7.N
  std::atomic<int> failure{0};
  // The kernel collects writes (Options::write_back). Set by INIT, once.
  std::atomic<bool> writes_back{false};
  std::unique_ptr<fuse_session, SessionDelete> session;

  // Restart (restart.cc).
  std::unique_ptr<Intents> intents;                 // none: nothing is kept
  std::vector<std::byte> init_answer;               // not empty: an earlier process had answered INIT
  std::mutex sent_again_mutex;                      // guards the next
  std::deque<std::vector<std::byte>> sent_again;    // read from devices[0] before anybody served
  std::timed_mutex telling;                         // held by tell()
  bool resuming_init = false;                       // open_state() alone: INIT is an earlier process's
  std::atomic<bool> forgetting{false};              // run() tells, and has to be served

  std::uint64_t events_seen() {
    const std::shared_lock lock(gate);
    return events.count();
  }
};

// libfuse believes the header's length.
bool is_whole_request(std::span<const std::byte> request);

// ---- restart

// Opens or makes the files at Options::state; libfuse is given the INIT that
// the kernel had sent. After the session has been made.
Result<void> open_state(FuseFront::Impl&);
// Before anybody serves: what was read and not answered comes again, and what
// had been answered but for the sending is.
void ask_again(FuseFront::Impl&);
// A request from the device, with the slot of the calling thread.
void serve_request(FuseFront::Impl&, int channel, std::span<std::byte> request, IntentSlot* slot);

// The service's handle of an open one, which is opened again if need be.
Result<protocol::HandleId, Errno> wake(FuseFront::Impl&, const protocol::Caller&, std::uint64_t id,
                                       const OpenHandle&);
// The node is about to lose the name, or its file the permissions: what could
// not be opened again goes to the keeper.
void keep_open_files(FuseFront::Impl&, const protocol::Caller&, NodeId, const WorkspacePath& last);
void keep_open_file(FuseFront::Impl&, std::uint64_t id, NodeId, protocol::HandleId, const WorkspacePath& last);

// ---- requests that an earlier process had begun. Each may have been carried
// out or not. The kernel holds the directory's lock all the while, so nobody
// inside has changed the name since.

// What it made for this very request; none: nothing, and it is to be made now.
std::optional<protocol::Lookup> already_made(FuseFront::Impl&, const protocol::Caller&, NodeId parent,
                                             std::string_view name, const WorkspacePath&, protocol::FileType);
bool already_linked(FuseFront::Impl&, const protocol::Caller&, NodeId node, NodeId parent, std::string_view name,
                    const WorkspacePath&, protocol::Lookup& out);
bool already_removed(FuseFront::Impl&, const protocol::Caller&, NodeId parent, std::string_view name,
                     const WorkspacePath&);
bool already_renamed(FuseFront::Impl&, const protocol::Caller&, NodeId parent, std::string_view name,
                     const WorkspacePath& from, NodeId new_parent, std::string_view new_name, const WorkspacePath& to);
// Something was made for the request being served.
void note_made(const protocol::FileIdentity&) noexcept;

// The request handlers, a table for libfuse; userdata is the Impl.
const fuse_lowlevel_ops& operations();

}  // namespace fbroker::fuse
