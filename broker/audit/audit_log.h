// AuditLog: no access without its record (design section 8).
#pragma once

#include "broker/audit/record.h"
#include "policy/base/result.h"

namespace fbroker::audit {

// Threads: append() may be called from any thread.
class AuditSink {
 public:
  virtual ~AuditSink() = default;

  // Takes the record over before it returns: from then on a killed broker's
  // successor still writes it. Callers append *before* they answer a client.
  // INVARIANT: if this fails, the caller refuses the work (EIO): what cannot be
  // recorded does not happen.
  // Errors: EIO while the log cannot be written.
  virtual Result<void, Errno> append(const Record& record) = 0;

  // Whether append() would be taken now: asked before a change is made, since
  // its record can only be written once its result is known. Must be cheap.
  // Errors: EIO while the log cannot be written.
  virtual Result<void, Errno> ready() { return ok; }
};

}  // namespace fbroker::audit
