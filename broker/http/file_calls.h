// FileCalls: the JSON calls, from a request's text to FileService and back.
#pragma once

#include <functional>
#include <string>

#include "broker/http/problem.h"
#include "broker/protocol/wire.h"
#include "broker/sessions/admissions.h"

namespace fbroker::broker {

// The workspace path that a path with symlinks in it means (design section 5).
using PathResolver =
    std::function<Result<WorkspacePath, Errno>(const protocol::Caller&, const WorkspacePath&)>;

// What a reply is made of, besides its bytes.
struct Outcome {
  unsigned status = 200;      // 204: there is no body
  // Of "there is no such name": how long a client may keep that.
  protocol::Lifetime absent = protocol::Lifetime::none;
};

// Threads: const, any.
class FileCalls {
 public:
  FileCalls(protocol::FileService& files, std::string instance)
      : files_(files), instance_(std::move(instance)) {}

  // Appends the reply's body to `out`: JSON, or a problem.
  // Precondition: the caller holds `admission` until the reply is sent.
  Outcome execute(const Admission& admission, const protocol::Caller& caller, protocol::Call call,
                  std::string_view body, std::string& out) const;

  // A problem for a refusal of `operations` on `path`: with the deciding rule
  // and whether it could be asked for, where the name is one that may be seen.
  // path may be null: nothing is known but the errno.
  Problem refusal(const Admission& admission, Errno error, const WorkspacePath* path,
                  policy::OperationSet operations) const;

  protocol::FileService& files() const { return files_; }
  const std::string& instance() const { return instance_; }

 private:
  protocol::FileService& files_;
  std::string instance_;
};

}  // namespace fbroker::broker
