#include "broker/egress/client_hello.h"

#include <openssl/ssl.h>

#include <algorithm>
#include <memory>
#include <span>

namespace fbroker::broker {
namespace {

constexpr std::size_t kMaxRecord = 1 << 14;

// server_name_list: length, then one entry of type host_name (0). The RFC
// forbids a second one; what two readers would choose between is refused.
std::optional<std::string> only_name(std::span<const unsigned char> list) {
  constexpr std::size_t kBeforeName = 5;
  if (list.size() <= kBeforeName) return std::nullopt;
  const auto number = [&](std::size_t at) { return static_cast<std::size_t>(list[at] << 8 | list[at + 1]); };
  if (number(0) != list.size() - 2 || list[2] != 0 || number(3) != list.size() - kBeforeName) return std::nullopt;
  const auto name = list.subspan(kBeforeName);
  return std::string(name.begin(), name.end());
}

struct Reading {
  bool called = false;
  bool good = true;
  ClientHello hello;
};

// OpenSSL has parsed it, checked its lengths, and refused doubled extensions.
int on_hello(SSL* ssl, int* alert, void*) {
  auto& reading = *static_cast<Reading*>(SSL_get_app_data(ssl));
  reading.called = true;
  *alert = SSL_AD_INTERNAL_ERROR;
  const unsigned char* data = nullptr;
  std::size_t size = 0;
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &data, &size) == 1) {
    reading.hello.server_name = only_name({data, size});
    reading.good = reading.hello.server_name.has_value();
  }
  return SSL_CLIENT_HELLO_ERROR;   // the handshake is somebody else's
}

SSL_CTX* reader() {
  static const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context = [] {
    SSL_CTX* made = SSL_CTX_new(TLS_server_method());
    if (made != nullptr) SSL_CTX_set_client_hello_cb(made, &on_hello, nullptr);
    return std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>(made, &SSL_CTX_free);
  }();
  return context.get();
}

// OpenSSL reads records; how the client had cut its message into them is
// TlsGuard's business.
bool write_records(BIO* to, std::string_view message) {
  while (!message.empty()) {
    const std::string_view part = message.substr(0, kMaxRecord);
    const unsigned char head[]{22, 3, 1, static_cast<unsigned char>(part.size() >> 8),
                               static_cast<unsigned char>(part.size())};
    if (BIO_write(to, head, sizeof head) != static_cast<int>(sizeof head)) return false;
    if (BIO_write(to, part.data(), static_cast<int>(part.size())) != static_cast<int>(part.size())) return false;
    message.remove_prefix(part.size());
  }
  return true;
}

}  // namespace

Result<ClientHello> read_client_hello(std::string_view message) {
  const Error broken{"TLS", "what the client sent is no ClientHello that can be read"};
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(reader() == nullptr ? nullptr : SSL_new(reader()), &SSL_free);
  BIO* in = BIO_new(BIO_s_mem());
  BIO* out = BIO_new(BIO_s_mem());   // for the alert, which nobody gets
  if (!ssl || in == nullptr || out == nullptr) {
    BIO_free(in);
    BIO_free(out);
    return broken;
  }
  SSL_set_bio(ssl.get(), in, out);   // owns both
  Reading reading;
  SSL_set_app_data(ssl.get(), &reading);
  if (!write_records(in, message)) return broken;
  SSL_accept(ssl.get());
  if (!reading.called || !reading.good) return broken;
  return std::move(reading.hello);
}

}  // namespace fbroker::broker
