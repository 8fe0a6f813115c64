// Hostile clients on the data socket: what they send is refused, what they
// hold is bounded, and others are served meanwhile.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <random>

#include "tests/broker/http_session.h"

namespace fbroker::test {
namespace {

using namespace std::string_literals;

// ---- framing ------------------------------------------------------------------

struct Garbage {
  const char* name;
  std::string bytes;
  unsigned status = 400;
};
const std::string kHost = "Host: x\r\n";
const std::string kLookup = R"({"path":"/a"})";

class HttpRefuses : public testing::TestWithParam<Garbage> {};

// After each of them the connection is closed: nothing that follows in the same
// stream is taken for a request.
TEST_P(HttpRefuses, AndClosesAndServesTheNext) {
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  RawClient client(session.socket());
  client.send(GetParam().bytes + "GET /v1/files?path=/a HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string all = client.rest();
  EXPECT_EQ(status_of(all), GetParam().status) << all;
  EXPECT_EQ(all.find("hello"), std::string::npos) << "smuggled:\n" << all;
  EXPECT_NE(all.find("Connection: close"), std::string::npos);
  EXPECT_EQ(body_of(RawClient(session.socket()).get("/v1/files?path=/a")), "hello");
}

std::string post(const std::string& fields, const std::string& body) {
  return "POST /v1/lookup HTTP/1.1\r\n" + kHost + fields + "\r\n" + body;
}

INSTANTIATE_TEST_SUITE_P(
    , HttpRefuses,
    testing::Values(
        Garbage{"LengthAndChunked", post("Content-Length: 13\r\nTransfer-Encoding: chunked\r\n", kLookup)},
        Garbage{"ChunkedAndLength", post("Transfer-Encoding: chunked\r\nContent-Length: 13\r\n", kLookup)},
        Garbage{"TwoLengths", post("Content-Length: 13\r\nContent-Length: 14\r\n", kLookup)},
        Garbage{"TwoEqualLengths", post("Content-Length: 13\r\nContent-Length: 13\r\n", kLookup)},
        Garbage{"ListOfLengths", post("Content-Length: 13, 13\r\n", kLookup)},
        Garbage{"SignedLength", post("Content-Length: +13\r\n", kLookup)},
        Garbage{"HexLength", post("Content-Length: 0xd\r\n", kLookup)},
        Garbage{"OverflowingLength", post("Content-Length: 18446744073709551629\r\n", kLookup)},
        Garbage{"TwoEncodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
        Garbage{"EncodingInFront", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")},
        Garbage{"UnknownEncoding", post("Transfer-Encoding: identity\r\n", "0\r\n\r\n")},
        Garbage{"ChunkedTwice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")},
        Garbage{"VerticalTabEncoding", post("Transfer-Encoding: \x0b" "chunked\r\n", "0\r\n\r\n")},
        Garbage{"FoldedLine", post("Content-Length:\r\n 13\r\n", kLookup)},
        Garbage{"BareLfInHead", "GET /v1/session HTTP/1.1\nHost: x\n\n"},
        Garbage{"BareLfInOneLine", "GET /v1/session HTTP/1.1\r\nHost: x\nA: b\r\n\r\n"},
        Garbage{"BareCr", "GET /v1/session HTTP/1.1\r\nHost: x\rA: b\r\n\r\n"},
        Garbage{"NulInHead", "GET /v1/session HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n"s},
        Garbage{"EmptyFirstLine", "\r\nGET /v1/session HTTP/1.1\r\nHost: x\r\n\r\n"},
        Garbage{"SpaceBeforeColon", post("Content-Length : 13\r\n", kLookup)},
        Garbage{"NoHost", "GET /v1/session HTTP/1.1\r\n\r\n"},
        Garbage{"TwoHosts", "GET /v1/session HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
        Garbage{"OldVersion", "GET /v1/session HTTP/1.0\r\nHost: x\r\n\r\n"},
        Garbage{"NoVersion", "GET /v1/session\r\n\r\n"},
        Garbage{"BadChunkSize", post("Transfer-Encoding: chunked\r\n", "zz\r\nxx\r\n0\r\n\r\n")},
        Garbage{"HugeChunkSize", post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nx")},
        Garbage{"ChunkWithoutItsEnd", post("Transfer-Encoding: chunked\r\n", "2\r\nxxxx0\r\n\r\n")},
        Garbage{"ChunkWithBareLf", post("Transfer-Encoding: chunked\r\n", "2\nxx\n0\n\n")},
        Garbage{"ChunkExtension", post("Transfer-Encoding: chunked\r\n", "2;a=b\r\nxx\r\n0\r\n\r\n")},
        Garbage{"Trailer", post("Transfer-Encoding: chunked\r\n", "0\r\nA: b\r\n\r\n")},
        Garbage{"BodyOfAGet", "GET /v1/session HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"},
        Garbage{"PidThatIsNone", "GET /v1/session HTTP/1.1\r\nHost: x\r\nFbroker-Pid: -1\r\n\r\n"},
        Garbage{"HugeHead", "GET /v1/session HTTP/1.1\r\nHost: x\r\nA: " + std::string(20'000, 'a') + "\r\n\r\n", 431},
        Garbage{"HeadWithoutEnd", std::string(20'000, 'a'), 431},
        Garbage{"HugeJson", post("Content-Length: 1048577\r\n", ""), 413},
        Garbage{"UnknownRouteWithABody", "POST /etc HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", 404},
        Garbage{"Tls", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"s + std::string(300, 'x')}),
    [](const auto& param) { return param.param.name; });

TEST(HttpHostile, UnknownRoutesAndMethodsAreRefused) {
  HttpSession session;
  RawClient client(session.socket());
  const auto ask = [&](const std::string& line) {
    client.send(line + " HTTP/1.1\r\nHost: x\r\n\r\n");
    return status_of(client.reply());
  };
  for (const char* line : {"GET /etc/passwd", "GET /", "GET /v1", "GET /v1/", "GET /v2/session", "POST /v1/format",
                           "GET /v1/handles//data", "GET /v1/handles/a/b/data"})
    EXPECT_EQ(ask(line), 404u) << line;
  for (const char* line : {"DELETE /v1/files?path=/a", "PUT /v1/session", "GET /v1/lookup", "POST /v1/handles/a/data",
                           "HEAD /v1/session", "OPTIONS /v1/files"})
    EXPECT_EQ(ask(line), 405u) << line;
}

TEST(HttpHostile, WhereThereIsNoGateThereIsNoWayOut) {
  HttpSession session;
  for (const char* line : {"CONNECT host:80", "GET http://x/v1/session"}) {
    RawClient client(session.socket());
    client.send(std::string(line) + " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(status_of(client.rest()), 403u) << line;
  }
}

TEST(HttpHostile, JsonBombsAreRefusedAndTheConnectionLivesOn) {
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  RawClient client(session.socket());
  std::string keys = "{";
  for (int i = 0; i < 60'000; ++i) keys += "\"k" + std::to_string(i) + "\":0,";
  keys += "\"path\":\"/a\"}";
  std::string nested;
  while (nested.size() < 1'000'000) nested += "{\"path\":";
  for (const std::string& bomb : {std::string(1'000'000, '['), nested, keys,
                                  "{\"path\":\"" + std::string(1'000'000, 'a') + "\"}"}) {
    EXPECT_EQ(status_of(client.post("/v1/lookup", bomb)), 400u);
  }
  EXPECT_EQ(status_of(client.post("/v1/lookup", kLookup)), 200u);
}

TEST(HttpHostile, AProblemThatQuotesAWildFieldIsStillJson) {
  HttpSession session;
  RawClient client(session.socket());
  const std::string reply = client.post("/v1/lookup", R"({"path":"/a","\u0000\"\\\u001f":1})");
  EXPECT_EQ(status_of(reply), 400u);
  EXPECT_NE(reply.find(R"("field":"\u0000\"\\\u001f")"), std::string::npos) << reply;
}

// ---- time -----------------------------------------------------------------------

broker::HttpOptions impatient() {
  broker::HttpOptions options;
  options.head_bound = options.body_bound = options.write_bound = std::chrono::milliseconds(100);
  return options;
}

TEST(HttpSlow, AHeadThatTricklesIsCut) {
  HttpSession session(impatient());
  RawClient client(session.socket());
  // Each byte comes in time; the head as a whole does not.
  const std::string head = "GET /v1/session HTTP/1.1\r\nHost: x\r\nA: " + std::string(100'000, 'a');
  std::size_t sent = 0;
  EXPECT_TRUE(eventually([&] { return !client.send(head.substr(sent++ % head.size(), 1)); }));
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(eventually([&] { return session.front->connections() == 0; }));
}

TEST(HttpSlow, ABodyThatDoesNotComeIsCut) {
  HttpSession session(impatient());
  RawClient client(session.socket());
  client.send("POST /v1/lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_TRUE(client.closed());
}

TEST(HttpSlow, AReplyThatIsNotReadIsCut) {
  HttpSession session(impatient());
  session.files.tree.write("w/big", std::string(8 << 20, 'x'));
  RawClient client(session.socket());
  client.send("GET /v1/files?path=/big HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(client.more());
  EXPECT_TRUE(eventually([&] { return session.front->connections() == 0; }));
  EXPECT_TRUE(eventually([&] { return session.files.service->open_handles() == 0; }));
}

TEST(HttpSlow, AnIdleClientIsCutAndABusyOneIsNot) {
  broker::HttpOptions options;
  options.idle_bound = std::chrono::milliseconds(100);
  HttpSession session(options);
  RawClient idle(session.socket());
  EXPECT_TRUE(idle.closed());
  RawClient stream(session.socket());
  stream.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return session.files.events.subscribers() == 1; }));
  RawClient another(session.socket());
  EXPECT_TRUE(another.closed());
  EXPECT_EQ(session.files.events.subscribers(), 1u);
}

// ---- numbers ----------------------------------------------------------------------

// Client and server are one process here; an ordinary user's soft limit of descriptors is 1,024.
void raise_descriptor_limit(rlim_t least) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  ASSERT_GE(files.rlim_cur, least) << "the hard limit of descriptors (ulimit -Hn) is too low for this test";
}

TEST(HttpFlood, AThousandConnectionsLeaveRoomForOneMore) {
  ASSERT_NO_FATAL_FAILURE(raise_descriptor_limit(2100));
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  std::vector<std::unique_ptr<RawClient>> crowd;
  for (int i = 0; i < 1000; ++i) crowd.push_back(std::make_unique<RawClient>(session.socket()));
  EXPECT_EQ(body_of(RawClient(session.socket()).get("/v1/files?path=/a")), "hello");
  EXPECT_LE(session.front->connections(), 256u);
}

TEST(HttpFlood, BusyConnectionsAreBoundedAndTheNextIsToldSo) {
  broker::HttpOptions options;
  options.max_connections = 8;
  HttpSession session(options);
  std::vector<std::unique_ptr<RawClient>> crowd;
  for (int i = 0; i < 8; ++i) {
    crowd.push_back(std::make_unique<RawClient>(session.socket()));
    crowd.back()->send("POST /v1/lookup HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n");
    ASSERT_EQ(status_of(crowd.back()->reply()), 100u);  // its head was read: it is not idle
  }
  EXPECT_EQ(status_of(RawClient(session.socket()).rest()), 503u);
  EXPECT_LE(session.front->connections(), 8u);
}

// One process is all that a client is here; that others find room is tested with EventStreams.
TEST(HttpFlood, EventStreamsOfOneProcessAreBounded) {
  HttpSession session;
  std::vector<std::unique_ptr<RawClient>> crowd;
  for (int i = 0; i < 40; ++i) {
    crowd.push_back(std::make_unique<RawClient>(session.socket()));
    crowd.back()->send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
  }
  std::size_t refused = 0;
  for (auto& client : crowd) {
    ASSERT_TRUE(client->more());
    if (status_of(client->have()) == 503) ++refused;
  }
  EXPECT_EQ(refused, 32u);
  EXPECT_EQ(session.files.events.subscribers(), 8u);
}

// ---- descriptors ---------------------------------------------------------------------

std::size_t open_descriptors() {
  std::size_t count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

TEST(HttpDescriptors, ThoseSentAlongAreNotKept) {
  HttpSession session;
  RawClient client(session.socket());
  ASSERT_EQ(status_of(client.get("/v1/session")), 200u);
  const std::size_t before = open_descriptors();
  for (int round = 0; round < 50; ++round) {
    std::string text = "GET /v1/session HTTP/1.1\r\nHost: x\r\n\r\n";
    iovec part{text.data(), text.size()};
    std::vector<int> fds;
    for (int i = 0; i < 64; ++i) fds.push_back(STDIN_FILENO);
    alignas(cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(64 * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), 64 * sizeof(int));
    ASSERT_EQ(::sendmsg(client.fd(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
    ASSERT_EQ(status_of(client.reply()), 200u);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(HttpDescriptors, ConnectionsAreNotInheritedByPrograms) {
  HttpSession session;
  RawClient client(session.socket());
  ASSERT_EQ(status_of(client.get("/v1/session")), 200u);
  for (int fd = 3; fd < 256; ++fd) {
    const int flags = ::fcntl(fd, F_GETFD);
    if (flags < 0) continue;
    int type = 0;
    socklen_t size = sizeof type;
    if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) continue;
    EXPECT_NE(flags & FD_CLOEXEC, 0) << "socket " << fd;
  }
}

// ---- strangers ---------------------------------------------------------------------------

// What a process of `uid` gets for a request: the reply's first byte, 0 for none.
int first_byte_as(uid_t uid, const std::string& socket) {
  const pid_t child = ::fork();
  if (child == 0) {
    char byte = 0;
    if (::setresuid(uid, uid, uid) != 0) ::_exit(250);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket.c_str(), socket.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(251);
    constexpr std::string_view kRequest = "GET /v1/session HTTP/1.1\r\nHost: x\r\n\r\n";
    (void)!::send(fd, kRequest.data(), kRequest.size(), MSG_NOSIGNAL);
    ::_exit(::recv(fd, &byte, 1, 0) == 1 ? byte : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

TEST(HttpStrangers, OtherUsersAreNotServedUnlessNamed) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  broker::HttpOptions options;
  options.other_uids = {{100'000, 165'535}};
  HttpSession session(options);
  // Reachable for everybody, so that only the check of the peer stands in the way.
  for (const std::string& path : {session.files.tree.path(), session.files.tree.path("sockets")})
    ::chmod(path.c_str(), 0755);
  ::chmod(session.socket().c_str(), 0666);
  EXPECT_EQ(first_byte_as(0, session.socket()), 'H');
  EXPECT_EQ(first_byte_as(100'000, session.socket()), 'H');
  EXPECT_EQ(first_byte_as(165'535, session.socket()), 'H');
  EXPECT_EQ(first_byte_as(165'536, session.socket()), 0);
  EXPECT_EQ(first_byte_as(99'999, session.socket()), 0);
  EXPECT_EQ(first_byte_as(65'534, session.socket()), 0);
}

// ---- forged things -----------------------------------------------------------------------

TEST(HttpForged, HandlesAreOfThisBrokerAndOpen) {
  HttpSession session;
  RawClient client(session.socket());
  const std::string instance = session.front->instance();
  for (const std::string& handle : {"1"s, instance + "-1", instance + "-18446744073709551615",
                                   instance + "-18446744073709551616", "other-1"s, "%2e%2e"s, "-"s}) {
    EXPECT_GE(status_of(client.get("/v1/handles/" + handle + "/data")), 400u) << handle;
    EXPECT_GE(status_of(client.post("/v1/stat", R"({"handle":")" + handle + "\"}")), 400u) << handle;
    EXPECT_GE(status_of(client.post("/v1/fsync", R"({"handle":")" + handle + "\"}")), 400u) << handle;
  }
}

TEST(HttpForged, RangesAndOffsetsBeyondReasonReadNothing) {
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  RawClient client(session.socket());
  for (const std::string range : {"bytes=99999999999999999999-", "bytes=9223372036854775807-", "bytes=-0",
                                  "bytes=3-1", "bytes=0-1,3-4", "lines=0-1", "bytes=", "bytes=a-b"}) {
    const std::string reply = client.get("/v1/files?path=/a", "Range: " + range + "\r\n");
    EXPECT_TRUE(status_of(reply) == 416 || status_of(reply) == 400) << range;
  }
  EXPECT_EQ(body_of(client.get("/v1/files?path=/a", "Range: bytes=0-9223372036854775807\r\n")), "hello");
  for (const std::string query : {"path=a", "path=/../a", "path=%", "path=/a&path=/b", "path=/a&x=1", "path=/a%00", ""})
    EXPECT_EQ(status_of(client.get("/v1/files?" + query)), 400u) << query;
  EXPECT_EQ(session.files.service->open_handles(), 0u);
}

// Whatever is sent, the broker answers the next client.
TEST(HttpHostile, RandomMutationsOfGoodRequestsNeverStopTheService) {
  HttpSession session;
  session.files.tree.write("w/a", "hello");
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  const std::string good = post("Content-Length: 13\r\n", kLookup) +
                           post("Transfer-Encoding: chunked\r\n", "d\r\n" + kLookup + "\r\n0\r\n\r\n") +
                           "GET /v1/files?path=/a HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2\r\n\r\n";
  for (int round = 0; round < 500; ++round) {
    std::string bytes = good;
    for (unsigned i = 0; i < 1 + random() % 8; ++i)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    RawClient client(session.socket());
    client.send(bytes.substr(0, 1 + random() % bytes.size()));
    client.finish_sending();
    ASSERT_TRUE(client.closed()) << "seed " << seed;
  }
  EXPECT_EQ(body_of(RawClient(session.socket()).get("/v1/files?path=/a")), "hello") << "seed " << seed;
  EXPECT_TRUE(eventually([&] { return session.front->connections() == 0; }));
}

}  // namespace
}  // namespace fbroker::test
