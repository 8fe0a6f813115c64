// SessionContext: what the parts that serve a session need of it.
#pragma once

#include <sys/types.h>

#include <string>

#include "broker/audit/audit_log.h"
#include "broker/sessions/admissions.h"
#include "broker/sessions/event_bus.h"

namespace fbroker::broker {

class HostWatch;   // broker/watch/host_watch.h
class OwnFiles;    // broker/files/own_files.h

// Everything here outlives whoever was given it.
struct SessionContext {
  std::string name;
  Admissions& admissions;
  EventBus& events;
  audit::AuditSink& audit;
  const OwnFiles& own_files;   // the broker's own files: invisible under any name
  HostWatch* watch = nullptr;  // none: nothing may be kept longer than a second
};

}  // namespace fbroker::broker
