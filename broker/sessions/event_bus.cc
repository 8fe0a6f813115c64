#include "broker/sessions/event_bus.h"

#include <algorithm>
#include <utility>

namespace fbroker::broker {

using protocol::Event;
using protocol::EventKind;

namespace {

// What a client that left owed: it listened at these events' publish() and
// never acknowledged them. Sequence numbers, after < owed <= upto.
struct Debt {
  std::uint64_t after;
  std::uint64_t upto;
};

// Older debts are of no interest (a revoke waits right after it published),
// but forgetting one would turn "not acknowledged" into "acknowledged": the
// two oldest become one that spans both.
constexpr std::size_t kMaxDebts = 64;

}  // namespace

struct EventBus::Subscription::State {
  std::shared_ptr<EventBus::Impl> bus;
  std::function<void()> ready;      // set once, before anybody else sees this
  // Guarded by Impl::mutex:
  std::deque<Event> queue;
  std::uint64_t joined = 0;         // last event published before it listened
  std::uint64_t taken = 0;          // last event handed out
  std::uint64_t acknowledged = 0;
};

struct EventBus::Impl {
  using State = Subscription::State;

  mutable std::mutex mutex;  // guards everything here and in each State; no other is taken below it
  std::condition_variable changed;
  std::uint64_t last = 0;
  std::vector<std::shared_ptr<State>> listening;
  std::deque<Debt> debts;

  static void enqueue(State& state, const Event& event);
  static void fold(State& state, const Event& event);
  void leave(const std::shared_ptr<State>& state);
  bool owed_by_the_gone(std::uint64_t sequence) const;
  bool owed_by_the_living(std::uint64_t sequence) const;
};

void EventBus::Impl::enqueue(State& state, const Event& event) {
  const bool everything_goes_anyway =
      state.queue.size() > 0 && state.queue.back().kind == EventKind::forget_all;
  if (everything_goes_anyway && event.kind != EventKind::retire) {
    state.queue.back().sequence = event.sequence;
    return;
  }
  if (state.queue.size() < kMaxQueued) return state.queue.push_back(event);
  fold(state, event);
}

// INVARIANT: a retirement survives the folding. forget_all drops pages but lets
//   a shared mapping take them up again for writing; only retire ends that. So
//   where any was queued, the root is retired.
void EventBus::Impl::fold(State& state, const Event& event) {
  const auto retires = [](const Event& e) { return e.kind == EventKind::retire; };
  const bool retire = retires(event) || std::any_of(state.queue.begin(), state.queue.end(), retires);
  state.queue.clear();
  // 0: acknowledging this one must not stand for the one behind it.
  if (retire) state.queue.push_back({0, EventKind::retire, {}, {}});
  state.queue.push_back({event.sequence, EventKind::forget_all, {}, {}});
}

void EventBus::Impl::leave(const std::shared_ptr<State>& state) {
  std::erase(listening, state);
  const std::uint64_t owed_after = std::max(state->joined, state->acknowledged);
  if (owed_after >= last) return;
  debts.push_back({owed_after, last});
  if (debts.size() <= kMaxDebts) return;
  const Debt oldest = debts.front();
  debts.pop_front();
  debts.front() = {std::min(oldest.after, debts.front().after),
                   std::max(oldest.upto, debts.front().upto)};
}

bool EventBus::Impl::owed_by_the_gone(std::uint64_t sequence) const {
  return std::any_of(debts.begin(), debts.end(), [&](const Debt& debt) {
    return debt.after < sequence && sequence <= debt.upto;
  });
}

bool EventBus::Impl::owed_by_the_living(std::uint64_t sequence) const {
  return std::any_of(listening.begin(), listening.end(), [&](const auto& state) {
    return state->joined < sequence && state->acknowledged < sequence;
  });
}

EventBus::EventBus() : impl_(std::make_shared<Impl>()) {}

EventBus::~EventBus() {
  const std::lock_guard lock(impl_->mutex);
  impl_->listening.clear();  // subscriptions that outlive us hear nothing more
}

std::unique_ptr<EventBus::Subscription> EventBus::subscribe(std::function<void()> ready) {
  auto state = std::make_shared<Subscription::State>();
  state->bus = impl_;
  state->ready = std::move(ready);
  {
    const std::lock_guard lock(impl_->mutex);
    state->joined = state->taken = state->acknowledged = impl_->last;
    impl_->listening.push_back(state);
  }
  return std::unique_ptr<Subscription>(new Subscription(std::move(state)));
}

std::uint64_t EventBus::publish(EventKind kind, const WorkspacePath& path,
                                const protocol::FileIdentity& identity) {
  std::vector<std::shared_ptr<Subscription::State>> to_wake;
  std::uint64_t sequence;
  {
    const std::lock_guard lock(impl_->mutex);
    sequence = ++impl_->last;
    for (const auto& state : impl_->listening) {
      if (state->queue.empty()) to_wake.push_back(state);  // else it was told already
      Impl::enqueue(*state, {sequence, kind, path, identity});
    }
  }
  for (const auto& state : to_wake)
    if (state->ready) state->ready();
  return sequence;
}

bool EventBus::wait_acknowledged(std::uint64_t sequence, std::chrono::milliseconds bound) {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait_for(lock, bound, [&] {
    return impl_->owed_by_the_gone(sequence) || !impl_->owed_by_the_living(sequence);
  });
  return !impl_->owed_by_the_gone(sequence) && !impl_->owed_by_the_living(sequence);
}

std::size_t EventBus::subscribers() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->listening.size();
}

std::uint64_t EventBus::last_sequence() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->last;
}

EventBus::Subscription::Subscription(std::shared_ptr<State> state) : state_(std::move(state)) {}

EventBus::Subscription::~Subscription() {
  const auto bus = state_->bus;
  {
    const std::lock_guard lock(bus->mutex);
    bus->leave(state_);
  }
  bus->changed.notify_all();
}

std::vector<Event> EventBus::Subscription::take() {
  const std::lock_guard lock(state_->bus->mutex);
  std::vector<Event> events(state_->queue.begin(), state_->queue.end());
  state_->queue.clear();
  if (!events.empty()) state_->taken = events.back().sequence;
  return events;
}

// ATTACK: a client acknowledges events of the future, so that a later revoke
//   believes that it forgot. Only what it was given can be acknowledged.
void EventBus::Subscription::acknowledge(std::uint64_t sequence) {
  {
    const std::lock_guard lock(state_->bus->mutex);
    state_->acknowledged = std::max(state_->acknowledged, std::min(sequence, state_->taken));
  }
  state_->bus->changed.notify_all();
}

}  // namespace fbroker::broker
