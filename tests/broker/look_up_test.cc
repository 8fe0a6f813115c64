// Looking names up: nobody waits longer than he wants to, and there is a bound.
#include "broker/egress/look_up.h"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>

namespace fbroker::broker {
namespace {

using namespace std::chrono_literals;

LookUp::Count none_under_way() { return std::make_shared<std::atomic<std::size_t>>(0); }

std::optional<LookUp::Addresses> answer(LookUp& look_up, std::chrono::milliseconds bound) {
  boost::asio::io_context io;
  std::optional<LookUp::Addresses> found;
  auto strand = boost::asio::make_strand(io);
  boost::asio::co_spawn(strand, look_up.answer(strand, bound),
                        [&](std::exception_ptr, std::optional<LookUp::Addresses> said) { found = std::move(said); });
  io.run();
  return found;
}

TEST(LookUpTest, FindsWhatTheSystemKnows) {
  const auto count = none_under_way();
  const auto look_up = LookUp::start("localhost", count);
  ASSERT_TRUE(look_up);
  const auto found = answer(*look_up, 60s);
  ASSERT_TRUE(found);
  ASSERT_FALSE(found->empty());
  EXPECT_FALSE(found->front().is_public());
  EXPECT_EQ(count->load(), 0u);
}

TEST(LookUpTest, WhoeverIsWokenHasNoAnswer) {
  LookUp look_up;   // one that is never answered
  look_up.wake();
  EXPECT_FALSE(answer(look_up, 60s));
}

TEST(LookUpTest, NobodyWaitsBeyondHisBound) {
  LookUp look_up;
  EXPECT_FALSE(answer(look_up, 10ms));
}

TEST(LookUpTest, ThereIsABound) {
  const auto count = none_under_way();
  count->store(LookUp::kMax);
  EXPECT_EQ(LookUp::start("localhost", count), nullptr);
  EXPECT_EQ(count->load(), LookUp::kMax);
}

}  // namespace
}  // namespace fbroker::broker
