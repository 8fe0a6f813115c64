// EventBus: what a session's clients are told to forget, and whether they have.
//
// One per session. Front ends subscribe; revoke publishes and waits for the
// acknowledgements (design section 7, steps 3 and 5); the host watch publishes
// and waits for nobody.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "broker/protocol/event.h"

namespace fbroker::broker {

class EventBus {
 public:
  // One listening client. Destroying it ends the subscription. A client that
  // left after an event was published and before acknowledging it counts as
  // not having acknowledged, for ever (ATTACK: hang up in the middle of a
  // revoke and keep the pages); later events are not its to acknowledge.
  class Subscription {
   public:
    ~Subscription();
    // Takes what is queued; empty when nothing is. A queue that outgrew its
    // bound holds a single forget_all instead (after a retirement of the root,
    // sequence 0, where any retirement was among what it stands for).
    std::vector<protocol::Event> take();
    // Everything up to and including `sequence` has been carried out. What was
    // not taken yet cannot be acknowledged.
    void acknowledge(std::uint64_t sequence);

   private:
    friend class EventBus;
    struct State;
    explicit Subscription(std::shared_ptr<State> state);
    std::shared_ptr<State> state_;
  };

  static constexpr std::size_t kMaxQueued = 4096;  // events per subscription

  EventBus();
  ~EventBus();

  // `ready` is called, from any thread and with no lock held, when take() has
  // something new since it last left nothing; it must not block. One call may
  // still be on its way when the Subscription is destroyed: let it hold
  // weakly what it wakes.
  std::unique_ptr<Subscription> subscribe(std::function<void()> ready);

  // Returns the event's sequence number.
  std::uint64_t publish(protocol::EventKind kind, const WorkspacePath& path,
                        const protocol::FileIdentity& identity = {});

  // Whether every client that listened at publish(sequence) acknowledged it
  // within `bound`.
  bool wait_acknowledged(std::uint64_t sequence, std::chrono::milliseconds bound);

  std::size_t subscribers() const;
  std::uint64_t last_sequence() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace fbroker::broker
