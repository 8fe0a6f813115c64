// TlsGuard: which server a TLS connection is for, with ClientHellos as OpenSSL
// writes them and as an attacker would.
#include "broker/egress/tls_guard.h"

#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <memory>
#include <string>
#include <vector>

namespace fbroker::broker {
namespace {

using policy::Host;
using policy::TlsCheck;

constexpr char kHost[] = "api.example.com";

// The first flight of a client that wants `name` ("" = says none).
std::string hello_for(const std::string& name) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), &SSL_free);
  BIO* out = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), out);
  if (!name.empty()) SSL_set_tlsext_host_name(ssl.get(), name.c_str());
  SSL_connect(ssl.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  return std::string(data, static_cast<std::size_t>(size));
}

std::string message_of(const std::string& records) { return records.substr(5); }
std::string record(unsigned char type, const std::string& payload) {
  std::string out{static_cast<char>(type), 3, 1};
  out += static_cast<char>(payload.size() >> 8);
  out += static_cast<char>(payload.size());
  return out + payload;
}

// RFC 8446 section 4.1.3: a ServerHello with this random asks for another ClientHello.
std::string server_hello(bool retry) {
  std::string random(32, 'r');
  if (retry)
    random = std::string(
        "\xCF\x21\xAD\x74\xE5\x9A\x61\x11\xBE\x1D\x8C\x02\x1E\x65\xB8\x91"
        "\xC2\xA2\x11\x16\x7A\xBB\x8C\x5E\x07\x9E\x09\xE2\xC8\xA8\x33\x9C", 32);
  const std::string body = std::string("\x03\x03", 2) + random + std::string(8, '\0');
  return record(22, std::string{2, 0, 0, static_cast<char>(body.size())} + body);
}

struct Outcome {
  bool refused = false;
  std::string passed;
};
// Fed in pieces of `piece` bytes.
Outcome feed(TlsGuard& guard, const std::string& bytes, std::size_t piece = 100'000) {
  Outcome outcome;
  for (std::size_t at = 0; at < bytes.size() && !outcome.refused; at += piece) {
    outcome.refused = !guard.from_client(std::string_view(bytes).substr(at, piece));
    if (!outcome.refused) outcome.passed += guard.take();
  }
  return outcome;
}

TlsGuard guard_for(TlsCheck check = TlsCheck::sni) { return TlsGuard(Host::parse(kHost).value(), check); }

TEST(TlsGuard, PassesTheHelloForTheHostThatWasAskedForAndWhatFollows) {
  for (const std::size_t piece : {1ul, 7ul, 100'000ul}) {
    TlsGuard guard = guard_for();
    const std::string hello = hello_for(kHost);
    EXPECT_EQ(feed(guard, hello, piece).passed, hello);
    EXPECT_TRUE(guard.opened());
    guard.from_server(server_hello(false));
    EXPECT_EQ(feed(guard, "anything at all").passed, "anything at all");
  }
}

TEST(TlsGuard, TheNamesSpellingDoesNotMatterItsLettersDo) {
  TlsGuard guard = guard_for();
  EXPECT_FALSE(feed(guard, hello_for("API.Example.Com")).refused);
  for (const char* other : {"evil.example.com", "example.com", "api.example.com.evil.com", "xapi.example.com", "api.example.org"}) {
    TlsGuard refuses = guard_for();
    const Outcome outcome = feed(refuses, hello_for(other), 50);
    EXPECT_TRUE(outcome.refused) << other;
    EXPECT_EQ(outcome.passed, "") << other;
  }
}

TEST(TlsGuard, WithoutANameItIsForTheRuleToSay) {
  TlsGuard strict = guard_for();
  EXPECT_TRUE(feed(strict, hello_for("")).refused);
  TlsGuard lax = guard_for(TlsCheck::no_sni);
  EXPECT_FALSE(feed(lax, hello_for("")).refused);
  TlsGuard lax_but_named = guard_for(TlsCheck::no_sni);
  EXPECT_TRUE(feed(lax_but_named, hello_for("evil.com")).refused);
  TlsGuard off = guard_for(TlsCheck::off);
  EXPECT_EQ(feed(off, "SSH-2.0-x\r\n").passed, "SSH-2.0-x\r\n");
}

TEST(TlsGuard, WhatIsNoTlsNeverPasses) {
  for (const std::string& bytes : {std::string("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"), std::string("SSH-2.0-x\r\n"),
                                   std::string(200, '\0'), record(23, "data"), record(22, std::string(60, 'x')),
                                   record(22, std::string("\x01\x00\x00\x04""abcd", 8)), std::string("\x80\x2e\x01\x03\x01", 5) + std::string(60, 1)}) {
    TlsGuard guard = guard_for();
    const Outcome outcome = feed(guard, bytes);
    EXPECT_TRUE(outcome.refused) << bytes.substr(0, 20);
    EXPECT_EQ(outcome.passed, "");
  }
}

TEST(TlsGuard, AHelloInManyRecordsIsOneHello) {
  const std::string message = message_of(hello_for(kHost));
  std::string records;
  for (std::size_t at = 0; at < message.size(); at += 30) records += record(22, message.substr(at, 30));
  TlsGuard guard = guard_for();
  EXPECT_EQ(feed(guard, records, 11).passed, records);
  const std::string evil = message_of(hello_for("evil.com"));
  records.clear();
  for (std::size_t at = 0; at < evil.size(); at += 30) records += record(22, evil.substr(at, 30));
  TlsGuard refuses = guard_for();
  EXPECT_TRUE(feed(refuses, records).refused);
}

TEST(TlsGuard, NothingHidesBehindTheHelloInItsRecord) {
  const std::string two = message_of(hello_for(kHost)) + message_of(hello_for("evil.com"));
  TlsGuard guard = guard_for();
  EXPECT_TRUE(feed(guard, record(22, two)).refused);
}

TEST(TlsGuard, ASecondHelloBeforeTheServersAnswerIsRefused) {
  TlsGuard guard = guard_for();
  const std::string hello = hello_for(kHost);
  const Outcome outcome = feed(guard, hello + hello_for("evil.com"));
  EXPECT_TRUE(outcome.refused);
  TlsGuard same = guard_for();
  EXPECT_TRUE(feed(same, hello + hello).refused);
}

TEST(TlsGuard, EarlyDataMayFollowTheHello) {
  TlsGuard guard = guard_for();
  const std::string flight = hello_for(kHost) + record(20, "\x01") + record(23, std::string(500, 'e'));
  EXPECT_EQ(feed(guard, flight, 64).passed, flight);
}

TEST(TlsGuard, TheSecondHelloThatTheServerAsksForIsReadToo) {
  for (const bool evil : {false, true}) {
    for (const std::size_t piece : {3ul, 100'000ul}) {
      TlsGuard guard = guard_for();
      ASSERT_FALSE(feed(guard, hello_for(kHost)).refused);
      const std::string retry = server_hello(true);
      for (const char byte : retry) guard.from_server(std::string(1, byte));
      const std::string second = record(20, "\x01") + record(23, "late early data") + hello_for(evil ? "evil.com" : kHost);
      const Outcome outcome = feed(guard, second, piece);
      EXPECT_EQ(outcome.refused, evil);
      if (evil) EXPECT_EQ(outcome.passed.find("evil"), std::string::npos);
      else EXPECT_EQ(outcome.passed, second);
    }
  }
}

TEST(TlsGuard, AHelloWithTwoNamesIsRefused) {
  std::string message = message_of(hello_for("api.example.com"));
  // The extension's list: length, type 0, length, name. A second entry in the same room.
  const std::size_t at = message.find("api.example.com");
  ASSERT_NE(at, std::string::npos);
  message[at - 1] = 4;                       // the first name: "api."
  message.replace(at + 4, 3, std::string("\x00\x00\x08", 3));   // then another entry
  TlsGuard guard = guard_for();
  EXPECT_TRUE(feed(guard, record(22, message)).refused);
}

}  // namespace
}  // namespace fbroker::broker
