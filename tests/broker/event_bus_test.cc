// The event bus: everybody is told, nobody can pretend to have listened.
#include "broker/sessions/event_bus.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "broker/http/events.h"

namespace fbroker::broker {
namespace {

using namespace std::chrono_literals;
using protocol::EventKind;

constexpr auto kLong = 20s;

WorkspacePath path(const char* bytes) { return *WorkspacePath::parse(bytes); }

TEST(EventBusTest, EachSubscriberIsGivenEachEventOnceAndInOrder) {
  EventBus bus;
  int woken = 0;
  auto one = bus.subscribe([&] { ++woken; });
  auto two = bus.subscribe({});
  EXPECT_EQ(bus.publish(EventKind::entry, path("/a")), 1u);
  EXPECT_EQ(bus.publish(EventKind::content, path("/b")), 2u);
  EXPECT_EQ(woken, 1) << "woken once until it takes";
  for (auto* subscription : {one.get(), two.get()}) {
    const auto events = subscription->take();
    ASSERT_EQ(events.size(), 2u);
    EXPECT_EQ(events[0].path, path("/a"));
    EXPECT_EQ(events[1].sequence, 2u);
    EXPECT_TRUE(subscription->take().empty());
  }
  bus.publish(EventKind::entry, path("/c"));
  EXPECT_EQ(woken, 2);
}

TEST(EventBusTest, NobodyListeningIsNobodyToWaitFor) {
  EventBus bus;
  EXPECT_TRUE(bus.wait_acknowledged(bus.publish(EventKind::forget, path("/a")), 0ms));
}

TEST(EventBusTest, WaitsForTheAcknowledgementOfAll) {
  EventBus bus;
  auto one = bus.subscribe({});
  auto two = bus.subscribe({});
  const auto sequence = bus.publish(EventKind::forget, path("/a"));
  (void)one->take();
  (void)two->take();
  one->acknowledge(sequence);
  EXPECT_FALSE(bus.wait_acknowledged(sequence, 1ms)) << "the second has not";
  std::thread later([&] { two->acknowledge(sequence); });
  EXPECT_TRUE(bus.wait_acknowledged(sequence, kLong));
  later.join();
}

TEST(EventBusTest, WhatWasNotTakenCannotBeAcknowledged) {
  EventBus bus;
  auto client = bus.subscribe({});
  client->acknowledge(~0ull);
  const auto sequence = bus.publish(EventKind::forget, path("/a"));
  EXPECT_FALSE(bus.wait_acknowledged(sequence, 1ms)) << "acknowledged the future";
  client->acknowledge(sequence);
  EXPECT_FALSE(bus.wait_acknowledged(sequence, 1ms)) << "acknowledged unseen";
  (void)client->take();
  client->acknowledge(sequence);
  EXPECT_TRUE(bus.wait_acknowledged(sequence, 0ms));
}

TEST(EventBusTest, HangingUpIsNotAcknowledging) {
  EventBus bus;
  auto client = bus.subscribe({});
  const auto sequence = bus.publish(EventKind::forget, path("/a"));
  client.reset();
  EXPECT_FALSE(bus.wait_acknowledged(sequence, 0ms)) << "left before the wait";
  client = bus.subscribe({});
  const auto next = bus.publish(EventKind::forget, path("/a"));
  std::thread leaves([&] { client.reset(); });
  EXPECT_FALSE(bus.wait_acknowledged(next, kLong)) << "left during the wait";
  leaves.join();
  EXPECT_TRUE(bus.wait_acknowledged(bus.publish(EventKind::forget, path("/a")), 0ms))
      << "who left earlier does not hold up what comes later";
}

TEST(EventBusTest, ManyWhoLeftAreNeverForgotten) {
  EventBus bus;
  std::vector<std::uint64_t> owed;
  for (int i = 0; i < 500; ++i) {
    auto client = bus.subscribe({});
    owed.push_back(bus.publish(EventKind::forget, path("/a")));
  }
  for (const auto sequence : owed) EXPECT_FALSE(bus.wait_acknowledged(sequence, 0ms));
}

TEST(EventBusTest, WhoComesLaterNeedNotAcknowledgeWhatWasBefore) {
  EventBus bus;
  const auto sequence = bus.publish(EventKind::forget, path("/a"));
  auto client = bus.subscribe({});
  EXPECT_TRUE(bus.wait_acknowledged(sequence, 0ms));
  EXPECT_TRUE(client->take().empty());
}

TEST(EventBusTest, AQueueThatOutgrowsItsBoundBecomesOneForgetAll) {
  EventBus bus;
  auto client = bus.subscribe({});
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < 3 * EventBus::kMaxQueued; ++i) last = bus.publish(EventKind::entry, path("/a"));
  const auto events = client->take();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, EventKind::forget_all);
  EXPECT_EQ(events[0].sequence, last);
}

TEST(EventBusTest, ARetirementSurvivesTheOverflow) {
  EventBus bus;
  auto client = bus.subscribe({});
  bus.publish(EventKind::retire, path("/a"));
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < 2 * EventBus::kMaxQueued; ++i) last = bus.publish(EventKind::entry, path("/b"));
  const auto events = client->take();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, EventKind::retire);
  EXPECT_TRUE(events[0].path.is_root());
  EXPECT_EQ(events[0].sequence, 0u) << "acknowledging it would stand for the other";
  EXPECT_EQ(events[1].kind, EventKind::forget_all);
  EXPECT_EQ(events[1].sequence, last);
}

TEST(EventBusTest, ASubscriptionMayOutliveTheBus) {
  auto bus = std::make_unique<EventBus>();
  auto client = bus->subscribe({});
  bus->publish(EventKind::entry, path("/a"));
  bus.reset();
  EXPECT_EQ(client->take().size(), 1u);
  client->acknowledge(1);
}

TEST(EventBusTest, ThreadsThatPublishTakeAndLeaveLoseNothing) {
  EventBus bus;
  constexpr int kEach = 2000;
  auto client = bus.subscribe({});
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) bus.publish(EventKind::retire, path("/a"));
    });
  threads.emplace_back([&] {
    for (int i = 0; i < 200; ++i) (void)bus.subscribe([] {});
  });
  std::uint64_t seen = 0;
  while (seen < 3 * kEach)
    for (const auto& event : client->take()) {
      if (event.sequence == 0) continue;
      EXPECT_GT(event.sequence, seen);
      seen = event.sequence;
    }
  for (auto& thread : threads) thread.join();
  client->acknowledge(seen);
  EXPECT_TRUE(bus.wait_acknowledged(seen, 0ms) || bus.subscribers() == 1);
}

TEST(EventStreamsTest, HaveABoundOfEachProcessAndOfAllAndRoomForTheFileService) {
  EventBus bus;
  EventStreams streams(bus);
  std::vector<std::shared_ptr<Listener>> listeners;
  for (std::uint32_t process = 1; process <= 5; ++process)
    for (int i = 0; i < 10; ++i)
      if (auto listener = streams.listen({}, process)) listeners.push_back(std::move(listener));
  EXPECT_EQ(listeners.size(), EventStreams::kMaxListeners);
  EXPECT_NE(streams.listen({}, 1, true), nullptr);
  listeners.pop_back();
  EXPECT_EQ(streams.listen({}, 1), nullptr) << "the first process has its eight";
  EXPECT_NE(streams.listen({}, 5), nullptr);
}

}  // namespace
}  // namespace fbroker::broker
