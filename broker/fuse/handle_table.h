// HandleTable: the open files and directories of a FUSE kernel.
//
// ATTACK: file handles come from a hostile device. A handle is a slot and a
//   generation, holds for one node only, and a file's is no directory's.
// Threads: all members, any thread; one short lock inside.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "broker/fuse/inode_table.h"

namespace fbroker::fuse {

// Where an open directory's reader stands. FUSE offsets are counts of entries
// ("." is 0, ".." is 1), the service's positions are opaque; `pages` maps one
// to the other.
struct DirectoryCursor {
  struct Page {
    std::uint64_t first = 0;  // offset of its first entry
    std::uint64_t position = 0;
  };
  std::mutex mutex;  // guards all below; never held during a call of the service
  protocol::Attributes at_open;
  std::uint32_t epoch = 0;    // InodeTable::Listing
  std::uint64_t seen = 0;     // events known when the listing was made
  std::vector<Page> pages;    // those begun so far, in order
  std::shared_ptr<const protocol::DirectoryPage> page;  // of pages[current]
  std::size_t current = 0;
};

struct OpenHandle {
  protocol::HandleId service = 0;
  NodeId node = 0;
  bool writes = false;
  std::shared_ptr<DirectoryCursor> cursor;  // directories only
};

class HandleTable {
 public:
  explicit HandleTable(std::size_t max_handles) : max_(max_handles) {}

  // Errors: ENFILE.
  Result<std::uint64_t, Errno> add(OpenHandle);
  // Errors: EBADF for what was never given out, was closed, or is of another
  // node or of the other kind.
  Result<OpenHandle, Errno> file(std::uint64_t id, NodeId) const;
  Result<OpenHandle, Errno> directory(std::uint64_t id, NodeId) const;
  Result<OpenHandle, Errno> remove(std::uint64_t id, NodeId, bool directory);

  // Some open handle of an open file, one that writes if there is one.
  protocol::HandleId any_of(NodeId) const;
  // All that are open, once; afterwards the table is empty.
  std::vector<OpenHandle> take_all();
  std::size_t size() const;

 private:
  struct Slot {
    OpenHandle handle;
    std::uint32_t generation = 0;
    bool used = false;
  };
  Result<OpenHandle, Errno> find(std::uint64_t id, NodeId, bool directory) const;

  const std::size_t max_;
  mutable std::mutex mutex_;  // guards all below; nothing else is locked under it
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::unordered_multimap<NodeId, std::uint32_t> of_node_;  // files only
  std::size_t used_ = 0;
};

}  // namespace fbroker::fuse
