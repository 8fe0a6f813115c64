// What goes across the sandbox's wall, and in which shape.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "container/carry/hand_over.h"
#include "container/carry/loopback.h"
#include "tests/support/sockets.h"

namespace fbroker::carry {
namespace {

using test::ends;
using test::listen_on_free_port;
using test::port_of;

TEST(LoopbackAddress, BothOfThemWithAPort) {
  for (const char* text : {"127.0.0.1:3128", "[::1]:1", "127.0.0.1:65535"}) {
    const auto at = parse_loopback(text);
    ASSERT_TRUE(at) << text;
    EXPECT_EQ(at->text(), text);
  }
}

TEST(LoopbackAddress, NoOtherAddressAndNoOtherSpelling) {
  for (const char* text : {"0.0.0.0:80", "[::]:80", "127.0.0.2:80", "127.1:80", "localhost:80", "::1:80", "10.0.0.1:80",
                           "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:+80", "127.0.0.1: 80",
                           "127.0.0.1:80 ", "127.0.0.1:0x50", "", ":80", "80", " 127.0.0.1:80"})
    EXPECT_FALSE(parse_loopback(text)) << text;
}

TEST(LoopbackAddress, ListensThereAndTellsWhoHasItAlready) {
  const UniqueFd taken = listen_on_free_port();
  const auto again = listen_on({Loopback::Family::v4, port_of(taken.get())});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().value, EADDRINUSE);
  const auto free = listen_on({Loopback::Family::v4, 0});
  ASSERT_TRUE(free);
  EXPECT_TRUE(test::connect_to_port(port_of(free->get())));
}

struct Sent {
  const char* name;
  std::string bytes;
  int descriptors;
};

// As hand_over, but with what it would never send.
void send(int channel, const std::string& bytes, const std::vector<int>& fds) {
  iovec data{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
  }
  ASSERT_GE(::sendmsg(channel, &message, MSG_NOSIGNAL), 0) << std::strerror(errno);
}

Ends unix_pair() {
  int both[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both), 0);
  return {UniqueFd(both[0]), UniqueFd(both[1])};
}

TEST(HandOver, APortAndOneEndArrive) {
  auto channel = make_channel();
  ASSERT_TRUE(channel);
  Ends pair = unix_pair();
  ASSERT_TRUE(hand_over(channel->launcher.get(), 1455, pair.relay.get()));
  pair.relay = UniqueFd();
  auto taken = take_over(channel->relay.get());
  ASSERT_TRUE(taken && *taken);
  EXPECT_EQ((*taken)->port, 1455);
  ASSERT_TRUE((*taken)->end);
  test::send_all((*taken)->end.get(), "x");
  EXPECT_EQ(test::receive(pair.launcher.get(), 1), "x");
}

TEST(HandOver, WhatIsOfAnotherShapeIsClosedWhole) {
  const std::string port("\x05\xaf", 2);
  const Sent cases[]{{"no descriptor", port, 0},     {"two", port, 2},  {"more than there is room for", port, 12},
                     {"one byte", port.substr(1), 1}, {"three bytes", port + "x", 1}, {"port 0", std::string(2, '\0'), 1}};
  for (const Sent& one : cases) {
    auto channel = make_channel();
    Ends pair = unix_pair();
    send(channel->launcher.get(), one.bytes, std::vector<int>(static_cast<std::size_t>(one.descriptors), pair.relay.get()));
    pair.relay = UniqueFd();
    auto taken = take_over(channel->relay.get());
    ASSERT_TRUE(taken && *taken) << one.name;
    EXPECT_FALSE((*taken)->end) << one.name;
    EXPECT_TRUE(ends(pair.launcher.get())) << one.name << ": a descriptor stayed open";
    // And the next one is taken again.
    Ends next = unix_pair();
    ASSERT_TRUE(hand_over(channel->launcher.get(), 1, next.relay.get()));
    taken = take_over(channel->relay.get());
    EXPECT_TRUE(taken && *taken && (*taken)->end) << one.name;
  }
}

TEST(HandOver, NothingWaitsAndTheEndIsSeen) {
  auto channel = make_channel();
  auto none = take_over(channel->relay.get());
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().value, EAGAIN);
  channel->launcher = UniqueFd();
  none = take_over(channel->relay.get());
  EXPECT_TRUE(none && !*none);
}

TEST(HandOver, ARelayThatIsGoneOrDoesNotReadNeverHoldsTheLauncherUp) {
  auto channel = make_channel();
  Ends pair = unix_pair();
  Errno error{0};
  for (int i = 0; i < 100'000 && error.value == 0; ++i)
    if (auto sent = hand_over(channel->launcher.get(), 1, pair.relay.get()); !sent) error = sent.error();
  EXPECT_TRUE(error.value == EAGAIN || error.value == ETOOMANYREFS) << error.value;
  channel->relay = UniqueFd();
  auto gone = hand_over(channel->launcher.get(), 1, pair.relay.get());
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().value, EPIPE);
}

// ATTACK: the relay belongs to the inside. It sends the launcher nothing.
TEST(HandOver, NothingComesBack) {
  auto channel = make_channel();
  EXPECT_LT(::send(channel->relay.get(), "x", 1, MSG_NOSIGNAL), 0);
  EXPECT_EQ(errno, EPIPE);
}

TEST(UnixStream, IsToldFromEverythingElse) {
  const Ends pair = unix_pair();
  EXPECT_TRUE(is_unix_stream(pair.launcher.get()));
  const auto channel = make_channel();
  EXPECT_FALSE(is_unix_stream(channel->launcher.get())) << "SOCK_SEQPACKET";
  EXPECT_FALSE(is_unix_stream(listen_on_free_port().get()));
  for (const int family : {AF_INET, AF_INET6}) {
    const UniqueFd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_FALSE(is_unix_stream(socket.get())) << family;
  }
  EXPECT_FALSE(is_unix_stream(STDERR_FILENO));
  EXPECT_FALSE(is_unix_stream(-1));
}

}  // namespace
}  // namespace fbroker::carry
