// FileService: all file work behind one interface.
//
// Implemented once over the host file system (LocalFileService, in the broker:
// decide, act, record) and once over the protocol (RemoteFileService, in the
// shims). The FUSE front end and the HTTP front end are its callers.
//
// Synchronous; errors are errno numbers, what the agent's syscall will see.
// Names are paths, so that a broker that was restarted knows them; open files
// are handles. Every call may be made from any thread.
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/base/unique_fd.h"
#include "policy/base/workspace_path.h"

namespace fbroker::protocol {

// Who asked, as far as the front end knows: for the audit's reader and for
// nothing else.
struct Caller {
  std::uint32_t pid = 0;       // a claim from inside the container, in its numbers
  std::uint32_t peer_pid = 0;  // who connected, in the broker's numbers: the kernel says so; 0 = unknown
  // The path as the client wrote it: it may lead through links to the one that
  // the call names. Must stay valid during the call.
  std::string_view requested = {};
};

// Which file it is, under whatever name: device, inode and time of birth (an
// inode number alone is used again; btime tells the two apart). Opaque to
// clients. All zero = "any file".
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t birth_ns = 0;

  bool any() const noexcept { return device == 0 && inode == 0; }
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

enum class FileType : std::uint8_t { regular, directory, symlink };

// As the agent sees them (design section 5): r and w bits say what this
// session may do, x bits are the host's; the owner is the agent itself.
struct Attributes {
  FileIdentity identity;
  FileType type = FileType::regular;
  std::uint32_t permissions = 0;     // 07777 bits, without set-id
  std::uint64_t links = 1;
  std::uint64_t size = 0;            // bytes
  std::uint64_t blocks = 0;          // of 512 bytes
  std::uint32_t block_size = 4096;   // preferred I/O size, bytes
  timespec accessed{};
  timespec modified{};
  timespec changed{};
};

// How long a client may keep what it was told.
enum class Lifetime : std::uint8_t {
  none,        // ask again each time (a name that a rule hides; unwatched and risky)
  one_second,  // no watch could be had on the host directory
  until_told,  // events will say when it changes
};

struct Lookup {
  std::optional<Attributes> attributes;   // none: there is no such name
  Lifetime lifetime = Lifetime::none;
};

// Broker-made, never reused, valid in one session only. 0 = none.
using HandleId = std::uint64_t;

// Names a file: by an open handle when there is one, else by path. `expect`,
// unless any(), must be what is found there, else ESTALE.
struct FileRef {
  WorkspacePath path;
  FileIdentity expect;
  HandleId handle = 0;
};

struct Opened {
  HandleId handle = 0;
  Attributes attributes;
  Lifetime lifetime = Lifetime::none;
  // For a kernel that collects writes: whether the handle reads, and whether
  // the policy says that nobody but the agent writes the file.
  bool reads = false;
  bool agent_alone = false;
};

struct DirectoryEntry {
  std::string name;
  Attributes attributes;
};

struct DirectoryPage {
  std::vector<DirectoryEntry> entries;   // sorted as the handle's listing is; without . and ..
  std::uint64_t next = 0;                // position of what follows
  bool end = false;
  Lifetime lifetime = Lifetime::none;    // of each entry's name and attributes
};

struct FileSystemStatus {
  std::uint64_t block_size = 0, blocks = 0, blocks_free = 0, blocks_available = 0;
  std::uint64_t files = 0, files_free = 0;
  std::uint32_t name_max = 255;
};

// Where a write lands. Appending is the broker's to place: descriptors of the
// host never carry O_APPEND.
struct WriteAt {
  std::uint64_t offset = 0;
  bool append = false;
  // Where an appending write is about to land is stored here before it does,
  // so that one that was cut short can be finished at the same place. The
  // store is atomic; the memory is the caller's, and may outlive this process.
  std::uint64_t* chosen = nullptr;
};

struct SetTimes {
  std::optional<timespec> accessed;      // none = leave; UTIME_NOW in tv_nsec is honoured
  std::optional<timespec> modified;
};

// Open flags that a caller may give: O_RDONLY/O_WRONLY/O_RDWR, O_CREAT,
// O_EXCL, O_TRUNC, O_APPEND, O_NOFOLLOW, O_CLOEXEC, O_NONBLOCK, O_NOCTTY,
// O_LARGEFILE, O_NOATIME, O_SYNC, O_DSYNC. Any other flag is EINVAL.
bool open_flags_known(int flags) noexcept;

// A flag between a front end and the service, never a client's: what is opened
// for writing is opened for reading too where the policy allows that without
// further ado (no grant for one open is used up, nobody is asked). Opened::reads
// says what came of it.
inline constexpr int kAlsoRead = 1 << 30;

class FileService {
 public:
  virtual ~FileService() = default;

  // Never follows a symlink in any component (ELOOP; ENOTDIR for a file in the
  // middle): the kernel of the container walks links itself.
  virtual Result<Lookup, Errno> lookup(const Caller&, const WorkspacePath&) = 0;
  virtual Result<Attributes, Errno> stat(const Caller&, const FileRef&) = 0;
  virtual Result<std::string, Errno> readlink(const Caller&, const FileRef&) = 0;

  // Regular files. With O_CREAT `permissions` (07777 bits, already masked by
  // the caller's umask) are those of a new file.
  virtual Result<Opened, Errno> open(const Caller&, const FileRef&, int flags,
                                     std::uint32_t permissions) = 0;
  virtual Result<std::size_t, Errno> read(const Caller&, HandleId, std::uint64_t offset,
                                          std::span<std::byte> into) = 0;
  virtual Result<std::size_t, Errno> write(const Caller&, HandleId, WriteAt,
                                           std::span<const std::byte> data) = 0;
  virtual Result<void, Errno> fsync(const Caller&, HandleId, bool data_only) = 0;

  virtual Result<Opened, Errno> open_directory(const Caller&, const FileRef&) = 0;
  // `position` 0 is the start (and reads the directory anew); others come from
  // a page of the same handle.
  virtual Result<DirectoryPage, Errno> read_directory(const Caller&, HandleId,
                                                      std::uint64_t position,
                                                      std::size_t max_entries) = 0;
  // Files and directories alike. Cannot fail in a way a caller could mend.
  virtual void close(const Caller&, HandleId) = 0;

  virtual Result<Lookup, Errno> mkdir(const Caller&, const WorkspacePath&,
                                      std::uint32_t permissions) = 0;
  virtual Result<Lookup, Errno> symlink(const Caller&, std::string_view target,
                                        const WorkspacePath&) = 0;
  virtual Result<Lookup, Errno> link(const Caller&, const FileRef& existing,
                                     const WorkspacePath& added) = 0;
  virtual Result<void, Errno> unlink(const Caller&, const WorkspacePath&) = 0;
  virtual Result<void, Errno> rmdir(const Caller&, const WorkspacePath&) = 0;
  // flags: 0 or RENAME_NOREPLACE; any other is EINVAL.
  virtual Result<void, Errno> rename(const Caller&, const WorkspacePath& from,
                                     const WorkspacePath& to, unsigned flags) = 0;

  virtual Result<Attributes, Errno> truncate(const Caller&, const FileRef&, std::uint64_t size) = 0;
  virtual Result<Attributes, Errno> chmod(const Caller&, const FileRef&,
                                          std::uint32_t permissions) = 0;
  virtual Result<Attributes, Errno> utimens(const Caller&, const FileRef&, const SetTimes&) = 0;
  virtual Result<FileSystemStatus, Errno> statfs(const Caller&, const WorkspacePath&) = 0;

  // For handles that outlive this process (broker/fuse/front.h, Keeping).
  // The handle's descriptor, borrowed; -1 where there is none.
  virtual int descriptor(HandleId) const { return -1; }
  // An open file of an earlier process, under the last name that it was known
  // by, becomes a handle again, as far as the policy of now allows.
  virtual Result<Opened, Errno> adopt(const Caller&, const FileRef& last_name, UniqueFd fd, int flags) {
    (void)last_name, (void)fd, (void)flags;
    return Errno{ENOSYS};
  }
};

}  // namespace fbroker::protocol
