// The gate: after publish and drain nobody works under the older view.
#include "broker/sessions/admissions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace fbroker::broker {
namespace {

using namespace std::chrono_literals;

constexpr auto kLong = std::chrono::milliseconds(20s);

std::shared_ptr<const View> view() { return std::make_shared<View>(); }

TEST(AdmissionsTest, WhoIsAdmittedSeesTheViewOfThatMoment) {
  const auto first = view(), second = view();
  Admissions gate(first);
  const Admission before = gate.admit();
  gate.publish(second);
  const Admission after = gate.admit();
  EXPECT_EQ(&before.view(), first.get());
  EXPECT_EQ(&after.view(), second.get());
  EXPECT_EQ(gate.current(), second);
}

TEST(AdmissionsTest, AnEmptyGateIsDrainedAtOnce) {
  Admissions gate(view());
  gate.publish(view());
  EXPECT_TRUE(gate.drain(0ms));
}

TEST(AdmissionsTest, WhoeverIsInsideHoldsTheDrainUpAndItMayBeTriedAgain) {
  Admissions gate(view());
  {
    const Admission inside = gate.admit();
    gate.publish(view());
    EXPECT_FALSE(gate.drain(1ms));
    EXPECT_FALSE(gate.drain(1ms)) << "the second attempt must not lose count of it";
  }
  EXPECT_TRUE(gate.drain(0ms));
}

TEST(AdmissionsTest, AMovedAdmissionLeavesOnce) {
  Admissions gate(view());
  {
    Admission one = gate.admit();
    Admission two = std::move(one);
    one = gate.admit();
    one = std::move(two);
  }
  EXPECT_TRUE(gate.drain(0ms));
  { const Admission inside = gate.admit(); EXPECT_FALSE(gate.drain(1ms)); }
}

TEST(AdmissionsTest, TheLastToLeaveWakesTheDrain) {
  Admissions gate(view());
  auto inside = std::make_unique<Admission>(gate.admit());
  gate.publish(view());
  std::thread leaves([&] { inside.reset(); });
  EXPECT_TRUE(gate.drain(kLong));
  leaves.join();
}

// INVARIANT (admissions.h): the finality of a revoke hangs on this. Readers note
// what they work under while they work; the publisher, once drain() returned,
// must find nobody under an older view.
TEST(AdmissionsTest, AfterPublishAndDrainNobodyWorksUnderAnOlderView) {
  constexpr std::size_t kReaders = 4;
  constexpr std::size_t kRounds = 1500;
  std::vector<std::shared_ptr<const View>> views;
  for (std::size_t i = 0; i <= kRounds; ++i) views.push_back(view());
  std::vector<std::pair<const View*, std::size_t>> order;
  for (std::size_t i = 0; i < views.size(); ++i) order.emplace_back(views[i].get(), i);
  std::sort(order.begin(), order.end());
  const auto generation_of = [&](const View* one) {
    return std::lower_bound(order.begin(), order.end(), std::pair(one, std::size_t{0}))->second;
  };

  Admissions gate(views[0]);
  std::atomic<std::size_t> drained{0};      // oldest generation that anybody may work under
  std::atomic<std::size_t> violations{0};
  std::atomic<std::size_t> operations{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (std::size_t r = 0; r < kReaders; ++r)
    readers.emplace_back([&] {
      while (!stop) {
        const Admission inside = gate.admit();
        const std::size_t mine = generation_of(&inside.view());
        for (int work = 0; work < 3; ++work)
          if (mine < drained.load()) violations.fetch_add(1);
        operations.fetch_add(1);
      }
    });
  for (std::size_t round = 1; round <= kRounds; ++round) {
    gate.publish(views[round]);
    ASSERT_TRUE(gate.drain(kLong)) << "a drain that newcomers can hold up";
    drained.store(round);
  }
  while (operations.load() < 1000) std::this_thread::yield();
  stop = true;
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(violations.load(), 0u) << "in " << operations.load() << " operations";
}

}  // namespace
}  // namespace fbroker::broker
