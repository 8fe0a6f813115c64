// HelperNotifier: notifications of an adopted device, written by a process of
// their own.
//
// ATTACK (fuse/notifier.h): the write can hang beyond SIGKILL for as long as a
//   hostile client likes. Then tell() says so after its bound, and whoever
//   waits for the kernel's forgetting acts (broker/grants/revoke.cc).
// Threads: one at a time.
#pragma once

#include <chrono>
#include <memory>

#include "broker/device/small_process.h"
#include "broker/fuse/notifier.h"

namespace fbroker::broker {

class HelperNotifier final : public fuse::Notifier {
 public:
  // `device`: borrowed until this returns.
  static Result<std::unique_ptr<HelperNotifier>> start(int device, std::chrono::milliseconds bound);

  // False: the kernel has not carried out all of it within the bound. What was
  // begun goes on; until it ends nothing further is begun.
  bool tell(const fuse::Notices&) override;

 private:
  HelperNotifier(SmallProcess process, UniqueFd channel, std::chrono::milliseconds bound)
      : process_(std::move(process)), channel_(std::move(channel)), bound_(bound) {}
  bool send(std::span<const std::byte> bytes, std::chrono::steady_clock::time_point until);
  bool take_answer(std::chrono::steady_clock::time_point until, int& error);

  SmallProcess process_;
  UniqueFd channel_;
  std::chrono::milliseconds bound_;
  bool answer_owed_ = false;   // of a batch that ran into its bound
  bool broken_ = false;        // half a batch went out: nothing can follow it
};

}  // namespace fbroker::broker
