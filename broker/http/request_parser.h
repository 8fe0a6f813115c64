// RequestParser: one HTTP/1.1 request, head and chunked body, out of bytes
// from somebody hostile. Boost.Beast parses; what Beast is generous about and
// an attacker could use is refused here (RFC 9112 sections 2.2, 5.2, 6.3).
//
// Internal to broker/http: the only header here that includes Beast.
#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "broker/http/problem.h"
#include "policy/base/result.h"

namespace fbroker::broker {

inline constexpr std::size_t kMaxHeadBytes = 16 << 10;

enum class Method : std::uint8_t { get, put, post, connect, other };
enum class Framing : std::uint8_t { none, length, chunked };

// What is used of a head; other fields are looked at by nobody.
struct RequestHead {
  Method method = Method::other;
  std::string target;
  Framing framing = Framing::none;
  std::uint64_t length = 0;          // of the body, with Framing::length
  bool keep_alive = true;
  bool expects_continue = false;
  std::string range;                 // "" = none
  std::string upgrade;               // the protocol asked for; "" = none
  std::uint32_t pid = 0;             // as claimed
};

// How many bytes at the start of `bytes` are a head, its empty line included;
// none: it is not complete yet. A head with a bare CR or LF, a NUL or control
// character, a folded or an empty first line is a Problem.
Result<std::optional<std::size_t>, Problem> find_head(std::string_view bytes);

// Threads: none. One request each; `reset` begins the next.
class RequestParser {
 public:
  RequestParser() { reset(); }
  void reset();

  // `bytes` is exactly what find_head measured.
  Result<RequestHead, Problem> parse_head(std::string_view bytes);

  struct Chunked {
    std::size_t used = 0;     // bytes of input that are done with
    std::size_t written = 0;  // bytes that went into `into`
    bool done = false;        // the last chunk and its trailer were read
  };
  // A piece of a chunked body. used == 0 and written == 0: more input is needed.
  Result<Chunked, Problem> parse_chunks(std::string_view bytes, std::span<std::byte> into);

 private:
  // Beast's parser cannot be reset, and its constructor costs nothing: it is
  // made anew in place.
  class Impl final : public boost::beast::http::basic_parser<true> {
   public:
    Impl();
    RequestHead head;
    std::string refusal;              // why on_* said no
    std::span<std::byte> into;        // where a chunk's bytes go
    std::size_t written = 0;

   private:
    using Error = boost::beast::error_code;
    using View = boost::beast::string_view;
    void on_request_impl(boost::beast::http::verb, View, View, int, Error&) override;
    void on_response_impl(int, View, int, Error&) override {}
    void on_field_impl(boost::beast::http::field, View, View, Error&) override;
    void on_header_impl(Error&) override;
    void on_body_init_impl(const boost::optional<std::uint64_t>&, Error&) override {}
    std::size_t on_body_impl(View, Error&) override;
    void on_chunk_header_impl(std::uint64_t, View, Error&) override;
    std::size_t on_chunk_body_impl(std::uint64_t, View, Error&) override;
    void on_finish_impl(Error&) override {}

    void refuse(Error& error, std::string why);

    bool in_trailer_ = false;
    unsigned hosts_ = 0, lengths_ = 0, encodings_ = 0;
  };
  std::optional<Impl> impl_;
};

}  // namespace fbroker::broker
