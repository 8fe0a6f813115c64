// HandleTable: the open files and directories of a FUSE kernel.
//
// ATTACK: file handles come from a hostile device. A handle is a slot and a
//   generation, holds for one node only, and a file's is no directory's.
// Threads: all members, any thread; one short lock inside.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
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
  // 0: it was opened by an earlier process and is opened again at its first use.
  protocol::HandleId service = 0;
  NodeId node = 0;
  bool writes = false;
  std::shared_ptr<DirectoryCursor> cursor;  // directories only
  int flags = 0;                            // what a file is opened again with, and kOthersWrite
  // Its descriptor lies with a keeper (front.h), and this is where the file was last.
  std::shared_ptr<const WorkspacePath> kept = nullptr;
};

// In OpenHandle::flags, with write-back: somebody else writes the file too, so
// that the service places what is appended.
inline constexpr int kOthersWrite = 1 << 29;

struct NumberedHandle {
  std::uint64_t id = 0;
  OpenHandle handle;
};

// Records of the table's journal: the words of each, and its text.
namespace handle_record {
inline constexpr std::uint8_t
    kBase = 1,     // first generation
    kOpened = 2,   // id, node, flags and kDirectoryBit
    kKept = 3,     // id: path
    kClosed = 4,   // id
    kVacant = 5;   // the next id of a slot
inline constexpr std::uint64_t kDirectoryBit = 1ULL << 32;
}

class HandleTable {
 public:
  explicit HandleTable(std::size_t max_handles) : max_(max_handles) {}

  // As InodeTable's.
  Result<void> keep_in(const std::string& path);
  Result<void> resume(const std::string& path);
  void start_over(std::uint32_t generation);

  // Errors: ENFILE.
  Result<std::uint64_t, Errno> add(OpenHandle);
  // Errors: EBADF for what was never given out, was closed, or is of another
  // node or of the other kind.
  Result<OpenHandle, Errno> file(std::uint64_t id, NodeId) const;
  Result<OpenHandle, Errno> directory(std::uint64_t id, NodeId) const;
  Result<OpenHandle, Errno> remove(std::uint64_t id, NodeId, bool directory);

  // An open handle of an open file, one that writes if there is one.
  std::optional<NumberedHandle> any_of(NodeId) const;
  // Those nodes that are open for writing.
  std::vector<NodeId> written() const;
  // All of a file's.
  std::vector<NumberedHandle> all_of(NodeId) const;
  // It was opened again. The service's handle that it has now: another thread may have been first.
  Result<protocol::HandleId, Errno> woken(std::uint64_t id, NodeId, protocol::HandleId, const protocol::Attributes& now);
  // It lies with a keeper. False: it is not open any more.
  bool note_kept(std::uint64_t id, NodeId, const WorkspacePath& last);
  // All that are open, once; afterwards the table is empty.
  std::vector<OpenHandle> take_all();
  std::size_t size() const;
  bool journal_given_up() const;

 private:
  struct Slot {
    OpenHandle handle;
    std::uint32_t generation = 0;
    bool used = false;
  };
  Result<OpenHandle, Errno> find(std::uint64_t id, NodeId, bool directory) const;
  void vacate(std::uint32_t index);
  bool replay(const JournalRecord&);
  void write_live(Journal&) const;
  void compact_if_due();

  const std::size_t max_;
  mutable std::mutex mutex_;  // guards all below; nothing else is locked under it
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::unordered_multimap<NodeId, std::uint32_t> of_node_;  // files only
  std::size_t used_ = 0;
  std::uint32_t first_generation_ = 0;
  std::unique_ptr<Journal> journal_;
};

}  // namespace fbroker::fuse
