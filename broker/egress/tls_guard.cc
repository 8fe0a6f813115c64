#include "broker/egress/tls_guard.h"

#include <algorithm>
#include <array>

#include "broker/egress/client_hello.h"
#include "policy/words.h"

namespace fbroker::broker {
namespace {

// RFC 8446 section 5.1.
constexpr unsigned char kChangeCipherSpec = 20, kHandshake = 22, kData = 23;
constexpr unsigned char kClientHello = 1, kServerHello = 2;
constexpr std::size_t kRecordHead = 5, kMessageHead = 4;
constexpr std::size_t kMaxRecord = (1 << 14) + 256;

// A ServerHello with this random is a HelloRetryRequest (RFC 8446 section 4.1.3).
constexpr std::array<unsigned char, 32> kRetry{
    0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91,
    0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C};
constexpr std::size_t kRandomAt = kRecordHead + kMessageHead + 2;

unsigned char byte_of(std::string_view bytes, std::size_t at) { return static_cast<unsigned char>(bytes[at]); }

Error refused(std::string what) { return Error{"TLS", std::move(what)}; }

}  // namespace

TlsGuard::TlsGuard(policy::Host host, policy::TlsCheck check)
    : host_(std::move(host)), check_(check),
      state_(check == policy::TlsCheck::off ? State::open : State::hello) {}

Result<void> TlsGuard::from_client(std::string_view bytes) {
  held_ += bytes;
  if (state_ != State::open) FBROKER_TRY_VOID(records());
  if (state_ == State::open) passed_ = held_.size();
  return ok;
}

std::string TlsGuard::take() {
  std::string taken = held_.substr(0, passed_);
  held_.erase(0, passed_);
  read_ -= std::min(read_, passed_);
  passed_ = 0;
  return taken;
}

Result<void> TlsGuard::records() {
  while (state_ != State::open && held_.size() - read_ >= kRecordHead) {
    const std::string_view rest = std::string_view(held_).substr(read_);
    const unsigned char type = byte_of(rest, 0);
    const std::size_t size = static_cast<std::size_t>(byte_of(rest, 3)) << 8 | byte_of(rest, 4);
    if (type < kChangeCipherSpec || type > kData || byte_of(rest, 1) != 3 || size == 0 || size > kMaxRecord)
      return refused("the client does not speak TLS");
    if (state_ == State::hello && type != kHandshake) return refused("the client does not begin with a ClientHello");
    if (rest.size() < kRecordHead + size) return ok;
    if (type == kHandshake) FBROKER_TRY_VOID(handshake(rest.substr(kRecordHead, size)));
    read_ += kRecordHead + size;
    // A piece of a ClientHello waits for the rest of it.
    if (hello_.empty()) passed_ = read_;
  }
  return ok;
}

Result<void> TlsGuard::handshake(std::string_view payload) {
  if (state_ == State::answer) return refused("the client sent a second handshake message before the server's first");
  hello_ += payload;
  if (hello_.size() < kMessageHead) return ok;
  if (byte_of(hello_, 0) != kClientHello) return refused("the client does not begin with a ClientHello");
  const std::size_t size = kMessageHead + (static_cast<std::size_t>(byte_of(hello_, 1)) << 16 |
                                           static_cast<std::size_t>(byte_of(hello_, 2)) << 8 | byte_of(hello_, 3));
  if (size > kMaxHello || hello_.size() > size) return refused("the client's ClientHello has a wrong length");
  return hello_.size() < size ? ok : check_hello();
}

Result<void> TlsGuard::check_hello() {
  FBROKER_TRY(const ClientHello hello, read_client_hello(hello_));
  hello_.clear();
  if (!hello.server_name && check_ == policy::TlsCheck::sni)
    return refused("the client's ClientHello names no server (SNI)");
  if (hello.server_name) {
    const auto named = policy::Host::parse(*hello.server_name);
    if (!named || !(*named == host_))
      return refused("the client's ClientHello names " + policy::in_quotes(hello.server_name->substr(0, 300)) +
                     ", not the host that was asked for");
  }
  state_ = state_ == State::hello ? State::answer : State::open;
  return ok;
}

void TlsGuard::from_server(std::string_view bytes) {
  if (state_ != State::answer || bytes.empty()) return;
  constexpr std::size_t kWanted = kRandomAt + kRetry.size();
  answer_ += bytes.substr(0, kWanted - answer_.size());
  const bool is_handshake = byte_of(answer_, 0) == kHandshake;
  if (is_handshake && answer_.size() < kWanted) return;
  // An alert, or no TLS at all: then nothing is retried.
  const bool retry = is_handshake && byte_of(answer_, kRecordHead) == kServerHello &&
                     answer_.compare(kRandomAt, kRetry.size(), reinterpret_cast<const char*>(kRetry.data()),
                                     kRetry.size()) == 0;
  state_ = retry ? State::second_hello : State::open;
}

}  // namespace fbroker::broker
