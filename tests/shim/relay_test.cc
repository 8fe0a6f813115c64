// The relay between real sockets: what reaches the data socket, what comes
// back, and what never does.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <future>

#include "tests/shim/relay_live.h"
#include "tests/support/process.h"

namespace fbroker::test {
namespace {

using relay::Limits;

constexpr char kGranted[] = "HTTP/1.1 200 Connection established\r\n\r\n";
constexpr char kGreeting[] = "05 01 00";
constexpr char kSocksGranted[] = "05 00 00 01 00 00 00 00 00 00";

std::string socks_domain(const std::string& name) {
  return bytes_of("05 01 00 03") + static_cast<char>(name.size()) + name + bytes_of("01 bb");
}

std::string read_head(int fd) {
  std::string head;
  while (!head.ends_with("\r\n\r\n")) {
    const std::string byte = receive(fd, 1);
    if (byte.empty()) return head;
    head += byte;
  }
  return head;
}

// Grants every CONNECT and then says back what it hears; ends when it is told
// the end. Keeps the heads that it was sent.
class Echo {
 public:
  void operator()(int fd) {
    const std::string head = read_head(fd);
    {
      const std::lock_guard lock(mutex_);
      heads_.push_back(head);
    }
    send_all(fd, answer);
    for (;;) {
      const std::string piece = receive(fd, 1);
      if (piece.empty() || !send_all(fd, piece)) break;
    }
    send_all(fd, "<end>");
  }
  std::vector<std::string> heads() {
    const std::lock_guard lock(mutex_);
    return heads_;
  }
  std::string answer = kGranted;

 private:
  std::mutex mutex_;
  std::vector<std::string> heads_;
};

class RelayProxy : public testing::Test {
 protected:
  Peer broker() {
    return Peer(listen_at(relay.socket()), [this](int fd) { echo(fd); });
  }
  // A SOCKS client's handshake; what was answered to its request.
  static std::string handshake(int fd, const std::string& request) {
    send_all(fd, bytes_of(kGreeting));
    EXPECT_EQ(hex_of(receive(fd, 2)), "05 00");
    send_all(fd, request);
    return hex_of(receive(fd, 10));
  }

  LiveRelay relay;
  Echo echo;
};

TEST_F(RelayProxy, ConnectReachesTheBrokerAsItIsAndBytesFlowBothWays) {
  const Peer peer = broker();
  const UniqueFd client = relay.client();
  const std::string request = "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nX: y\r\n\r\n";
  send_all(client.get(), request);
  EXPECT_EQ(receive(client.get(), sizeof kGranted - 1), kGranted);
  send_all(client.get(), "hello");
  EXPECT_EQ(receive(client.get(), 5), "hello");
  EXPECT_EQ(echo.heads(), std::vector{request});
}

TEST_F(RelayProxy, AbsoluteFormReachesTheBrokerAsItIsWithItsBody) {
  const Peer peer = broker();
  const UniqueFd client = relay.client();
  const std::string head = "POST http://example.com/x HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\n";
  send_all(client.get(), head + "body");
  EXPECT_EQ(receive(client.get(), sizeof kGranted - 1 + 4), std::string(kGranted) + "body");
  EXPECT_EQ(echo.heads(), std::vector{head});
}

TEST_F(RelayProxy, ARequestLineInPiecesIsPutTogether) {
  const Peer peer = broker();
  const UniqueFd client = relay.client();
  for (const char c : std::string("CONNECT a.example:443 HTTP/1.1\r\n\r\n")) send_all(client.get(), std::string(1, c));
  EXPECT_EQ(receive(client.get(), sizeof kGranted - 1), kGranted);
}

TEST_F(RelayProxy, SocksWithANameAnAddressAndALongAddressBecomesConnect) {
  const Peer peer = broker();
  struct {
    std::string request, authority;
  } const cases[]{{socks_domain("api.example.com"), "api.example.com:443"},
                  {bytes_of("05 01 00 01 5d b8 d8 22 00 50"), "93.184.216.34:80"},
                  {bytes_of("05 01 00 04 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 1f 90"), "[2001:db8::1]:8080"}};
  for (const auto& one : cases) {
    const UniqueFd client = relay.client();
    EXPECT_EQ(handshake(client.get(), one.request), kSocksGranted);
    send_all(client.get(), "ping");
    EXPECT_EQ(receive(client.get(), 4), "ping");
    EXPECT_EQ(echo.heads().back(), "CONNECT " + one.authority + " HTTP/1.1\r\nHost: " + one.authority + "\r\n\r\n");
  }
}

TEST_F(RelayProxy, ASocksClientThatDoesNotWaitLosesNothing) {
  echo.answer = std::string(kGranted) + "early words";
  const Peer peer = broker();
  const UniqueFd client = relay.client();
  send_all(client.get(), bytes_of(kGreeting) + socks_domain("a.example") + "at once");
  const std::string expected = bytes_of("05 00") + bytes_of(kSocksGranted) + "early words" + "at once";
  EXPECT_EQ(hex_of(receive(client.get(), expected.size())), hex_of(expected));
}

TEST_F(RelayProxy, WhatTheBrokerRefusesASocksClientIsTold) {
  struct {
    const char *head, *reply;
  } const cases[]{{"HTTP/1.1 403 Forbidden\r\n\r\n", "02"}, {"HTTP/1.1 502 Bad Gateway\r\n\r\n", "04"},
                  {"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "06"}, {"HTTP/1.1 503 Service Unavailable\r\n\r\n", "01"},
                  {"HTTP/1.1 418 Teapot\r\n\r\n", "01"}, {"what\r\n\r\n", "01"}};
  for (const auto& one : cases) {
    echo.answer = one.head;
    const Peer peer = broker();
    const UniqueFd client = relay.client();
    EXPECT_EQ(handshake(client.get(), socks_domain("a.example")), "05 " + std::string(one.reply) + " 00 01 00 00 00 00 00 00");
    EXPECT_TRUE(ends(client.get())) << one.head;
    std::filesystem::remove(relay.socket());
  }
}

TEST_F(RelayProxy, ABrokersAnswerWithoutAnEndIsNotKept) {
  echo.answer = "HTTP/1.1 200 OK\r\nX: " + std::string(17 << 10, 'x');
  const Peer peer = broker();
  const UniqueFd client = relay.client();
  EXPECT_EQ(handshake(client.get(), socks_domain("a.example")), "05 01 00 01 00 00 00 00 00 00");
}

TEST_F(RelayProxy, WhatIsNotUnderstoodIsRefusedAndTheBrokerNeverSeesIt) {
  const Peer peer = broker();
  const std::string greeted = bytes_of("05 00");
  EXPECT_EQ(hex_of(relay.ask(bytes_of("05 01 02"))), "05 ff");
  EXPECT_EQ(hex_of(relay.ask(bytes_of("04 01 00 50 7f 00 00 01 00"))), "00 5b 00 00 00 00 00 00");
  const auto socks = [&](const std::string& request) { return hex_of(relay.ask(bytes_of(kGreeting) + request)); };
  EXPECT_EQ(socks(bytes_of("05 02 00 01 7f 00 00 01 00 50")), "05 00 05 07 00 01 00 00 00 00 00 00") << "BIND";
  EXPECT_EQ(socks(bytes_of("05 03 00 01 7f 00 00 01 00 50")), "05 00 05 07 00 01 00 00 00 00 00 00") << "UDP";
  EXPECT_EQ(socks(bytes_of("05 01 00 05 7f 00 00 01 00 50")), "05 00 05 08 00 01 00 00 00 00 00 00");
  for (const char* request : {"GET /v1/session HTTP/1.1\r\n\r\n", "POST /v1/open HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
                              "\n", "\r\n", "CONNECT a.example:443 HTTP/1.1\n\r\n", "\x16\x03\x01\n"})
    EXPECT_TRUE(relay.ask(request).starts_with("HTTP/1.1 400 ")) << request;
  EXPECT_TRUE(relay.ask("GET http://" + std::string(20 << 10, 'a')).starts_with("HTTP/1.1 400 ")) << "a line without end";
  EXPECT_EQ(peer.count(), 0);
  EXPECT_EQ(handshake(relay.client().get(), socks_domain("a.example")), kSocksGranted) << "and it still serves";
  EXPECT_EQ(peer.count(), 1);
}

TEST_F(RelayProxy, AHalfCloseIsPassedOnBothWays) {
  const Peer peer = broker();
  const UniqueFd client = relay.client();
  send_all(client.get(), "CONNECT a.example:443 HTTP/1.1\r\n\r\n" + std::string(100'000, 'x'));
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_EQ(receive(client.get()), kGranted + std::string(100'000, 'x') + "<end>");

  std::filesystem::remove(relay.socket());
  std::promise<std::string> heard;
  const Peer early(listen_at(relay.socket()), [&](int fd) {
    read_head(fd);
    send_all(fd, "bye");
    ::shutdown(fd, SHUT_WR);
    heard.set_value(receive(fd));
  });
  const UniqueFd second = relay.client();
  send_all(second.get(), "CONNECT a.example:443 HTTP/1.1\r\n\r\n");
  EXPECT_EQ(receive(second.get()), "bye");
  send_all(second.get(), "still here");
  ::shutdown(second.get(), SHUT_WR);
  EXPECT_EQ(heard.get_future().get(), "still here");
}

TEST_F(RelayProxy, AnEarlyAnswerReachesAClientThatIsStillSending) {
  const Peer peer(listen_at(relay.socket()), [](int fd) {
    read_head(fd);
    send_all(fd, "HTTP/1.1 403 Forbidden\r\n\r\n");
  });
  const UniqueFd client = relay.client();
  send_all(client.get(), "POST http://a.example/ HTTP/1.1\r\n\r\n");
  std::thread sender([&] { send_all(client.get(), std::string(1 << 20, 'x')); });
  EXPECT_EQ(receive(client.get()), "HTTP/1.1 403 Forbidden\r\n\r\n");
  ::shutdown(client.get(), SHUT_RDWR);
  sender.join();
}

TEST_F(RelayProxy, TwoHundredClientsAtATimeAreAllServed) {
  const Peer peer = broker();
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(relay.client());
    ASSERT_TRUE(clients.back()) << i;
    send_all(clients.back().get(), "CONNECT a.example:443 HTTP/1.1\r\n\r\n" + std::to_string(i) + ".");
  }
  // The last 72 of them wait in the backlog until others have ended.
  for (std::size_t i = 0; i < clients.size(); ++i) {
    ::shutdown(clients[i].get(), SHUT_WR);
    EXPECT_EQ(receive(clients[i].get()), kGranted + std::to_string(i) + ".<end>");
    clients[i] = UniqueFd();
  }
  EXPECT_EQ(peer.count(), 200);
}

TEST(RelayLimits, NoMoreConnectionsThanAllowedReachTheBroker) {
  LiveRelay relay({.connections = 3});
  Echo echo;
  const Peer peer(listen_at(relay.socket()), [&](int fd) { echo(fd); });
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 6; ++i) {
    clients.push_back(relay.client());
    send_all(clients.back().get(), "CONNECT a.example:443 HTTP/1.1\r\n\r\n");
  }
  EXPECT_TRUE(wait_until([&] { return peer.count() == 3; }));
  EXPECT_EQ(receive(clients[5].get(), 1, 300ms), "") << "it waits";
  EXPECT_EQ(peer.count(), 3);
  for (int i = 0; i < 3; ++i) clients[static_cast<std::size_t>(i)] = UniqueFd();
  EXPECT_TRUE(wait_until([&] { return peer.count() == 6; }));
}

TEST(RelayLimits, AClientThatSaysNothingOrTooLittleIsHungUpOn) {
  LiveRelay relay({.first_bytes = 300ms});
  Echo echo;
  const Peer peer(listen_at(relay.socket()), [&](int fd) { echo(fd); });
  const UniqueFd silent = relay.client(), slow = relay.client(), socks = relay.client();
  send_all(slow.get(), "CONNECT a.exam");
  send_all(socks.get(), bytes_of("05 01"));
  EXPECT_TRUE(ends(silent.get()));
  EXPECT_TRUE(ends(slow.get()));
  EXPECT_TRUE(ends(socks.get()));
  EXPECT_EQ(peer.count(), 0);
  // Once it has begun it may be as slow as it likes.
  const UniqueFd begun = relay.client();
  send_all(begun.get(), "CONNECT a.example:443 HTTP/1.1\r\n\r\n");
  EXPECT_EQ(receive(begun.get(), sizeof kGranted - 1), kGranted);
  ::usleep(600'000);
  send_all(begun.get(), "late");
  EXPECT_EQ(receive(begun.get(), 4), "late");
}

TEST(RelayLimits, ABrokerThatDoesNotAnswerASocksRequestIsNotWaitedForForever) {
  LiveRelay relay({.answer = 300ms});
  const Peer peer(listen_at(relay.socket()), [](int fd) { receive(fd); });
  EXPECT_EQ(hex_of(relay.ask(bytes_of(kGreeting) + socks_domain("a.example"))), "05 00 05 01 00 01 00 00 00 00 00 00");
}

TEST_F(RelayProxy, ABrokerThatIsAwayIsSaidAndFoundAgain) {
  EXPECT_TRUE(relay.ask("CONNECT a.example:443 HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 502 "));
  EXPECT_NE(relay.ask("GET http://a.example/ HTTP/1.1\r\n\r\n").find("the broker does not answer"), std::string::npos);
  EXPECT_EQ(hex_of(relay.ask(bytes_of(kGreeting) + socks_domain("a.example"))), "05 00 05 01 00 01 00 00 00 00 00 00");
  for (int life = 0; life < 2; ++life) {
    const Peer peer = broker();
    EXPECT_EQ(handshake(relay.client().get(), socks_domain("a.example")), kSocksGranted);
    std::filesystem::remove(relay.socket());
  }
  EXPECT_TRUE(relay.ask("CONNECT a.example:443 HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 502 "));
}

// A Unix listener with a full backlog says EAGAIN, not "wait".
TEST_F(RelayProxy, ABusyBrokersBacklogIsWaitedFor) {
  UniqueFd listener = listen_at(relay.socket());
  ::listen(listener.get(), 1);
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(relay.client());
    send_all(clients.back().get(), "CONNECT a.example:443 HTTP/1.1\r\n\r\n");
  }
  ::usleep(200'000);
  const Peer peer(std::move(listener), [this](int fd) { echo(fd); });
  for (const UniqueFd& client : clients) EXPECT_EQ(receive(client.get(), sizeof kGranted - 1), kGranted);
}

// ---- published ports -----------------------------------------------------

// A program inside that says back what it hears.
Peer program_inside(UniqueFd listener) {
  return Peer(std::move(listener), [](int fd) {
    const std::string all = receive(fd);
    send_all(fd, "heard " + all);
  });
}

struct Pair {
  UniqueFd ours, theirs;
  explicit Pair(int type = SOCK_STREAM) {
    int both[2];
    if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, both) != 0) std::abort();
    ours = UniqueFd(both[0]);
    theirs = UniqueFd(both[1]);
  }
};

TEST(RelayPublished, AConnectionFromOutsideReachesThePortInside) {
  LiveRelay relay;
  UniqueFd listener = listen_on_free_port();
  const std::uint16_t port = port_of(listener.get());
  const Peer program = program_inside(std::move(listener));
  for (int i = 0; i < 3; ++i) {
    Pair pair;
    ASSERT_TRUE(carry::hand_over(relay.channel(), port, pair.theirs.get()));
    pair.theirs = UniqueFd();
    send_all(pair.ours.get(), "words");
    ::shutdown(pair.ours.get(), SHUT_WR);
    EXPECT_EQ(receive(pair.ours.get()), "heard words");
  }
}

TEST(RelayPublished, WhereNobodyListensInsideItEnds) {
  LiveRelay relay;
  const std::uint16_t nobody = port_of(listen_on_free_port().get());
  Pair pair;
  ASSERT_TRUE(carry::hand_over(relay.channel(), nobody, pair.theirs.get()));
  pair.theirs = UniqueFd();
  EXPECT_TRUE(ends(pair.ours.get()));
}

// ATTACK: a socket of another kind would be the host's network, inside.
TEST(RelayPublished, OnlyAUnixStreamSocketIsTaken) {
  LiveRelay relay;
  UniqueFd listener = listen_on_free_port();
  const std::uint16_t port = port_of(listener.get());
  const Peer program = program_inside(std::move(listener));

  UniqueFd elsewhere = listen_on_free_port();
  UniqueFd tcp = connect_to_port(port_of(elsewhere.get()));
  UniqueFd server(::accept(elsewhere.get(), nullptr, nullptr));
  ASSERT_TRUE(carry::hand_over(relay.channel(), port, tcp.get()));
  tcp = UniqueFd();
  EXPECT_TRUE(ends(server.get())) << "it was closed";

  for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
    Pair pair(type);
    ASSERT_TRUE(carry::hand_over(relay.channel(), port, pair.theirs.get()));
  }
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const UniqueFd out(pipe[0]), in(pipe[1]);
  ASSERT_TRUE(carry::hand_over(relay.channel(), port, in.get()));

  Pair good;
  ASSERT_TRUE(carry::hand_over(relay.channel(), port, good.theirs.get()));
  good.theirs = UniqueFd();
  ::shutdown(good.ours.get(), SHUT_WR);
  EXPECT_EQ(receive(good.ours.get()), "heard ");
  EXPECT_EQ(program.count(), 1) << "the good one alone";
}

}  // namespace
}  // namespace fbroker::test
