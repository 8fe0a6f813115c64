// What a client may say to the relay: SOCKS5 and the first line of HTTP.
#include <gtest/gtest.h>

#include "shim/relay/http.h"
#include "shim/relay/socks.h"
#include "tests/support/sockets.h"

namespace fbroker::relay {
namespace {

using test::bytes_of;
using test::hex_of;
using namespace std::string_literals;

std::string domain_request(const std::string& name) {
  return bytes_of("05 01 00 03") + static_cast<char>(name.size()) + name + bytes_of("01 bb");
}

// "+authority/size", "-reply", "..." for more to come.
std::string verdict(const std::string& bytes) {
  const auto read = read_request(bytes);
  if (!read) return "-" + std::to_string(static_cast<int>(read.error()));
  if (!*read) return "...";
  return "+" + (*read)->authority + "/" + std::to_string((*read)->size);
}

TEST(SocksGreeting, NoAuthenticationAmongTheMethodsIsTaken) {
  for (const char* hex : {"05 01 00", "05 02 02 00", "05 03 00 01 80"}) {
    const auto read = read_greeting(bytes_of(hex));
    ASSERT_TRUE(read && *read) << hex;
    EXPECT_EQ((*read)->size, bytes_of(hex).size());
  }
}

TEST(SocksGreeting, WithoutItOrInAnotherVersionItIsRefused) {
  for (const char* hex : {"05 00", "05 01 02", "05 02 01 02", "05 01 ff", "04 01 00", "06 01 00"}) {
    const auto read = read_greeting(bytes_of(hex));
    ASSERT_FALSE(read) << hex;
    EXPECT_EQ(read.error(), SocksReply::no_method) << hex;
  }
}

TEST(SocksGreeting, APartOfItIsWaitedFor) {
  for (const char* hex : {"", "05", "05 02", "05 02 00"}) {
    const auto read = read_greeting(bytes_of(hex));
    EXPECT_TRUE(read && !*read) << hex;
  }
}

TEST(SocksRequest, NamesAndAddressesBecomeAnAuthority) {
  EXPECT_EQ(verdict(domain_request("api.example.com")), "+api.example.com:443/22");
  EXPECT_EQ(verdict(domain_request("A-b_9.")), "+A-b_9.:443/13");
  EXPECT_EQ(verdict(domain_request(std::string(255, 'a'))), "+" + std::string(255, 'a') + ":443/262");
  EXPECT_EQ(verdict(bytes_of("05 01 00 01 5d b8 d8 22 00 50")), "+93.184.216.34:80/10");
  EXPECT_EQ(verdict(bytes_of("05 01 00 04 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 1f 90")),
            "+[2001:db8::1]:8080/22");
  EXPECT_EQ(verdict(bytes_of("05 01 00 04 00 00 00 00 00 00 00 00 00 00 ff ff 7f 00 00 01 ff ff")),
            "+[::ffff:127.0.0.1]:65535/22");
}

// ATTACK: bytes of a "name" that would end the CONNECT line, begin a header or
// another request, or name another host.
TEST(SocksRequest, BytesThatNoNameHasAreEscaped) {
  for (const std::string& name :
       {"a\r\nHost: b"s, "a\nb"s, "a\rb"s, "a\0b"s, "a b"s, "a@b"s, "a/b"s, "a:80"s, "[::1]"s, "::1"s, "a\\b"s, "a%41"s,
        "a#b"s, "a?b"s, "a,b"s, "a;b"s, "a\tb"s, "\xc3\xa4.example"s, "a\x7f"s, "a'b"s, "a\"b"s, "*.example.com"s})
    EXPECT_NE(verdict(domain_request(name)).find('%'), std::string::npos) << hex_of(name);
  EXPECT_EQ(verdict(domain_request("a\r\nb:80%")), "+a%0D%0Ab%3A80%25:443/15");
  EXPECT_EQ(verdict(domain_request("")), "-2");
  for (int c = 0; c < 256; ++c) {
    const bool plain = c < 128 && (std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-');
    const std::string read = verdict(domain_request(std::string("x") + static_cast<char>(c)));
    EXPECT_EQ(read.size(), plain ? 9u : 11u) << c << " " << read;
    EXPECT_EQ(read.find_first_of("\r\n @/"), read.rfind('/')) << c;
  }
}

TEST(SocksRequest, WhatIsNotConnectIsAnsweredAsTheStandardSays) {
  EXPECT_EQ(verdict(bytes_of("05 02 00 01 7f 00 00 01 00 50")), "-7") << "BIND";
  EXPECT_EQ(verdict(bytes_of("05 03 00 01 7f 00 00 01 00 50")), "-7") << "UDP ASSOCIATE";
  EXPECT_EQ(verdict(bytes_of("05 00 00 01 7f 00 00 01 00 50")), "-7");
  EXPECT_EQ(verdict(bytes_of("05 01 00 02 7f 00 00 01 00 50")), "-8");
  EXPECT_EQ(verdict(bytes_of("05 01 01 01 7f 00 00 01 00 50")), "-1") << "reserved";
  EXPECT_EQ(verdict(bytes_of("04 01 00 01 7f 00 00 01 00 50")), "-1") << "version";
}

TEST(SocksRequest, EveryPartOfItIsWaitedForAndNothingBehindItIsTaken) {
  for (const std::string& whole : {domain_request("api.example.com"), bytes_of("05 01 00 01 5d b8 d8 22 00 50"),
                                   bytes_of("05 01 00 04 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 1f 90")}) {
    for (std::size_t size = 0; size < whole.size(); ++size) EXPECT_EQ(verdict(whole.substr(0, size)), "...") << size;
    EXPECT_TRUE(verdict(whole + "GET /").ends_with("/" + std::to_string(whole.size())));
  }
}

TEST(SocksAnswer, IsTheStandards) {
  EXPECT_EQ(hex_of(greeting_answer(true)), "05 00");
  EXPECT_EQ(hex_of(greeting_answer(false)), "05 ff");
  EXPECT_EQ(hex_of(request_answer(SocksReply::not_allowed)), "05 02 00 01 00 00 00 00 00 00");
  EXPECT_EQ(hex_of(socks4_refusal()), "00 5b 00 00 00 00 00 00");
  EXPECT_EQ(connect_request("[::1]:80"), "CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n");
}

TEST(SocksAnswer, SaysWhatTheBrokerSaid) {
  const auto reply = [](const std::string& head) { return static_cast<int>(reply_for(head)); };
  EXPECT_EQ(reply("HTTP/1.1 200 OK\r\n\r\n"), 0);
  EXPECT_EQ(reply("HTTP/1.0 200\r\n\r\n"), 0);
  EXPECT_EQ(reply("HTTP/1.1 400 Bad Request\r\n\r\n"), 2);
  EXPECT_EQ(reply("HTTP/1.1 403 Forbidden\r\n\r\n"), 2);
  EXPECT_EQ(reply("HTTP/1.1 502 Bad Gateway\r\n\r\n"), 4);
  EXPECT_EQ(reply("HTTP/1.1 504 Gateway Timeout\r\n\r\n"), 6);
  EXPECT_EQ(reply("HTTP/1.1 503 Busy\r\n\r\n"), 1);
  for (const char* other : {"", "HTTP/1.1 2000 OK\r\n", "HTTP/1.1 404 x\r\n", "HTTP/2 200 OK\r\n", "HTTP/1.1  200\r\n",
                            "HTTP/1.1 200", "SSH-2.0-x 200 OK\r\n"})
    EXPECT_EQ(reply(other), 1) << other;
}

TEST(RequestLine, ConnectAndAbsoluteFormMayBegin) {
  for (const char* line : {"CONNECT example.com:443 HTTP/1.1", "CONNECT example.com:443 HTTP/1.0",
                           "GET http://example.com/ HTTP/1.1", "POST HTTP://example.com HTTP/1.1",
                           "PROPFIND http://example.com/a?b=c#d HTTP/1.1", "GET https://example.com/ HTTP/1.1",
                           "GET ftp://example.com/ HTTP/1.1"})
    EXPECT_TRUE(check_request_line(line)) << line;
}

TEST(RequestLine, TheFileProtocolAndGarbageMayNot) {
  for (const std::string& line :
       {"GET / HTTP/1.1"s, "GET /v1/session HTTP/1.1"s, "POST /v1/open HTTP/1.1"s, "CONNECT /v1/open HTTP/1.1"s,
        "OPTIONS * HTTP/1.1"s, 
        "GET unix:/run HTTP/1.1"s, "GET http:/x HTTP/1.1"s, "GET  http://a HTTP/1.1"s,
        "GET http://a b HTTP/1.1"s, "GET http://a\tb HTTP/1.1"s, "GET http://a\0 HTTP/1.1"s, "GET http://a"s,
        "GET http://a HTTP/2"s, "GET http://a HTTP/1.1 "s, " GET http://a HTTP/1.1"s, ""s, " "s, "CONNECT  HTTP/1.1"s,
        "CONNECT HTTP/1.1"s, "G\x01T http://a HTTP/1.1"s}) {
    const auto checked = check_request_line(line);
    ASSERT_FALSE(checked) << line;
    EXPECT_TRUE(checked.error().starts_with("HTTP/1.1 400 ")) << checked.error();
  }
}

}  // namespace
}  // namespace fbroker::relay
