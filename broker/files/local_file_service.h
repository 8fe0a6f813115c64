// LocalFileService: FileService over the host's file system, for one session.
//
// Every call goes the same way: admit() gives the view that it is decided by;
// the table of calls says which operation it needs and the policy what it says
// of the path; then the work is done on descriptors that came from
// Export::open; then the record is written, and only then is there an answer.
//
// Records are written after the work (its result belongs in them) and before
// the answer. INVARIANT: what cannot be recorded does not happen: before
// anything is opened or changed the audit log is asked whether it would take a
// record. Should it fail in between, the answer is EIO and an opened
// descriptor is not handed out.
//
// The code lies in files by topic: local_file_service.cc (the gate, handles'
// rights, what the session's owner calls), local_names.cc, local_open.cc,
// local_directories.cc, local_attributes.cc, local_changes.cc.
//
// Threads: all members, any thread. Locks in their order: names_, a node's
// append, vetting_, a handle's mutex; created_, claims_ and the tables' own are leaves.
// An admission is taken after names_, never before: a revoke waits for those who
// are admitted, and not for those who wait for names.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "broker/files/created_set.h"
#include "broker/files/made_links.h"
#include "broker/files/export.h"
#include "broker/files/fair_shared_mutex.h"
#include "broker/files/fold_checks.h"
#include "broker/files/git_guard.h"
#include "broker/handles/handle_table.h"
#include "broker/handles/node_table.h"
#include "broker/protocol/file_service.h"
#include "broker/sessions/context.h"

namespace fbroker::broker {

struct LocalFileServiceOptions {
  // Open files and directories of the session; beyond it EMFILE. Lowered to
  // half of the process's own limit of descriptors.
  std::size_t max_handles = 65536;
  // A grant for one open was used, by an open or by a change that needed it: it
  // is to end for all others. Called after that was recorded and before it is
  // answered; false: it cannot be kept that it was used, and the answer is EIO.
  // Must not wait for a change of the session (a revoke may wait for us).
  std::function<bool(std::string_view grant_id)> on_grant_used;
};

// What a record says beyond the call, the path and the decision.
struct RecordWords {
  std::string target = {};
  std::string detail = {};
  protocol::HandleId handle = 0;
  std::optional<std::uint64_t> bytes_read = {};
  std::optional<std::uint64_t> bytes_written = {};
};

class LocalFileService final : public protocol::FileService {
 public:
  explicit LocalFileService(SessionContext& session, LocalFileServiceOptions options = {});
  ~LocalFileService() override;

  Result<protocol::Lookup, Errno> lookup(const protocol::Caller&, const WorkspacePath&) override;
  Result<protocol::Attributes, Errno> stat(const protocol::Caller&,
                                           const protocol::FileRef&) override;
  Result<std::string, Errno> readlink(const protocol::Caller&, const protocol::FileRef&) override;
  Result<protocol::Opened, Errno> open(const protocol::Caller&, const protocol::FileRef&, int flags,
                                       std::uint32_t permissions) override;
  Result<std::size_t, Errno> read(const protocol::Caller&, protocol::HandleId, std::uint64_t offset,
                                  std::span<std::byte> into) override;
  Result<std::size_t, Errno> write(const protocol::Caller&, protocol::HandleId, protocol::WriteAt,
                                   std::span<const std::byte> data) override;
  Result<void, Errno> fsync(const protocol::Caller&, protocol::HandleId, bool data_only) override;
  Result<protocol::Opened, Errno> open_directory(const protocol::Caller&,
                                                 const protocol::FileRef&) override;
  Result<protocol::DirectoryPage, Errno> read_directory(const protocol::Caller&,
                                                        protocol::HandleId, std::uint64_t position,
                                                        std::size_t max_entries) override;
  void close(const protocol::Caller&, protocol::HandleId) override;
  Result<protocol::Lookup, Errno> mkdir(const protocol::Caller&, const WorkspacePath&,
                                        std::uint32_t permissions) override;
  Result<protocol::Lookup, Errno> symlink(const protocol::Caller&, std::string_view target,
                                          const WorkspacePath&) override;
  Result<protocol::Lookup, Errno> link(const protocol::Caller&, const protocol::FileRef& existing,
                                       const WorkspacePath& added) override;
  Result<void, Errno> unlink(const protocol::Caller&, const WorkspacePath&) override;
  Result<void, Errno> rmdir(const protocol::Caller&, const WorkspacePath&) override;
  Result<void, Errno> rename(const protocol::Caller&, const WorkspacePath& from,
                             const WorkspacePath& to, unsigned flags) override;
  Result<protocol::Attributes, Errno> truncate(const protocol::Caller&, const protocol::FileRef&,
                                               std::uint64_t size) override;
  Result<protocol::Attributes, Errno> chmod(const protocol::Caller&, const protocol::FileRef&,
                                            std::uint32_t permissions) override;
  Result<protocol::Attributes, Errno> utimens(const protocol::Caller&, const protocol::FileRef&,
                                              const protocol::SetTimes&) override;
  Result<protocol::FileSystemStatus, Errno> statfs(const protocol::Caller&,
                                                   const WorkspacePath&) override;

  int descriptor(protocol::HandleId) const override;
  // For files that cannot be opened again: unlinked, or closed to their owner
  // since. Opened for what of `flags` the policy allows now; for nothing of it:
  // refused. `fd` comes from the keeper, and is one of ours.
  // Errors: EINVAL for flags that an open file cannot have and without
  // `last_name.expect`; ESTALE for another file; EBADF for a descriptor that was
  // opened for less; ENOENT and EACCES as open().
  Result<protocol::Opened, Errno> adopt(const protocol::Caller&, const protocol::FileRef& last_name,
                                        UniqueFd fd, int flags) override;

  // For clients without a kernel of their own (HTTP): the path that `raw` leads
  // to when links are followed (`follow_last`: in the last component too). The
  // answer says nothing of whether the file exists: every link on the way is
  // itself decided on, and what cannot be followed stays as written, so that
  // the call made on the result gives the answer.
  // Errors: as WorkspacePath::parse; EACCES for a link that leaves the
  // workspace; ELOOP after 40 links.
  Result<WorkspacePath, Errno> resolve(const protocol::Caller&, std::string_view raw,
                                       bool follow_last);

  // For the session's owner.

  // To be called after a view was published and drained. Marks, for good, the
  // handles that lost a right they were opened with, and records what went
  // through them. Grants for one open that are at or below `revoked` end on
  // the handles that live by them. Returns how many handles lost something.
  std::size_t close_refused_handles(const std::optional<WorkspacePath>& revoked = std::nullopt);
  // The session is over.
  void close_all();
  // Names that the session gave, elsewhere, to files at or below these.
  std::vector<WorkspacePath> names_elsewhere(const std::vector<WorkspacePath>& places) const {
    return links_.elsewhere(places);
  }
  // Files that are open under a name that is at or below none of these, or that
  // is theirs no more.
  std::unordered_set<protocol::FileIdentity, IdentityHash> open_elsewhere(
      const std::vector<WorkspacePath>& places) const;
  std::size_t open_handles() const { return handles_.size(); }

  // What the session made that only its having made it allowed (a cloned
  // repository's hooks, …), for the report at its end. At most kMaxGuarded.
  static constexpr std::size_t kMaxGuarded = 1000;
  std::vector<WorkspacePath> created_guarded() const;

 private:
  enum class Call : std::uint8_t;

  // One admitted call.
  // Grants for one open that a call needs and has not used yet: given back
  // when it ends otherwise.
  struct Claims {
    LocalFileService& of;
    std::vector<Pin> pins = {};
    std::vector<Pin> used = {};   // and this call goes on by them
    ~Claims() { of.give_back(pins); }
    bool has(std::string_view grant) const;
  };

  struct Gate {
    Admission admission;
    const protocol::Caller& caller;
    Call call;
    mutable std::unique_ptr<Claims> claims = {};   // of a call that changes by name

    const policy::Snapshot& snapshot() const { return admission.snapshot(); }
    const ExportTable& exports() const { return *admission.view().exports; }
  };

  // A path and what the policy says of it.
  struct Decided {
    WorkspacePath path;
    const Export* on = nullptr;      // none: only a synthetic directory can be there
    policy::PathDecision decision;
    policy::OperationSet lifted;     // allowed only since the session made it
    bool vetted = false;             // what is written there must suit git_files.h
    const char* overruled = nullptr; // why the broker itself denies: "own-files", …

    bool allows(policy::Operation operation) const;
    bool visible() const { return decision.visible(); }
  };

  // What is at a path, as far as the agent may know.
  struct Found {
    Place place;
    FileStat directory;              // that holds it
    std::optional<FileStat> stat;    // none: nothing, or nothing that is shown
    const char* hidden = nullptr;    // why it is not shown: "own-files", "submount", …
    UniqueFd pinned;                 // O_PATH, where it was asked for: `stat` is of this very file
    protocol::Lifetime lifetime = protocol::Lifetime::none;
  };

  // --- The gate (local_file_service.cc)
  Gate enter(const protocol::Caller& caller, Call call);
  Decided decide(const Gate& gate, const WorkspacePath& path);
  Decided decide_by_policy(const Gate& gate, const WorkspacePath& path);
  void claim_once(const Gate& gate, Decided& decided);
  bool use_up(const std::vector<Pin>& used);
  // Decides, and refuses where the operation is not allowed.
  Result<Decided, Errno> permit(const Gate& gate, const WorkspacePath& path,
                                policy::Operation operation);
  Result<Decided, Errno> permit(const Gate& gate, const WorkspacePath& path);
  // Writes the refusal down. Returns what the agent is told.
  Errno refuse(const Gate& gate, const Decided& decided, policy::Operation operation, Errno error,
               RecordWords words = {});
  // Writes down what was done, or failed to be; errors: EIO.
  Result<void, Errno> record(const Gate& gate, const Decided& decided, policy::Operation operation,
                             int error, RecordWords words = {});
  // The end of a call that changes something: writes it down, whatever came of it.
  Result<void, Errno> finish(const Gate& gate, const Decided& decided, policy::Operation operation,
                             const Result<void, Errno>& outcome, RecordWords words = {});
  // Makes an open or a change, and answers when the policy's "durability" lets
  // it. Precondition: no lock is held, so that many can wait for one sync.
  template <class Act>
  auto answer_durably(const Gate& gate, Act&& act) -> decltype(act());
  // The calls that resolve names (shared) or change what they mean (alone).
  template <class Lock, class Act>
  auto holding_names(const protocol::Caller& caller, Call call, Act&& act);
  bool is_created(const Gate& gate, const WorkspacePath& path) const;
  // Why what was found under this name is not there for the session; none: it is.
  const char* why_hidden(const Gate& gate, const Decided& decided, const FileStat& stat) const;
  // Whether a revoke took the file away, and no newer grant of the name gave it back.
  bool is_revoked(const Gate& gate, const Decided& decided, const protocol::FileIdentity& file,
                  bool may_have_other_names, policy::Operation operation) const;
  bool is_revoked(const Gate& gate, const Decided& decided, const FileStat& stat, policy::Operation operation) const {
    return stat.is_regular() && is_revoked(gate, decided, stat.identity, stat.links > 1, operation);
  }
  Result<void, Errno> refuse_revoked(const Gate& gate, const Decided& decided, const FileStat& stat);   // for writing
  // What the host moved to where it may not be changed is not changed by its old name either.
  Result<void, Errno> permit_where_it_is(const Gate& gate, Handle& handle, const WorkspacePath& path,
                                         const FileStat& stat);
  // Refuses content that would make the host's git run something.
  // Precondition: decided.vetted.
  Result<void, Errno> vet(const Gate& gate, const Decided& decided, std::string_view content);
  // The same for what `fd`'s file would hold with `data` in it and `size` bytes long.
  Result<void, Errno> vet_change(const Gate& gate, const Decided& decided, int fd,
                                 std::uint64_t size, std::uint64_t offset,
                                 std::span<const std::byte> data);
  Result<std::unique_lock<std::mutex>, Errno> vet_write(const Gate& gate, Handle& file,
                                                        std::uint64_t offset,
                                                        std::span<const std::byte> data);
  Result<std::unique_lock<std::mutex>, Errno> vet_size(const Gate& gate, const Decided& decided,
                                                       int fd, std::uint64_t size);
  // What cannot stay as it is by now is emptied.
  void vet_remains(const Gate& gate, Handle& file);
  // Whether the guard "git" stands at that place.
  bool is_guarded_by_git(const Gate& gate, const WorkspacePath& path) const;
  Errno refuse_for_git(const Gate& gate, Decided decided, Errno error, RecordWords words);

  bool is_own(const Gate& gate, const WorkspacePath& path);
  // Whether something of the broker's, or an export, lies at or below, by any name.
  bool holds_fixed(const Gate& gate, const WorkspacePath& path);
  std::shared_ptr<const std::vector<WorkspacePath>> own_paths(const Gate& gate);

  // --- What is there (local_names.cc)
  enum class Pinned { no, yes };
  Result<Found, Errno> find(const Gate& gate, const Decided& decided, Pinned pinned = Pinned::no);
  // The same; nothing there is ENOENT, hidden too (with a record), another
  // file than expected ESTALE.
  Result<Found, Errno> find_existing(const Gate& gate, const Decided& decided,
                                     const protocol::FileIdentity& expect = {},
                                     Pinned pinned = Pinned::no);
  // The same, held by a descriptor that can neither read nor write (O_PATH):
  // what is done next is done to this file or to none.
  Result<Found, Errno> pin_down(const Gate& gate, const Decided& decided,
                                const protocol::FileIdentity& expect = {}) {
    return find_existing(gate, decided, expect, Pinned::yes);
  }
  Result<protocol::Lookup, Errno> answer_lookup(const Gate& gate, const Decided& decided);
  protocol::Lifetime watch(const Export& on, int directory, const FileStat& stat,
                           const WorkspacePath& as);
  protocol::Attributes attributes(const Decided& decided, const FileStat& stat) const;
  std::uint32_t shown_permissions(const Decided& decided, const FileStat& stat) const;
  static protocol::Attributes synthetic(const WorkspacePath& path);
  Result<std::string, Errno> link_target(const Gate& gate, const Decided& decided);

  // --- Handles
  Result<std::shared_ptr<Handle>, Errno> handle(protocol::HandleId id, bool directory) const;
  Rights rights(const Gate& gate, Handle& handle);
  Rights decide_anew(const Gate& gate, Handle& handle);
  // Whether the kernel's name of it is only a memory.
  static bool is_nameless(const Gate& gate, const Handle& handle, const FileStat& stat);
  bool pin_holds(const Gate& gate, const Handle& handle, const Decided& decided,
                 policy::Operation operation) const;
  Result<Decided, Errno> permit_handle(const Gate& gate, Handle& handle,
                                       policy::Operation operation);
  void record_sums(const Gate& gate, Handle& handle, std::string detail);

  // What the calls of the same name do, admitted.
  Result<protocol::Opened, Errno> open_listing(const Gate& gate, const protocol::FileRef& ref);
  Result<protocol::Lookup, Errno> make_directory(const Gate& gate, const WorkspacePath& path,
                                                 std::uint32_t permissions);
  Result<protocol::Lookup, Errno> make_symlink(const Gate& gate, std::string_view target,
                                               const WorkspacePath& path);
  Result<protocol::Lookup, Errno> make_link(const Gate& gate, const protocol::FileRef& existing,
                                            const WorkspacePath& added);
  Result<protocol::Attributes, Errno> set_size(const Gate& gate, const protocol::FileRef& ref,
                                               std::uint64_t size);
  Result<protocol::Attributes, Errno> set_permissions(const Gate& gate, const protocol::FileRef& ref,
                                                      std::uint32_t permissions);
  Result<protocol::Attributes, Errno> set_times(const Gate& gate, const protocol::FileRef& ref,
                                                const protocol::SetTimes& times);

  // --- Opening (local_open.cc)
  struct Opening;
  Result<protocol::Opened, Errno> open_file(const Gate& gate, const protocol::FileRef& ref,
                                            int flags, std::uint32_t permissions,
                                            std::vector<Pin>& used);
  static int resolve_also_read(const Gate& gate, const Decided& decided, int flags);
  Result<Opening, Errno> open_existing(const Gate& gate, const Decided& decided, int flags,
                                       const protocol::FileIdentity& expect);
  Result<Opening, Errno> create_file(const Gate& gate, const Decided& decided, int flags,
                                     std::uint32_t permissions);
  Result<protocol::Opened, Errno> hand_out(const Gate& gate, const Decided& decided,
                                           Opening opening, int flags,
                                           const std::vector<Pin>& used, HandleTable::Slot slot);
  Result<protocol::Opened, Errno> adopt_file(const Gate& gate, const protocol::FileRef& last_name,
                                             UniqueFd fd, int flags, std::vector<Pin>& used);
  static bool took_away_files(const Gate& gate);
  // An open with what it used of grants for one: theirs for good, or given back.
  template <class Act>
  Result<protocol::Opened, Errno> opening(const protocol::Caller& caller, Act&& act);
  // Grants for one open that this open needs; EACCES when another open was first.
  Result<std::vector<Pin>, Errno> claim(const Gate& gate, const Decided& decided,
                                                policy::OperationSet operations);
  void give_back(const std::vector<Pin>& claimed);

  // --- Attributes (local_attributes.cc)
  struct Subject;
  Result<Subject, Errno> subject(const Gate& gate, const protocol::FileRef& ref);
  Result<protocol::Attributes, Errno> changed(const Gate& gate, const Subject& subject,
                                              const Result<void, Errno>& outcome,
                                              std::string detail);

  // --- Directories (local_directories.cc)
  Result<void, Errno> list(const Gate& gate, Handle& handle);
  std::optional<protocol::DirectoryEntry> entry(const Gate& gate, const Handle& handle,
                                                const ListedName& listed);

  // --- Changes (local_changes.cc)
  Result<Decided, Errno> permit_new(const Gate& gate, const WorkspacePath& path);
  Result<void, Errno> remove(const Gate& gate, const WorkspacePath& path, bool directory);
  Result<void, Errno> rename_locked(const Gate& gate, const WorkspacePath& from,
                                    const WorkspacePath& to, unsigned flags);
  Result<void, Errno> check_rename(const Gate& gate, const Decided& source, const Decided& target,
                                   const Found& moving);
  Result<void, Errno> check_replaced(const Gate& gate, const Decided& target, const Found& there,
                                     unsigned flags);
  void tell_own_change(const Gate& gate, const WorkspacePath& path,
                       const protocol::FileIdentity& directory, const FileStat* now);
  // Whether every name that follows from `from` to `to` still is one there.
  bool names_fit(const WorkspacePath& from, const WorkspacePath& to) const;
  bool links_stay_below(const Export& on, const Place& moving, std::size_t depth);
  void follow_rename(const Gate& gate, const WorkspacePath& from, const WorkspacePath& to,
                     const protocol::FileIdentity& directory);
  void mark_unlinked(const Gate& gate, const WorkspacePath& path,
                     const protocol::FileIdentity& identity);

  SessionContext& session_;
  LocalFileServiceOptions options_;
  HandleTable handles_;
  NodeTable nodes_;
  CreatedSet created_;
  MadeLinks links_;

  // Held shared while a name is resolved and its handle entered, alone while a
  // rename changes what names mean: a handle never misses a rename.
  FairSharedMutex names_;
  std::chrono::steady_clock::time_point next_scan_{};   // guarded by names_, held alone
  FoldChecks folding_;

  std::mutex vetting_;                    // held from looking at such a file to writing it
  std::mutex claims_mutex_;               // guards claims_
  std::set<std::string> claims_;          // grants for one open that one has used

  mutable std::mutex guarded_mutex_;      // guards guarded_
  std::set<WorkspacePath> guarded_;

  // The own files' workspace paths, computed once for a table.
  struct OwnPaths {
    const ExportTable* table;
    std::shared_ptr<const ExportTable> keep;
    std::uint64_t version;
    std::shared_ptr<const std::vector<WorkspacePath>> paths;
  };
  std::mutex own_mutex_;                  // guards own_
  OwnPaths own_{};

  std::atomic<std::size_t> listing_bytes_{0};
};

}  // namespace fbroker::broker
