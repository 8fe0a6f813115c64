// The order of steps by which a change becomes final (design section 7).
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "broker/protocol/file_service.h"
#include "broker/sessions/view.h"
#include "policy/base/workspace_path.h"

namespace fbroker::broker {

class Session;

// Nobody can hold a revoke up longer than this, per step.
inline constexpr std::chrono::milliseconds kRevokeBound{2000};

// What clients have to forget.
struct Touched {
  WorkspacePath path;    // it and everything below
  bool retire = false;   // writing was taken away while something stays readable
  protocol::FileIdentity file = {};   // that one too, whatever its names; any: what is at `path`
};

struct Finality {
  bool drained = true;            // false: an operation hangs in the kernel, its client cut off
  bool acknowledged = true;       // every listening client has forgotten in time
  bool flushed = true;            // what the agent had written before is on the host; false: not all of it in time
  std::size_t connections_cut = 0;
  bool sandbox_killed = false;
  std::size_t handles_closed = 0;
  std::size_t tunnels_cut = 0;    // connections through the egress gate
  double milliseconds = 0;

  // All that was promised: whoever did not forget is gone.
  bool is_final() const { return drained && (acknowledged || sandbox_killed); }

  // Of two changes, one after the other.
  Finality& operator+=(const Finality& next) {
    flushed = flushed && next.flushed;
    drained = drained && next.drained;
    acknowledged = acknowledged && next.acknowledged;
    connections_cut += next.connections_cut;
    sandbox_killed = sandbox_killed || next.sandbox_killed;
    handles_closed += next.handles_closed;
    tunnels_cut += next.tunnels_cut;
    milliseconds += next.milliseconds;
    return *this;
  }
};

// Steps 0 to 3 and the wait: after it nothing that only the old view allowed
// succeeds. `pins_end`: grants for one open at or below these end on the
// handles that live by them.
Finality make_final(Session& session, std::shared_ptr<const View> next,
                    const std::vector<Touched>& touched,
                    const std::vector<WorkspacePath>& pins_end);

// For a change that only adds: publishes the view and tells clients what
// appeared; waits a moment for them, so that a name is there at once.
void make_visible(Session& session, std::shared_ptr<const View> next,
                  const std::vector<WorkspacePath>& appeared);

}  // namespace fbroker::broker
