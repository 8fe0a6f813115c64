#include "shim/client/remote_file_service.h"

#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <thread>

#include "broker/protocol/wire_json.h"

namespace fbroker::client {

using protocol::Attributes;
using protocol::Call;
using protocol::Caller;
using protocol::DirectoryPage;
using protocol::FileRef;
using protocol::HandleId;
using protocol::Lifetime;
using protocol::Lookup;
using protocol::Opened;
using protocol::Request;

namespace {

// Turned away or cut off: how long until the next attempt.
constexpr std::chrono::milliseconds kPause(5);

// INVARIANT: an open that is repeated for a new broker only finds what was
//   open: it never creates, and never truncates a second time.
constexpr int kOnlyOnce = O_CREAT | O_EXCL | O_TRUNC;

Errno error_of(const HttpReply& reply) { return protocol::decode_problem(reply.body); }

std::string_view instance_of(std::string_view handle) { return handle.substr(0, handle.rfind('-')); }

HttpRequest post(const Caller& caller, std::string_view target, std::string_view body) {
  return {.method = "POST", .target = target, .pid = caller.pid, .body = std::as_bytes(std::span(body)), .into = {}};
}

// A reply that we cannot read is the broker's fault, not the caller's.
template <class T>
Result<T, Errno> readable(Result<T, protocol::WireError> decoded) {
  if (!decoded) return Errno{EIO};
  return std::move(*decoded);
}

}  // namespace

// What it takes to open it again. `path` and `lost` are guarded by the
// service's mutex_, `handle` by its own.
struct RemoteFileService::OpenFile {
  WorkspacePath path;
  protocol::FileIdentity identity;
  int flags = 0;
  bool directory = false;
  bool lost = false;          // we unlinked it, or renamed over it
  std::mutex mutex;           // guards handle; held while it is opened again; taken before mutex_
  std::string handle;
};

// One attempt to move file bytes.
struct RemoteFileService::Attempt {
  std::string_view method;
  std::string query;
  std::span<const std::byte> body;
  std::span<std::byte> into;
  bool repeatable = true;
};

RemoteFileService::RemoteFileService(RemoteOptions options)
    : options_(std::move(options)), http_(options_.http) {}
RemoteFileService::~RemoteFileService() = default;

std::size_t RemoteFileService::open_handles() const {
  const std::lock_guard lock(mutex_);
  return files_.size();
}

// ---- asking -------------------------------------------------------------------

Result<HttpReply, Errno> RemoteFileService::exchange(const HttpRequest& request,
                                                     Clock::time_point until, const Look& look) {
  for (bool fresh = false;; fresh = true) {
    auto reply = http_.exchange(request, until, fresh);
    if (reply) return std::move(*reply);
    if (reply.error() == Lost::gave_up) return Errno{EIO};
    if (reply.error() == Lost::unknown && look) {
      const Verdict verdict = look();
      if (!verdict.again) return verdict.error;
    }
    if (Clock::now() >= until) return Errno{EIO};
    if (fresh) std::this_thread::sleep_for(kPause);
  }
}

Result<HttpReply, Errno> RemoteFileService::ask(const Caller& caller, Call call,
                                                const Request& request, const Look& look) {
  std::string target = "/v1/";
  target += protocol::name_of(call);
  std::string body;
  protocol::encode_request(body, call, request);
  auto reply = exchange(post(caller, target, body), Clock::now() + options_.http.wait_for_broker, look);
  if (!reply) return reply;
  if (reply->status >= 300 && !(call == Call::lookup && reply->status == 404))
    return error_of(*reply);
  return reply;
}

// INVARIANT: a handle is used only with the broker that made it; its text
//   names it, so another broker refuses (ESTALE) before it does anything, and
//   we may open again and repeat whatever it was.
Result<HttpReply, Errno> RemoteFileService::with_handle(
    const Caller& caller, OpenFile& file,
    const std::function<Result<HttpReply, Errno>(const std::string&)>& work) {
  constexpr int kBrokersInOneCall = 16;
  for (int attempt = 0; attempt < kBrokersInOneCall; ++attempt) {
    std::string handle;
    {
      const std::lock_guard lock(file.mutex);
      handle = file.handle;
    }
    auto reply = work(handle);
    if (!reply || reply->status < 300) return reply;
    const bool other_broker = reply->status == 410 && reply->instance != instance_of(handle);
    if (!other_broker) return reply;
    FBROKER_TRY_VOID(open_again(caller, file, handle));
  }
  return Errno{EIO};
}

Result<void, Errno> RemoteFileService::open_again(const Caller& caller, OpenFile& file,
                                                  const std::string& broken) {
  const std::lock_guard one_at_a_time(file.mutex);
  if (file.handle != broken) return ok;  // another thread did it
  Request request;
  {
    const std::lock_guard lock(mutex_);
    if (file.lost) return Errno{ESTALE};
    request.file.path = file.path;
  }
  request.file.expect = file.identity;
  request.flags = file.flags & ~kOnlyOnce;
  auto reply = ask(caller, file.directory ? Call::opendir : Call::open, request);
  if (!reply) return reply.error().value == ENOENT ? Errno{ESTALE} : reply.error();
  FBROKER_TRY(const auto opened, readable(protocol::decode_opened(reply->body)));
  file.handle = opened.handle;
  return ok;
}

Result<HttpReply, Errno> RemoteFileService::ask_open(const Caller& caller, Call call,
                                                     Request request, OpenFile& file) {
  std::string target = "/v1/";
  target += protocol::name_of(call);
  const auto until = Clock::now() + options_.http.wait_for_broker;
  auto reply = with_handle(caller, file, [&](const std::string& handle) {
    request.handle = handle;
    std::string body;
    protocol::encode_request(body, call, request);
    return exchange(post(caller, target, body), until, {});
  });
  if (!reply) return reply;
  if (reply->status >= 300) return error_of(*reply);
  return reply;
}

Result<HttpReply, Errno> RemoteFileService::ask_ref(const Caller& caller, Call call,
                                                    Request request, const FileRef& ref) {
  request.file = ref;
  if (ref.handle == 0) return ask(caller, call, request);
  FBROKER_TRY(const auto file, find(ref.handle));
  return ask_open(caller, call, std::move(request), *file);
}

Result<HttpReply, Errno> RemoteFileService::data(const Caller& caller, OpenFile& file,
                                                 const Attempt& attempt) {
  const auto until = Clock::now() + options_.http.wait_for_broker;
  const Look look = attempt.repeatable ? Look() : [] { return Verdict{false, Errno{EIO}}; };
  return with_handle(caller, file, [&](const std::string& handle) {
    const std::string target = "/v1/handles/" + handle + "/data?" + attempt.query;
    HttpRequest http;
    http.method = attempt.method;
    http.target = target;
    http.pid = caller.pid;
    http.body = attempt.body;
    http.into = attempt.into;
    return exchange(http, until, look);
  });
}

// ---- after a lost answer --------------------------------------------------------

RemoteFileService::Name RemoteFileService::look_at(const Caller& caller, const WorkspacePath& path) {
  const auto found = lookup(caller, path);
  if (!found) return Name::unknown;
  return found->attributes ? Name::there : Name::absent;
}

// A name that is there may be ours or somebody else's: nobody can tell.
RemoteFileService::Verdict RemoteFileService::after_making(const Caller& caller,
                                                           const WorkspacePath& path) {
  return {look_at(caller, path) == Name::absent, Errno{EIO}};
}

// Whoever removes a name has seen it there, so an absent one is done (0); one
// that is there was not removed.
RemoteFileService::Verdict RemoteFileService::after_removing(const Caller& caller,
                                                             const WorkspacePath& path) {
  const Name name = look_at(caller, path);
  return {name == Name::there, Errno{name == Name::absent ? 0 : EIO}};
}

// ---- handles ----------------------------------------------------------------------

Result<Opened, Errno> RemoteFileService::keep(const HttpReply& reply, const FileRef& ref, int flags,
                                              bool directory) {
  FBROKER_TRY(const auto told, readable(protocol::decode_opened(reply.body)));
  auto file = std::make_shared<OpenFile>();
  file->path = ref.path;
  file->identity = told.attributes.identity;
  file->flags = flags;
  file->directory = directory;
  file->handle = told.handle;
  const HandleId handle = ++last_handle_;
  {
    const std::lock_guard lock(mutex_);
    files_.emplace(handle, std::move(file));
  }
  return Opened{handle, told.attributes, allowed(told.lifetime)};
}

Result<std::shared_ptr<RemoteFileService::OpenFile>, Errno> RemoteFileService::find(
    HandleId handle) const {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(handle);
  if (found == files_.end()) return Errno{EBADF};
  return found->second;
}

void RemoteFileService::follow_rename(const WorkspacePath& from, const WorkspacePath& to) {
  const std::lock_guard lock(mutex_);
  for (auto& [handle, file] : files_) {
    if (file->path == to) file->lost = true;  // what had that name is replaced
    if (file->lost || !file->path.is_at_or_below(from)) continue;
    if (auto moved = file->path.moved(from, to)) file->path = std::move(*moved);
    else file->lost = true;
  }
}

// A hard link may keep the file; its identity is then not to be found under
// the only name that we know, which comes to the same.
void RemoteFileService::follow_removal(const WorkspacePath& path) {
  const std::lock_guard lock(mutex_);
  for (auto& [handle, file] : files_)
    if (file->path == path) file->lost = true;
}

Lifetime RemoteFileService::allowed(Lifetime told) const {
  return options_.may_keep && !options_.may_keep() ? Lifetime::none : told;
}

// ---- FileService --------------------------------------------------------------------

namespace {

Result<Attributes, Errno> attributes_of(const Result<HttpReply, Errno>& reply) {
  if (!reply) return reply.error();
  return readable(protocol::decode_attributes(reply->body));
}

Result<void, Errno> nothing_of(const Result<HttpReply, Errno>& reply) {
  // A lost answer that a look found to have succeeded comes as errno 0.
  if (!reply && reply.error().value != 0) return reply.error();
  return ok;
}

}  // namespace

Result<Lookup, Errno> RemoteFileService::lookup(const Caller& caller, const WorkspacePath& path) {
  Request request;
  request.file.path = path;
  FBROKER_TRY(const auto reply, ask(caller, Call::lookup, request));
  if (reply.status == 404) {
    if (error_of(reply).value != ENOENT) return error_of(reply);
    return Lookup{std::nullopt,
                  allowed(protocol::lifetime_named(reply.lifetime).value_or(Lifetime::none))};
  }
  FBROKER_TRY(Lookup found, readable(protocol::decode_lookup(reply.body)));
  found.lifetime = allowed(found.lifetime);
  return found;
}

Result<Attributes, Errno> RemoteFileService::stat(const Caller& caller, const FileRef& ref) {
  return attributes_of(ask_ref(caller, Call::stat, {}, ref));
}

Result<std::string, Errno> RemoteFileService::readlink(const Caller& caller, const FileRef& ref) {
  Request request;
  request.file = ref;
  FBROKER_TRY(const auto reply, ask(caller, Call::readlink, request));
  return readable(protocol::decode_target(reply.body));
}

Result<Opened, Errno> RemoteFileService::open(const Caller& caller, const FileRef& ref, int flags,
                                              std::uint32_t permissions) {
  if (!protocol::open_flags_known(flags)) return Errno{EINVAL};
  Request request;
  request.file = ref;
  request.flags = flags;
  request.permissions = permissions;
  Look look;
  if ((flags & O_EXCL) != 0) look = [&] { return after_making(caller, ref.path); };
  FBROKER_TRY(const auto reply, ask(caller, Call::open, request, look));
  return keep(reply, ref, flags, false);
}

Result<std::size_t, Errno> RemoteFileService::read(const Caller& caller, HandleId handle,
                                                   std::uint64_t offset,
                                                   std::span<std::byte> into) {
  FBROKER_TRY(const auto file, find(handle));
  if (into.empty()) return std::size_t{0};
  into = into.first(std::min(into.size(), protocol::kMaxPieceBytes));
  Attempt attempt;
  attempt.method = "GET";
  attempt.query = "offset=" + std::to_string(offset) + "&length=" + std::to_string(into.size());
  attempt.into = into;
  FBROKER_TRY(const auto reply, data(caller, *file, attempt));
  if (reply.status >= 300) return error_of(reply);
  return reply.received;
}

Result<std::size_t, Errno> RemoteFileService::write(const Caller& caller, HandleId handle,
                                                    protocol::WriteAt at,
                                                    std::span<const std::byte> bytes) {
  FBROKER_TRY(const auto file, find(handle));
  Attempt attempt;
  attempt.method = "PUT";
  attempt.query = at.append ? "append=1" : "offset=" + std::to_string(at.offset);
  attempt.body = bytes.first(std::min(bytes.size(), protocol::kMaxPieceBytes));
  attempt.repeatable = !at.append;
  FBROKER_TRY(const auto reply, data(caller, *file, attempt));
  if (reply.status >= 300) {
    if (reply.written > 0) return static_cast<std::size_t>(reply.written);
    return error_of(reply);
  }
  FBROKER_TRY(const std::uint64_t written, readable(protocol::decode_written(reply.body)));
  if (written > attempt.body.size()) return Errno{EIO};
  return static_cast<std::size_t>(written);
}

Result<void, Errno> RemoteFileService::fsync(const Caller& caller, HandleId handle, bool data_only) {
  FBROKER_TRY(const auto file, find(handle));
  Request request;
  request.data_only = data_only;
  return nothing_of(ask_open(caller, Call::fsync, std::move(request), *file));
}

Result<Opened, Errno> RemoteFileService::open_directory(const Caller& caller, const FileRef& ref) {
  Request request;
  request.file = ref;
  FBROKER_TRY(const auto reply, ask(caller, Call::opendir, request));
  return keep(reply, ref, 0, true);
}

Result<DirectoryPage, Errno> RemoteFileService::read_directory(const Caller& caller, HandleId handle,
                                                               std::uint64_t position,
                                                               std::size_t max_entries) {
  FBROKER_TRY(const auto file, find(handle));
  Request request;
  request.position = position;
  request.max_entries = std::clamp<std::size_t>(max_entries, 1, protocol::kMaxPageEntries);
  const auto handle_before = [&] {
    const std::lock_guard lock(file->mutex);
    return file->handle;
  };
  const std::string before = handle_before();
  auto reply = ask_open(caller, Call::readdir, request, *file);
  if (position != 0 && handle_before() != before) {
    // It was opened again: the new handle's listing begins with position 0.
    Request first;
    first.max_entries = 1;
    FBROKER_TRY(const auto begun, ask_open(caller, Call::readdir, first, *file));
    reply = ask_open(caller, Call::readdir, request, *file);
  }
  if (!reply) return reply.error();
  FBROKER_TRY(DirectoryPage page, readable(protocol::decode_page(reply->body)));
  page.lifetime = allowed(page.lifetime);
  return page;
}

// A broker that is away has forgotten the handle already: not waited for.
void RemoteFileService::close(const Caller& caller, HandleId handle) {
  std::shared_ptr<OpenFile> file;
  {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(handle);
    if (found == files_.end()) return;
    file = std::move(found->second);
    files_.erase(found);
  }
  Request request;
  {
    const std::lock_guard lock(file->mutex);
    request.handle = file->handle;
  }
  std::string body;
  protocol::encode_request(body, Call::close, request);
  const auto ignored = http_.exchange(post(caller, "/v1/close", body), Clock::now(), false);
  (void)ignored;
}

Result<Lookup, Errno> RemoteFileService::ask_to_make(const Caller& caller, Call call, const Request& request,
                                                     const WorkspacePath& path) {
  FBROKER_TRY(const auto reply, ask(caller, call, request, [&] { return after_making(caller, path); }));
  FBROKER_TRY(Lookup made, readable(protocol::decode_lookup(reply.body)));
  made.lifetime = allowed(made.lifetime);
  return made;
}

Result<Lookup, Errno> RemoteFileService::mkdir(const Caller& caller, const WorkspacePath& path,
                                               std::uint32_t permissions) {
  Request request;
  request.file.path = path;
  request.permissions = permissions;
  return ask_to_make(caller, Call::mkdir, request, path);
}

Result<Lookup, Errno> RemoteFileService::symlink(const Caller& caller, std::string_view target,
                                                 const WorkspacePath& path) {
  Request request;
  request.file.path = path;
  request.target = target;
  return ask_to_make(caller, Call::symlink, request, path);
}

Result<Lookup, Errno> RemoteFileService::link(const Caller& caller, const FileRef& existing,
                                              const WorkspacePath& added) {
  Request request;
  request.file = existing;
  request.to = added;
  return ask_to_make(caller, Call::link, request, added);
}

Result<void, Errno> RemoteFileService::unlink(const Caller& caller, const WorkspacePath& path) {
  Request request;
  request.file.path = path;
  const auto done = nothing_of(
      ask(caller, Call::unlink, request, [&] { return after_removing(caller, path); }));
  if (done) follow_removal(path);
  return done;
}

Result<void, Errno> RemoteFileService::rmdir(const Caller& caller, const WorkspacePath& path) {
  Request request;
  request.file.path = path;
  const auto done =
      nothing_of(ask(caller, Call::rmdir, request, [&] { return after_removing(caller, path); }));
  if (done) follow_removal(path);
  return done;
}

Result<void, Errno> RemoteFileService::rename(const Caller& caller, const WorkspacePath& from,
                                              const WorkspacePath& to, unsigned flags) {
  if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE)) != 0) return Errno{EINVAL};
  Request request;
  request.file.path = from;
  request.to = to;
  request.no_replace = (flags & RENAME_NOREPLACE) != 0;
  // Still there: it was not moved. Gone, and the new name there: it was.
  const auto look = [&] {
    const Name old_name = look_at(caller, from);
    if (old_name == Name::there) return Verdict{true, Errno{EIO}};
    const bool moved = old_name == Name::absent && look_at(caller, to) == Name::there;
    return Verdict{false, Errno{moved ? 0 : EIO}};
  };
  const auto done = nothing_of(ask(caller, Call::rename, request, look));
  if (done && from != to) follow_rename(from, to);
  return done;
}

Result<Attributes, Errno> RemoteFileService::truncate(const Caller& caller, const FileRef& ref,
                                                      std::uint64_t size) {
  Request request;
  request.size = size;
  return attributes_of(ask_ref(caller, Call::truncate, std::move(request), ref));
}

Result<Attributes, Errno> RemoteFileService::chmod(const Caller& caller, const FileRef& ref,
                                                   std::uint32_t permissions) {
  Request request;
  request.permissions = permissions;
  return attributes_of(ask_ref(caller, Call::chmod, std::move(request), ref));
}

Result<Attributes, Errno> RemoteFileService::utimens(const Caller& caller, const FileRef& ref,
                                                     const protocol::SetTimes& times) {
  Request request;
  request.times = times;
  return attributes_of(ask_ref(caller, Call::utimens, std::move(request), ref));
}

Result<protocol::FileSystemStatus, Errno> RemoteFileService::statfs(const Caller& caller,
                                                                    const WorkspacePath& path) {
  Request request;
  request.file.path = path;
  FBROKER_TRY(const auto reply, ask(caller, Call::statfs, request));
  return readable(protocol::decode_status(reply.body));
}

}  // namespace fbroker::client
