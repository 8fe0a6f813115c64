// What front.cc (session, threads, events) and operations.cc (requests) share.
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <atomic>
#include <mutex>
#include <shared_mutex>

#include "broker/fuse/front.h"
#include "broker/fuse/handle_table.h"
#include "broker/fuse/inode_table.h"
#include "broker/fuse/recent_events.h"

namespace fbroker::fuse {

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
  std::atomic<bool> initialised{false};
  std::atomic<bool> announced{false};
  std::atomic<unsigned> kernel_minor{0};   // of the protocol that the kernel speaks, 7.N
  std::atomic<int> failure{0};
  std::unique_ptr<fuse_session, SessionDelete> session;

  std::uint64_t events_seen() {
    const std::shared_lock lock(gate);
    return events.count();
  }
};

// The request handlers, a table for libfuse; userdata is the Impl.
const fuse_lowlevel_ops& operations();

}  // namespace fbroker::fuse
