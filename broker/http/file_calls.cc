#include "broker/http/file_calls.h"

#include <fcntl.h>
#include <stdio.h>

#include <array>

#include "broker/protocol/wire_json.h"

namespace fbroker::broker {

using protocol::Attributes;
using protocol::Call;
using protocol::Caller;
using protocol::FileService;
using protocol::Lifetime;
using protocol::Lookup;
using protocol::Opened;
using protocol::Request;
using policy::Operation;
using policy::OperationSet;

namespace {

// What a call needs on its path, to name the rule when it was refused. Only
// words for a person: LocalFileService has decided already.
OperationSet needs_of(Call call, int flags) {
  switch (call) {
    case Call::open: {
      OperationSet needs;
      if ((flags & O_ACCMODE) != O_WRONLY) needs.add(Operation::read);
      if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0) needs.add(Operation::write);
      if ((flags & O_CREAT) != 0) needs.add(Operation::create);
      return needs;
    }
    case Call::readlink: return {Operation::read};
    case Call::mkdir: case Call::symlink: return {Operation::create};
    case Call::link: return {Operation::read, Operation::write};
    case Call::unlink: case Call::rmdir: case Call::rename: return {Operation::delete_};
    case Call::truncate: case Call::chmod: case Call::utimens: return {Operation::write};
    default: return {Operation::list};
  }
}

// One call on its way: its result is written to `out`, or becomes the error.
struct Run {
  FileService& files;
  const std::string& instance;
  const Caller& caller;
  const Request& request;
  std::string& out;
  Outcome outcome;

  Result<void, Errno> done(Result<void, Errno> result) {
    outcome.status = 204;
    return result;
  }
  Result<void, Errno> tell(const Result<Attributes, Errno>& result) {
    if (!result) return result.error();
    protocol::encode(out, *result);
    return ok;
  }
  Result<void, Errno> tell(const Result<Lookup, Errno>& result) {
    if (!result) return result.error();
    if (!result->attributes) {
      outcome.absent = result->lifetime;
      return Errno{ENOENT};
    }
    protocol::encode(out, *result);
    return ok;
  }
  Result<void, Errno> tell(const Result<Opened, Errno>& result) {
    if (!result) return result.error();
    protocol::encode(out, protocol::handle_text(instance, result->handle), *result);
    return ok;
  }

  Result<void, Errno> lookup() { return tell(files.lookup(caller, request.file.path)); }
  Result<void, Errno> stat() { return tell(files.stat(caller, request.file)); }
  Result<void, Errno> readlink() {
    FBROKER_TRY(const std::string target, files.readlink(caller, request.file));
    protocol::encode_target(out, target);
    return ok;
  }
  Result<void, Errno> open() {
    return tell(files.open(caller, request.file, request.flags, request.permissions));
  }
  Result<void, Errno> opendir() { return tell(files.open_directory(caller, request.file)); }
  Result<void, Errno> readdir() {
    FBROKER_TRY(const auto page, files.read_directory(caller, request.file.handle,
                                                      request.position, request.max_entries));
    protocol::encode(out, page);
    return ok;
  }
  Result<void, Errno> mkdir() {
    return tell(files.mkdir(caller, request.file.path, request.permissions));
  }
  Result<void, Errno> symlink() {
    return tell(files.symlink(caller, request.target, request.file.path));
  }
  Result<void, Errno> link() { return tell(files.link(caller, request.file, request.to)); }
  Result<void, Errno> unlink() { return done(files.unlink(caller, request.file.path)); }
  Result<void, Errno> rmdir() { return done(files.rmdir(caller, request.file.path)); }
  Result<void, Errno> rename() {
    return done(files.rename(caller, request.file.path, request.to,
                             request.no_replace ? RENAME_NOREPLACE : 0));
  }
  Result<void, Errno> truncate() { return tell(files.truncate(caller, request.file, request.size)); }
  Result<void, Errno> chmod() {
    return tell(files.chmod(caller, request.file, request.permissions));
  }
  Result<void, Errno> utimens() { return tell(files.utimens(caller, request.file, request.times)); }
  Result<void, Errno> statfs() {
    FBROKER_TRY(const auto status, files.statfs(caller, request.file.path));
    protocol::encode(out, status);
    return ok;
  }
  Result<void, Errno> close() {
    files.close(caller, request.file.handle);
    return done(ok);
  }
  Result<void, Errno> fsync() {
    return done(files.fsync(caller, request.file.handle, request.data_only));
  }
};

// By Call: a new one cannot be forgotten, the array's size says so.
constexpr std::array<Result<void, Errno> (Run::*)(), protocol::kCalls> kRuns{
    &Run::lookup, &Run::stat,   &Run::readlink, &Run::open,     &Run::opendir, &Run::readdir,
    &Run::mkdir,  &Run::symlink, &Run::link,    &Run::unlink,   &Run::rmdir,   &Run::rename,
    &Run::truncate, &Run::chmod, &Run::utimens, &Run::statfs,   &Run::close,   &Run::fsync,
};

Problem malformed(const protocol::WireError& error) {
  Problem problem = problem_of(Errno{error.error});
  problem.status = 400;
  problem.field = error.field;
  problem.detail = error.what;
  return problem;
}

}  // namespace

Outcome FileCalls::execute(const Admission& admission, const Caller& caller, Call call,
                           std::string_view body, std::string& out) const {
  const auto fail = [&](const Problem& problem, Lifetime absent = Lifetime::none) {
    out.clear();
    append_problem(out, problem);
    return Outcome{problem.status, absent};
  };
  auto request = protocol::decode_request(call, body);
  if (!request) return fail(malformed(request.error()));
  const bool by_handle = !request->handle.empty();
  if (by_handle) {
    const auto handle = protocol::parse_handle(request->handle, instance_);
    if (!handle) return fail(problem_of(handle.error()));
    request->file.handle = *handle;
  }
  Run run{files_, instance_, caller, *request, out, {}};
  const auto result = (run.*kRuns[static_cast<std::size_t>(call)])();
  if (result) return run.outcome;
  const auto* path = by_handle ? nullptr : &request->file.path;
  return fail(refusal(admission, result.error(), path, needs_of(call, request->flags)),
              run.outcome.absent);
}

// INVARIANT: ENOENT is always the same bytes, and a rule is named only for a
//   name that the session may see: the answer for a hidden name says nothing
//   that the answer for an absent one does not.
Problem FileCalls::refusal(const Admission& admission, Errno error, const WorkspacePath* path,
                           OperationSet operations) const {
  Problem problem = problem_of(error);
  if (error.value != EACCES && error.value != EPERM) return problem;
  if (path == nullptr || admission.view().snapshot == nullptr) return problem;
  const policy::Snapshot& snapshot = admission.snapshot();
  const policy::PathDecision decision = snapshot.decide(*path);
  if (!decision.visible()) return problem;
  for (std::size_t i = 0; i < policy::kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    if (!operations.has(operation) || decision.allows(operation)) continue;
    problem.rule = snapshot.reason(decision.of(operation).reason).id;
    problem.askable = decision.of(operation).effect == policy::Effect::ask;
    break;
  }
  return problem;
}

}  // namespace fbroker::broker
