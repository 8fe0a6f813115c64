// --publish: what may be asked for, and the launcher's half between real sockets.
#include "container/publish.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "container/carry/hand_over.h"
#include "tests/support/process.h"
#include "tests/support/sockets.h"

namespace fbroker::container {
namespace {

using test::connect_to_port;
using test::ends;
using test::listen_on_free_port;
using test::port_of;
using test::receive;
using test::send_all;

TEST(PublishOption, APortAPairOrAnAddressOfThisMachineAlone) {
  const struct {
    const char *text, *outside;
    int inside;
  } cases[]{{"1455", "127.0.0.1:1455", 1455},           {"8080:80", "127.0.0.1:8080", 80},
            {"127.0.0.1:1455", "127.0.0.1:1455", 1455}, {"127.0.0.1:8080:80", "127.0.0.1:8080", 80},
            {"[::1]:1455", "[::1]:1455", 1455},         {"[::1]:8080:80", "[::1]:8080", 80}};
  for (const auto& one : cases) {
    const auto port = parse_publish(one.text);
    ASSERT_TRUE(port) << one.text;
    EXPECT_EQ(port->outside.text(), one.outside);
    EXPECT_EQ(port->inside, one.inside);
  }
}

TEST(PublishOption, NoOtherAddress) {
  for (const char* text : {"0.0.0.0:1455", "192.168.1.2:80", "[::]:80", "localhost:80", "127.0.0.2:80:80", "example.com:1:2",
                           "[::ffff:127.0.0.1]:80", "127.1:80", "*:80"}) {
    const auto port = parse_publish(text);
    ASSERT_FALSE(port) << text;
    EXPECT_NE(port.error().text().find("other machines"), std::string::npos) << port.error().text();
  }
}

TEST(PublishOption, NoOtherForm) {
  for (const char* text : {"", ":", ":80", "80:", "0", "65536", "80:0", "80:65536", "1:2:3", "-1", "+80", "80 ", " 80",
                           "127.0.0.1", "127.0.0.1:", "[::1]", "[::1", "[", "::1:80", "0x50", "80/tcp", "80:80/udp",
                           "127.0.0.1:1:2:3", "[::1]80"})
    EXPECT_FALSE(parse_publish(text)) << text;
  EXPECT_FALSE(parse_publish("3128")) << "the proxy's own port";
  EXPECT_FALSE(parse_publish("80:3128"));
  EXPECT_TRUE(parse_publish("3128:80"));
}

std::uint16_t free_port() { return port_of(listen_on_free_port().get()); }

class Publishing : public testing::Test {
 protected:
  void start() {
    auto listening = Publisher::listen({std::to_string(port) + ":80"});
    ASSERT_TRUE(listening) << listening.error().text();
    publisher = std::move(*listening);
    auto made = carry::make_channel();
    ASSERT_TRUE(publisher.start(std::move(made->launcher)));
    relay = std::move(made->relay);
  }
  // What the relay is handed next.
  carry::HandedOver next() {
    carry::HandedOver got{0, UniqueFd()};
    test::wait_until([&] {
      auto taken = carry::take_over(relay.get());
      if (!taken || !*taken) return false;
      got = std::move(**taken);
      return true;
    }, std::chrono::seconds(10));
    return got;
  }

  const std::uint16_t port = free_port();
  Publisher publisher;
  UniqueFd relay;
};

TEST_F(Publishing, EachConnectionIsHandedInAsAUnixSocketAndCarried) {
  start();
  const UniqueFd client = connect_to_port(port);
  ASSERT_TRUE(client);
  carry::HandedOver inside = next();
  ASSERT_TRUE(inside.end);
  EXPECT_EQ(inside.port, 80);
  // ATTACK: a socket of the host's network, inside.
  EXPECT_TRUE(carry::is_unix_stream(inside.end.get()));
  ASSERT_TRUE(send_all(client.get(), "in"));
  EXPECT_EQ(receive(inside.end.get(), 2), "in");
  ASSERT_TRUE(send_all(inside.end.get(), std::string(300'000, 'y')));
  EXPECT_EQ(receive(client.get(), 300'000), std::string(300'000, 'y'));
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_TRUE(ends(inside.end.get()));
  send_all(inside.end.get(), "last");
  inside.end = UniqueFd();
  EXPECT_EQ(receive(client.get()), "last");
}

// ATTACK: whoever holds the inner end sends descriptors along, for the launcher to keep.
TEST_F(Publishing, DescriptorsFromInsideAreDropped) {
  start();
  const UniqueFd client = connect_to_port(port);
  carry::HandedOver inside = next();
  ASSERT_TRUE(inside.end);
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  UniqueFd out(pipe[0]), in(pipe[1]);
  ASSERT_TRUE(carry::hand_over(inside.end.get(), 0x4141, in.get()));
  EXPECT_EQ(receive(client.get(), 2), "AA");
  in = UniqueFd();
  char byte;
  EXPECT_EQ(::read(out.get(), &byte, 1), 0) << "somebody holds the other end";
}

TEST_F(Publishing, NoMoreThanSixtyFourConnectionsOfAPortAreCarriedAtATime) {
  start();
  std::vector<UniqueFd> clients, insides;
  for (int i = 0; i < 70; ++i) clients.push_back(connect_to_port(port));
  for (int i = 0; i < 64; ++i) insides.push_back(next().end);
  EXPECT_TRUE(insides.back());
  ::usleep(200'000);
  EXPECT_FALSE(carry::take_over(relay.get())) << "the 65th waits";
  clients.erase(clients.begin(), clients.begin() + 6);
  insides.clear();
  EXPECT_TRUE(next().end);
}

TEST_F(Publishing, WithoutARelayAConnectionEnds) {
  start();
  relay = UniqueFd();
  const UniqueFd client = connect_to_port(port);
  EXPECT_TRUE(ends(client.get()));
}

TEST_F(Publishing, ItsEndIsTheEndOfEveryConnection) {
  start();
  const UniqueFd client = connect_to_port(port);
  const carry::HandedOver inside = next();
  publisher = Publisher();
  EXPECT_TRUE(ends(client.get()));
  EXPECT_TRUE(ends(inside.end.get()));
  EXPECT_FALSE(connect_to_port(port));
}

TEST(PublisherListen, WhatIsTakenIsSaidWithTheCureAndNothingListens) {
  const UniqueFd taken = listen_on_free_port();
  const std::uint16_t free = free_port();
  const auto publisher = Publisher::listen({std::to_string(free), std::to_string(port_of(taken.get()))});
  ASSERT_FALSE(publisher);
  const std::string said = publisher.error().text();
  for (const std::string& part : {"port " + std::to_string(port_of(taken.get())) + " is in use", std::string("--publish OTHER:")})
    EXPECT_NE(said.find(part), std::string::npos) << said;
  EXPECT_FALSE(connect_to_port(free));
}

TEST(PublisherListen, TwiceTheSameAndTooManyAreRefused) {
  const std::string port = std::to_string(free_port());
  EXPECT_FALSE(Publisher::listen({port, "127.0.0.1:" + port + ":80"}));
  EXPECT_FALSE(Publisher::listen(std::vector<std::string>(17, "1")));
  const auto none = Publisher::listen({});
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->any());
}

}  // namespace
}  // namespace fbroker::container
