// View: what one operation sees of its session, swapped as a whole: the policy
// and the exports it speaks of always belong together.
#pragma once

#include <memory>

#include "policy/network.h"
#include "policy/snapshot.h"

namespace fbroker::broker {

class ExportTable;   // broker/files/export.h
class RevokedFiles;  // broker/files/revoked_files.h

struct View {
  std::shared_ptr<const policy::Snapshot> snapshot;
  std::shared_ptr<const ExportTable> exports;
  policy::Durability durability = policy::Durability::normal;
  std::shared_ptr<const policy::NetworkRules> network = std::make_shared<policy::NetworkRules>();
  // The guard "git" alone, whoever else denies there too; none: it stands everywhere.
  std::shared_ptr<const policy::Snapshot> git_guard = nullptr;
  std::shared_ptr<const RevokedFiles> revoked = nullptr;   // none: nothing was
};

}  // namespace fbroker::broker
