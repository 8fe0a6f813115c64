// ReplyParser: one HTTP reply, out of bytes, by Boost.Beast.
//
// Internal to shim/client: the only header here that includes Beast.
#pragma once

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <charconv>
#include <cstring>
#include <span>
#include <string_view>

#include "broker/protocol/wire.h"
#include "policy/base/unique_fd.h"
#include "shim/client/unix_http.h"

namespace fbroker::client {

// Connects; -1 when nobody answers there. Reads and writes on it give up after
// a second with EAGAIN, so that the caller can look at its clock.
UniqueFd connect_unix(const std::string& path);

// Body bytes go to `into` when it is not empty and the status is 2xx, else to
// reply.body. More than `into` or `max_bytes` hold is an error.
class ReplyParser final : public boost::beast::http::basic_parser<false> {
 public:
  ReplyParser(HttpReply& reply, std::span<std::byte> into, std::size_t max_bytes)
      : reply_(reply), into_(into), max_bytes_(max_bytes) {
    eager(true);
    header_limit(16 << 10);
    body_limit(boost::none);
  }

  // False: this is no reply of a broker's.
  bool feed(std::string_view bytes) {
    while (!bytes.empty() && !done()) {
      boost::beast::error_code error;
      bytes = pending_.empty() ? bytes : (pending_ += bytes, std::string_view(pending_));
      const std::size_t used = put(boost::asio::const_buffer(bytes.data(), bytes.size()), error);
      const std::string rest(bytes.substr(used));
      if (error == boost::beast::http::error::need_more || (!error && used == 0)) {
        pending_ = rest;  // half a chunk header: the parser wants it again with what follows
        return pending_.size() <= kMaxPending;
      }
      if (error) return false;
      pending_.clear();
      if (rest.empty()) break;
      held_ = rest;
      bytes = held_;
    }
    return true;
  }

  bool done() const { return is_done() || (placed_all_ && is_header_done()); }
  // Bytes that are still to come of a body whose length was told.
  std::size_t known_rest() const {
    if (!is_header_done() || chunked() || !content_length()) return 0;
    return static_cast<std::size_t>(*content_length()) - reply_.received - reply_.body.size();
  }
  // `bytes` of it were read into place, past this parser.
  void placed(std::size_t bytes) {
    reply_.received += bytes;
    placed_all_ = known_rest() == 0;
  }

 private:
  using Error = boost::beast::error_code;
  using View = boost::beast::string_view;
  static constexpr std::size_t kMaxPending = 4096;

  void on_request_impl(boost::beast::http::verb, View, View, int, Error&) override {}
  void on_response_impl(int status, View, int, Error&) override {
    reply_.status = static_cast<unsigned>(status);
  }
  void on_field_impl(boost::beast::http::field, View name, View value, Error&) override {
    const auto is = [&](std::string_view wanted) { return boost::beast::iequals(name, View(wanted.data(), wanted.size())); };
    if (is(protocol::kInstanceHeader)) reply_.instance.assign(value.data(), value.size());
    if (is(protocol::kLifetimeHeader)) reply_.lifetime.assign(value.data(), value.size());
    if (is(protocol::kWrittenHeader))
      std::from_chars(value.data(), value.data() + value.size(), reply_.written);
  }
  void on_header_impl(Error& error) override {
    if (!chunked() && content_length() && *content_length() > room())
      error = boost::beast::http::error::body_limit;
  }
  void on_body_init_impl(const boost::optional<std::uint64_t>&, Error&) override {}
  std::size_t on_body_impl(View bytes, Error& error) override { return place(bytes, error); }
  void on_chunk_header_impl(std::uint64_t, View, Error&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, View bytes, Error& error) override {
    return place(bytes, error);
  }
  void on_finish_impl(Error&) override {}

  bool to_span() const { return !into_.empty() && reply_.status < 300; }
  std::size_t room() const {
    return to_span() ? into_.size() - reply_.received : max_bytes_ - reply_.body.size();
  }
  std::size_t place(View bytes, Error& error) {
    if (bytes.size() > room()) return error = boost::beast::http::error::body_limit, 0;
    if (to_span()) {
      std::memcpy(into_.data() + reply_.received, bytes.data(), bytes.size());
      reply_.received += bytes.size();
    } else {
      reply_.body.append(bytes.data(), bytes.size());
    }
    return bytes.size();
  }

  HttpReply& reply_;
  std::span<std::byte> into_;
  std::size_t max_bytes_;
  bool placed_all_ = false;
  std::string pending_, held_;
};

}  // namespace fbroker::client
