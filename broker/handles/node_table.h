// NodeTable: the files that are open in a session, by identity.
//
// A node is a file, not a name (design section 7): all handles of one file
// share one node, and with it the lock that places appended bytes.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>

#include "broker/protocol/file_service.h"

namespace fbroker::broker {

struct IdentityHash {
  std::size_t operator()(const protocol::FileIdentity& identity) const noexcept;
};

struct Node {
  const protocol::FileIdentity identity;
  std::mutex append;   // held from finding the end of the file to writing there
};

// Threads: all members, any thread.
class NodeTable {
 public:
  // The node lives as long as somebody holds it.
  std::shared_ptr<Node> node(const protocol::FileIdentity& identity);
  std::size_t size() const;

 private:
  mutable std::mutex mutex_;   // guards nodes_
  std::unordered_map<protocol::FileIdentity, std::weak_ptr<Node>, IdentityHash> nodes_;
  std::size_t sweep_at_ = 1024;   // size at which dead entries are thrown out next
};

}  // namespace fbroker::broker
