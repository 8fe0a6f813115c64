// InodeTable: the files and directories that a FUSE kernel has been told of.
//
// A node is a file (device, inode, time of birth) and the names it is known
// by: hard links share one. A directory has one name; the same directory seen
// under a second path (overlapping exports) is another node, because the
// kernel allows a directory one place only. Names are hints: the service
// checks the identity of what it finds and answers ESTALE when a name has
// become another file, so a name that is out of date does no harm.
//
// ATTACK: whoever holds a copy of the FUSE device can make the kernel send any
//   node id and forget count. An id is a slot and a generation, never a
//   pointer; an unknown one is ESTALE; counts stop at zero.
// ATTACK: a file that is open and has lost its name (removed, replaced, moved
//   away) still has pages in the kernel. Where it was is remembered, so that a
//   revoke of that place finds it.
// INVARIANT: an id is never used for a second file. A slot whose generations
//   are used up is not used again.
// Nothing here calls the service or the kernel. No descriptor per node.
// With a journal every change that a successor must know is in it before the
// call returns. Look-ups may be counted there twice for an answer that a kill
// cut short, never too few: a node too many is harmless.
// Memory: about 250 bytes a node with one name; bounded by max_nodes.
// Threads: all members, any thread; one short lock inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "broker/fuse/journal.h"
#include "broker/protocol/file_service.h"

namespace fbroker::fuse {

using NodeId = std::uint64_t;
inline constexpr NodeId kRootNode = 1;  // FUSE_ROOT_ID

// One way to a node.
struct NodeName {
  NodeId parent = 0;
  std::string name;
  WorkspacePath path;
};

// What is known of a node, copied out.
struct NodeView {
  std::vector<NodeName> names;  // empty: unlinked. The root has one, "/"
  protocol::FileIdentity identity;
  protocol::FileType type = protocol::FileType::regular;
  protocol::Lifetime lifetime = protocol::Lifetime::none;
  std::uint32_t permissions = 0;
  bool permissions_fresh = false;  // nothing has happened since they were told
};

// Records of the table's journal: the words of each, and its text.
namespace node_record {
inline constexpr std::uint8_t
    kBase = 1,      // first generation
    kNode = 2,      // id, device, inode, birth, look-ups, bits
    kName = 3,      // node, parent: name
    kVacant = 4,    // the next id of a slot
    kMade = 5,      // id, parent, device, inode, birth, type: name (one look-up)
    kNamed = 6,     // id, parent: name (one look-up)
    kLookedUp = 7,  // id (one look-up)
    kForgot = 8,    // id, look-ups
    kUnnamed = 9,   // parent: name
    kMoved = 10,    // parent, new parent, bytes of the first name: both names
    kRetired = 11,  // id
    kCached = 12,   // id
    kRoot = 13;     // device, inode, birth
}

// What the kernel has to be told after an event.
struct Affected {
  struct Entry {
    NodeId parent;
    std::string name;
    bool directory;
  };
  std::vector<Entry> entries;
  std::vector<NodeId> directories;  // where look-ups under way may install one of `nodes`
  std::vector<NodeId> nodes;
};

class InodeTable {
 public:
  // `generation` is where ids begin: another table's ids are not among them.
  explicit InodeTable(std::size_t max_nodes, std::uint32_t generation = 0);

  // Writes down what there is and from now on every change.
  Result<void> keep_in(const std::string& path);
  // Becomes what the file says and goes on writing there. After an error the
  // table is what it was when it was made. Precondition: nothing is remembered.
  Result<void> resume(const std::string& path);
  // Nothing but the root, and ids that begin elsewhere. Nothing is written.
  void start_over(std::uint32_t generation);

  // Errors: ESTALE for an unknown or retired node, or a directory that lost
  // its name; those of WorkspacePath::child.
  Result<NodeView, Errno> view(NodeId) const;
  Result<WorkspacePath, Errno> child_path(NodeId directory, std::string_view name) const;
  // Whether the node exists and was not retired.
  bool usable(NodeId) const;
  // The node that `directory` is known to hold under `name`; 0: none.
  NodeId named(NodeId directory, std::string_view name) const;

  // The kernel is about to be told that `parent` holds `name`: finds or makes
  // the node and counts one look-up. Another identity than before under the
  // name makes another node. Errors: ESTALE (parent), ENOMEM (too many nodes).
  Result<NodeId, Errno> remember(NodeId parent, std::string_view name,
                                 const protocol::Attributes&, protocol::Lifetime);
  // New attributes of a node, told without a look-up.
  void refresh(NodeId, const protocol::Attributes&, protocol::Lifetime);
  void forget(NodeId, std::uint64_t lookups);
  // The kernel is about to be told that `directory` has no `name`, for good.
  // False: it must not keep that. (Below any other directory such names go
  // with the directory's own; the root has none, so its are counted here.)
  bool remember_absent(NodeId directory, std::string_view name);

  // The name is gone (unlink, rmdir).
  void drop_name(NodeId parent, std::string_view name);
  // As drop_name, but only while it is still a name of `node`.
  void disown(NodeId node, NodeId parent, std::string_view name);
  void moved(NodeId parent, std::string_view name, NodeId new_parent, std::string_view new_name);

  // An open of a file: whether the kernel's pages are of the very version that
  // was opened. They are remembered as being that from now on.
  bool same_version(NodeId, const protocol::Attributes&);

  // The kernel is about to hold pages of it (a link's target).
  void note_cached(NodeId);

  // Directories. The kernel keeps a listing; it is worth keeping at the next
  // opendir when it was read from start to end and nothing happened since.
  struct Listing {
    std::uint32_t epoch = 0;  // to be given to listed()
    bool keep = false;
  };
  Listing open_listing(NodeId, const protocol::Attributes&);
  void listed(NodeId, std::uint32_t epoch, bool to_the_end, const protocol::Attributes& at_open);

  // Events: each marks what is concerned and returns what to tell the kernel.
  Affected below(const WorkspacePath&, const protocol::FileIdentity&, bool retire);
  Affected entry(const WorkspacePath&, const protocol::FileIdentity&);
  // `forget_names`: of a regular file its names, too.
  Affected content(const WorkspacePath&, const protocol::FileIdentity&, bool forget_names = false);
  Affected everything();

  std::size_t size() const;
  // Bytes held, about: for tests and status.
  std::size_t memory() const;
  std::uint64_t journal_bytes() const;   // 0: no journal
  bool journal_given_up() const;

 private:
  static constexpr std::uint32_t kNone = 0xffffffff;
  static constexpr std::size_t kMaxAbsentInRoot = 1024;
  static constexpr std::size_t kMaxNamelessBytes = 4 << 20;

  struct Version {
    std::uint64_t size = 0;
    std::int64_t modified_ns = 0;
    std::int64_t changed_ns = 0;
    friend bool operator==(const Version&, const Version&) = default;
  };
  struct Node {
    protocol::FileIdentity identity;
    Version version;                  // of the cached pages or listing
    std::uint64_t lookups = 0;        // references the kernel holds
    std::uint32_t generation = 0;
    std::uint32_t first_name = kNone;
    std::uint32_t first_child = kNone;  // a name
    std::uint32_t listing_epoch = 0;
    std::uint16_t permissions = 0;
    protocol::FileType type = protocol::FileType::regular;
    protocol::Lifetime lifetime = protocol::Lifetime::none;
    bool used = false;
    bool retired = false;
    bool version_known = false;
    bool permissions_fresh = false;
    bool cached = false;            // the kernel may hold pages or a listing
  };
  struct Name {
    std::string text;
    std::uint32_t parent = kNone;   // node slots
    std::uint32_t node = kNone;
    std::uint32_t next_of_node = kNone;
    std::uint32_t next_sibling = kNone;
    std::uint32_t previous_sibling = kNone;
  };
  struct NameKey {
    std::uint32_t parent;
    std::string_view text;
    friend auto operator<=>(const NameKey&, const NameKey&) = default;
  };
  // Ordered, not hashed: names are chosen by the agent, and a tree cannot be
  // flooded with collisions.
  struct NameLess {
    using is_transparent = void;
    const InodeTable* table;
    bool operator()(std::uint32_t a, std::uint32_t b) const { return key(a) < key(b); }
    bool operator()(std::uint32_t a, const NameKey& b) const { return key(a) < b; }
    bool operator()(const NameKey& a, std::uint32_t b) const { return a < key(b); }
    NameKey key(std::uint32_t i) const {
      const Name& name = table->names_[i];
      return {name.parent, name.text};
    }
  };
  struct IdentityLess {
    using is_transparent = void;
    const InodeTable* table;
    static auto key(const protocol::FileIdentity& i) {
      return std::tuple(i.inode, i.device, i.birth_ns);
    }
    auto key(std::uint32_t slot) const { return key(table->nodes_[slot].identity); }
    template <class A, class B>
    bool operator()(const A& a, const B& b) const {
      return key(a) < key(b);
    }
  };

  static Version version_of(const protocol::Attributes&);
  NodeId id_of(std::uint32_t slot) const;
  std::uint32_t slot_of(NodeId) const;         // kNone: no such node
  std::uint32_t find_name(std::uint32_t parent, std::string_view) const;
  std::uint32_t find_identity(const protocol::FileIdentity&) const;
  std::uint32_t resolve(const WorkspacePath&) const;
  std::uint32_t resolve(std::uint32_t directory, std::string_view below) const;
  std::string last_path_of(std::uint32_t name) const;
  void remember_nameless(std::uint32_t slot, std::string path);
  void forget_nameless(std::uint32_t slot);
  void mark_nameless(const WorkspacePath&, bool retire, Affected&);
  bool path_of(std::uint32_t directory, std::string& out) const;
  bool is_at_or_below(std::uint32_t node, std::uint32_t directory) const;

  Result<std::uint32_t, Errno> new_node(const protocol::Attributes&);
  void free_node(std::uint32_t slot);
  void add_name(std::uint32_t node, std::uint32_t parent, std::string_view);
  void remove_name(std::uint32_t name);
  void detach_from_parent(std::uint32_t name);
  void attach_to_parent(std::uint32_t name);
  void retire_node(std::uint32_t slot);
  void set_attributes(Node&, const protocol::Attributes&, protocol::Lifetime);

  void mark(std::uint32_t slot);
  void mark(std::uint32_t slot, Affected&);
  void mark_with_names(std::uint32_t slot, Affected&);
  void mark_names(std::uint32_t slot, Affected&);
  void mark_ancestors(const WorkspacePath&, Affected&);
  void mark_absent(Affected&);
  void mark_tree(std::uint32_t slot, bool retire, Affected&);

  // The journal (inode_table_journal.cc). Each is to be called with the lock
  // held, and does nothing without a journal.
  template <class... Words>
  void note(std::uint8_t kind, std::string_view text, Words... words) {
    if (journal_) journal_->append(kind, {static_cast<std::uint64_t>(words)...}, text);
  }
  void compact_if_due();
  void note_cached_once(std::uint32_t slot);
  void write_live(Journal&) const;
  bool replay(const JournalRecord&);
  bool replay_node(const JournalRecord&);
  bool replay_made(const JournalRecord&);
  bool replay_name(const JournalRecord&);
  bool replay_change(const JournalRecord&);
  std::uint32_t slot_for(NodeId, bool vacant);
  Result<void> check_tree() const;
  void reset();

  const std::size_t max_nodes_;
  mutable std::mutex mutex_;  // guards all below; nothing else is locked under it
  std::deque<Node> nodes_;
  std::deque<Name> names_;
  std::vector<std::uint32_t> free_nodes_;
  std::vector<std::uint32_t> free_names_;
  std::set<std::uint32_t, NameLess> by_name_{NameLess{this}};
  std::set<std::uint32_t, IdentityLess> by_identity_{IdentityLess{this}};  // not directories
  std::set<std::string, std::less<>> absent_in_root_;
  std::map<std::uint32_t, std::string> nameless_;  // nodes, and where they were; "": anywhere
  std::size_t nameless_bytes_ = 0;                 // of those paths
  std::size_t used_ = 0;
  std::uint32_t first_generation_ = 0;
  std::unique_ptr<Journal> journal_;
};

}  // namespace fbroker::fuse
