#include "broker/http/request_parser.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "broker/protocol/wire.h"

namespace fbroker::broker {

namespace http = boost::beast::http;

namespace {

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    return lower(x) == lower(y);
  });
}

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

// ATTACK: two parties that see different ends of the same request. A bare LF
//   or CR, a folded line and a NUL are each read differently by somebody.
const char* fault_of_line(std::string_view line) {
  if (line.empty()) return nullptr;
  if (line.front() == ' ' || line.front() == '\t') return "folded header line";
  for (const char c : line) {
    if (c == '\n' || c == '\r') return "bare CR or LF in the header";
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f)
      return "control character in the header";
  }
  return nullptr;
}

Problem too_large(std::string detail) {
  return Problem{.status = 431, .title = "Header too large", .detail = std::move(detail),
                 .error = "", .field = "", .rule = "", .askable = {}};
}

}  // namespace

Result<std::optional<std::size_t>, Problem> find_head(std::string_view bytes) {
  const std::size_t end = bytes.find("\r\n\r\n");
  const std::size_t size = end == bytes.npos ? bytes.size() : end + 4;
  if (size > kMaxHeadBytes)
    return too_large("more than " + std::to_string(kMaxHeadBytes) + " bytes of header");
  // What is there is checked at once: garbage is not waited upon.
  const std::string_view lines = bytes.substr(0, end == bytes.npos ? bytes.rfind("\r\n") : end);
  if (end == bytes.npos && lines.size() == bytes.size()) {
    const std::string_view partial = bytes.ends_with('\r') ? bytes.substr(0, bytes.size() - 1) : bytes;
    if (const char* fault = fault_of_line(partial)) return bad_request(fault);
    return std::optional<std::size_t>();
  }
  for (std::size_t at = 0; at <= lines.size();) {
    const std::size_t stop = std::min(lines.find("\r\n", at), lines.size());
    const std::string_view line = lines.substr(at, stop - at);
    if (at == 0 && line.empty()) return bad_request("empty request line");
    if (const char* fault = fault_of_line(line)) return bad_request(fault);
    at = stop + 2;
  }
  if (end == bytes.npos) return std::optional<std::size_t>();
  return std::optional(size);
}

void RequestParser::reset() { impl_.emplace(); }

Result<RequestHead, Problem> RequestParser::parse_head(std::string_view bytes) {
  boost::beast::error_code error;
  impl_->put(boost::asio::const_buffer(bytes.data(), bytes.size()), error);
  if (error == http::error::need_more) error = {};
  if (error) {
    return bad_request(impl_->refusal.empty() ? error.message() : std::move(impl_->refusal));
  }
  if (!impl_->is_header_done()) return bad_request("incomplete header");
  RequestHead& head = impl_->head;
  head.keep_alive = impl_->keep_alive();
  if (impl_->chunked()) {
    head.framing = Framing::chunked;
  } else if (const auto length = impl_->content_length()) {
    head.framing = Framing::length;
    head.length = *length;
  }
  return std::move(head);
}

Result<RequestParser::Chunked, Problem> RequestParser::parse_chunks(std::string_view bytes,
                                                                    std::span<std::byte> into) {
  Chunked result;
  impl_->into = into;
  impl_->written = 0;
  while (!impl_->is_done() && result.used < bytes.size()) {
    boost::beast::error_code error;
    const std::string_view rest = bytes.substr(result.used);
    const std::size_t before = impl_->written;
    const std::size_t used = impl_->put(boost::asio::const_buffer(rest.data(), rest.size()), error);
    result.used += used;
    if (error == http::error::need_buffer || error == http::error::need_more) break;
    if (error)
      return bad_request(impl_->refusal.empty() ? error.message() : std::move(impl_->refusal));
    if (used == 0 && impl_->written == before) break;
  }
  result.written = impl_->written;
  result.done = impl_->is_done();
  return result;
}

RequestParser::Impl::Impl() {
  eager(true);
  header_limit(static_cast<std::uint32_t>(kMaxHeadBytes));
  body_limit(boost::none);  // bounded by whoever reads the body
}

void RequestParser::Impl::refuse(Error& error, std::string why) {
  refusal = std::move(why);
  error = http::error::bad_value;
}

void RequestParser::Impl::on_request_impl(http::verb method, View, View target, int version,
                                          Error& error) {
  // Python's http.client and what is built on it (pip) connect with 1.0.
  if (version != 11 && !(version == 10 && method == http::verb::connect))
    return refuse(error, "expected HTTP/1.1");
  head.method = method == http::verb::get    ? Method::get
                : method == http::verb::put  ? Method::put
                : method == http::verb::post ? Method::post
                : method == http::verb::connect ? Method::connect
                                                : Method::other;
  head.target = view(target);
}

// INVARIANT: what frames the body is said once and plainly. Two lengths (even
//   equal ones), a length beside an encoding, or any encoding but "chunked" is
//   refused, so that no two readers can disagree where a request ends.
void RequestParser::Impl::on_field_impl(http::field name, View name_view, View value_view,
                                        Error& error) {
  const std::string_view value = view(value_view);
  if (in_trailer_) return refuse(error, "trailer fields are not used here");
  switch (name) {
    case http::field::host:
      if (++hosts_ > 1) refuse(error, "two Host fields");
      return;
    case http::field::content_length:
      if (++lengths_ > 1) return refuse(error, "two Content-Length fields");
      if (encodings_ > 0) return refuse(error, "Content-Length beside Transfer-Encoding");
      if (value.find_first_not_of("0123456789") != value.npos)  // Beast takes "5, 5" for 5
        refuse(error, "Content-Length: expected digits");
      return;
    case http::field::transfer_encoding:
      if (++encodings_ > 1) return refuse(error, "two Transfer-Encoding fields");
      if (lengths_ > 0) return refuse(error, "Content-Length beside Transfer-Encoding");
      if (!equal_ignoring_case(value, "chunked"))
        refuse(error, "Transfer-Encoding other than chunked");
      return;
    case http::field::expect:
      if (!equal_ignoring_case(value, "100-continue"))
        return refuse(error, "Expect other than 100-continue");
      head.expects_continue = true;
      return;
    case http::field::range:
      if (!head.range.empty()) return refuse(error, "two Range fields");
      head.range = value;
      return;
    case http::field::upgrade:
      if (!head.upgrade.empty()) return refuse(error, "two Upgrade fields");
      head.upgrade = value;
      return;
    default:
      break;
  }
  if (!equal_ignoring_case(view(name_view), protocol::kPidHeader)) return;
  const auto [end, failed] = std::from_chars(value.data(), value.data() + value.size(), head.pid);
  if (failed != std::errc() || end != value.data() + value.size())
    refuse(error, "Fbroker-Pid: expected a process id");
}

void RequestParser::Impl::on_header_impl(Error& error) {
  // CONNECT says in its target which host it means.
  if (hosts_ != 1 && head.method != Method::connect) return refuse(error, "no Host field");
  in_trailer_ = true;
}

// Bodies with a length are read past this parser (Connection::read_piece).
std::size_t RequestParser::Impl::on_body_impl(View, Error& error) {
  error = http::error::need_buffer;
  return 0;
}

void RequestParser::Impl::on_chunk_header_impl(std::uint64_t, View extensions, Error& error) {
  if (!extensions.empty()) refuse(error, "chunk extensions are not used here");
}

std::size_t RequestParser::Impl::on_chunk_body_impl(std::uint64_t, View body, Error& error) {
  const std::size_t size = std::min(body.size(), into.size() - written);
  std::memcpy(into.data() + written, body.data(), size);
  written += size;
  if (size < body.size()) error = http::error::need_buffer;
  return size;
}

}  // namespace fbroker::broker
