// RemoteFileService: FileService over the protocol, inside the container.
//
// What the broker's absence means: a call waits for it to come back, for up to
// wait_for_broker, and fails with EIO after that. Open files survive: they are
// opened again at the next broker by path and identity, never created,
// truncated or made exclusive a second time, under the path that our own
// renames gave them. A file that was unlinked meanwhile is lost: ESTALE.
//
// A call whose answer was lost (it went out, nothing came back) is
//   repeated      lookup, stat, readlink, read, readdir, statfs, fsync,
//                 truncate, chmod, utimens, write at an offset, open unless
//                 exclusive: carried out twice they do what once does
//   looked after  rename, unlink, rmdir, and mkdir, symlink, link, exclusive
//                 open: a lookup tells whether it happened (the name is gone /
//                 still there / not there yet); where it cannot tell, EIO
//   EIO           appending: twice would append twice
//
// Holds no authority: what it refuses is for speed, the broker decides.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "broker/protocol/file_service.h"
#include "broker/protocol/wire.h"
#include "shim/client/unix_http.h"

namespace fbroker::client {

struct RemoteOptions {
  HttpOptions http;
  // Whether events are being heard (EventStream::listening). While they are
  // not, nothing may be kept: lifetimes become none. Empty: always heard.
  std::function<bool()> may_keep;
};

// Threads: all members, any thread.
class RemoteFileService final : public protocol::FileService {
 public:
  explicit RemoteFileService(RemoteOptions options);
  ~RemoteFileService() override;

  Result<protocol::Lookup, Errno> lookup(const protocol::Caller&, const WorkspacePath&) override;
  Result<protocol::Attributes, Errno> stat(const protocol::Caller&,
                                           const protocol::FileRef&) override;
  Result<std::string, Errno> readlink(const protocol::Caller&, const protocol::FileRef&) override;
  Result<protocol::Opened, Errno> open(const protocol::Caller&, const protocol::FileRef&, int flags,
                                       std::uint32_t permissions) override;
  // At most 1 MiB a call.
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

  std::size_t open_handles() const;

 private:
  struct OpenFile;
  struct Attempt;
  using Clock = UnixHttp::Clock;
  // What to do when the answer was lost: try again, or what to answer.
  struct Verdict {
    bool again = true;
    Errno error{EIO};
  };
  using Look = std::function<Verdict()>;

  // One call by JSON, repeated as the comment above says. `look` decides after
  // a lost answer; empty = it may be repeated.
  Result<HttpReply, Errno> ask(const protocol::Caller&, protocol::Call, const protocol::Request&,
                               const Look& look = {});
  // The same on an open file, which is opened again where its broker is gone.
  Result<HttpReply, Errno> ask_open(const protocol::Caller&, protocol::Call,
                                    protocol::Request request, OpenFile& file);
  // By handle where `ref` has one, else by path.
  // A name is made at `path`; what is there then.
  Result<protocol::Lookup, Errno> ask_to_make(const protocol::Caller&, protocol::Call, const protocol::Request&,
                                              const WorkspacePath& path);
  Result<HttpReply, Errno> ask_ref(const protocol::Caller&, protocol::Call,
                                   protocol::Request request, const protocol::FileRef& ref);
  Result<HttpReply, Errno> data(const protocol::Caller&, OpenFile& file, const Attempt& attempt);
  Result<HttpReply, Errno> exchange(const HttpRequest& request, Clock::time_point until,
                                    const Look& look);
  Result<HttpReply, Errno> with_handle(
      const protocol::Caller&, OpenFile& file,
      const std::function<Result<HttpReply, Errno>(const std::string& handle)>& work);
  Result<void, Errno> open_again(const protocol::Caller&, OpenFile& file, const std::string& broken);

  Result<protocol::Opened, Errno> keep(const HttpReply& reply, const protocol::FileRef& ref,
                                       int flags, bool directory);
  Result<std::shared_ptr<OpenFile>, Errno> find(protocol::HandleId handle) const;
  void follow_rename(const WorkspacePath& from, const WorkspacePath& to);
  void follow_removal(const WorkspacePath& path);

  // What a look says of a name after a lost answer.
  enum class Name : std::uint8_t { there, absent, unknown };
  Name look_at(const protocol::Caller&, const WorkspacePath&);
  Verdict after_making(const protocol::Caller&, const WorkspacePath&);
  Verdict after_removing(const protocol::Caller&, const WorkspacePath&);

  protocol::Lifetime allowed(protocol::Lifetime told) const;

  RemoteOptions options_;
  UnixHttp http_;
  mutable std::mutex mutex_;  // guards files_ and each OpenFile's path and lost
  std::unordered_map<protocol::HandleId, std::shared_ptr<OpenFile>> files_;
  std::atomic<protocol::HandleId> last_handle_{0};
};

}  // namespace fbroker::client
