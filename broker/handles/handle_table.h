// HandleTable: a session's open files and directories.
//
// An id is made of random bits of this broker's life and a counter, is never
// used again, and means nothing in another session: each has a table of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "broker/files/export.h"
#include "broker/handles/node_table.h"
#include "broker/protocol/file_service.h"
#include "policy/base/unique_fd.h"
#include "policy/snapshot.h"

namespace fbroker::broker {

// What a handle was opened for, and what of it is (still) allowed.
struct Rights {
  bool read = false;    // directories: list
  bool write = false;

  friend bool operator==(Rights, Rights) = default;
};

// A grant for one open, used up by the handle that it opened.
struct Pin {
  std::string grant;
  bool overrides_deny = false;
};

// A name of a directory's listing. Attributes are looked up page by page.
struct ListedName {
  std::string name;
  bool below_export = false;   // known from the export table, not from the disk
};

struct Handle {
  protocol::HandleId id = 0;
  bool directory = false;
  UniqueFd fd;                          // none: a synthetic directory
  std::shared_ptr<const Export> on;     // none: a synthetic directory
  std::shared_ptr<Node> node;           // regular files
  Rights opened;
  std::uint32_t pid = 0, peer_pid = 0;  // who opened it, as in Caller

  // The last decision: generation * 4 + write * 2 + read. A read or write under
  // the same generation costs one compare; 0 = decide anew.
  std::atomic<std::uint64_t> stamp{0};
  std::atomic<std::uint64_t> bytes_read{0};
  std::atomic<std::uint64_t> bytes_written{0};

  // Its name is one whose content may have to be looked at (git_files.h).
  std::atomic<bool> named_for_git{false};

  std::mutex mutex;                     // guards what follows; taken last
  WorkspacePath path;                   // its last name; follows renames
  bool unlinked = false;                // the name is another file's by now
  protocol::FileIdentity in_directory;  // where that name is, for the host watch
  std::vector<Pin> pinned_by;           // grants for one open that this was
  Rights revoked;                       // taken away for good
  std::vector<ListedName> listing;
  std::size_t listing_bytes = 0;
};

// Threads: all members, any thread.
class HandleTable {
 public:
  // Room for one handle, held until it is filled or given up.
  class Slot {
   public:
    Slot() = default;
    Slot(Slot&& other) noexcept : table_(std::exchange(other.table_, nullptr)) {}
    Slot& operator=(Slot other) noexcept { std::swap(table_, other.table_); return *this; }
    ~Slot() { if (table_ != nullptr) table_->give_up(); }

   private:
    friend class HandleTable;
    explicit Slot(HandleTable* table) : table_(table) {}
    HandleTable* table_ = nullptr;
  };

  explicit HandleTable(std::size_t max_handles);

  // To be taken before the disk is touched: an open that has made or emptied a
  // file cannot then fail for want of room. Errors: EMFILE when the table is full.
  Result<Slot, Errno> reserve();
  // Fills in the id; without a slot, errors as reserve(). Precondition: the slot is one of this table's, not yet filled.
  protocol::HandleId insert(Slot slot, std::shared_ptr<Handle> handle);
  Result<protocol::HandleId, Errno> insert(std::shared_ptr<Handle> handle);
  // None: no such handle (closed, another session's, another broker's, made up).
  std::shared_ptr<Handle> find(protocol::HandleId id) const;
  std::shared_ptr<Handle> remove(protocol::HandleId id);
  std::vector<std::shared_ptr<Handle>> all() const;
  std::size_t size() const;
  bool full() const;

 private:
  void give_up();

  mutable std::shared_mutex mutex_;   // guards handles_, reserved_ and next_
  std::size_t reserved_ = 0;
  std::unordered_map<protocol::HandleId, std::shared_ptr<Handle>> handles_;
  const std::size_t max_handles_;
  const protocol::HandleId instance_;
  protocol::HandleId next_ = 1;
};

}  // namespace fbroker::broker
