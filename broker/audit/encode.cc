#include "broker/audit/encode.h"

#include <openssl/evp.h>
#include <time.h>

#include <boost/locale/utf.hpp>
#include <charconv>
#include <cstdio>
#include <vector>

namespace fbroker::audit {

namespace {

void add_name(std::string& out, std::string_view name) {
  if (!out.empty()) out += ',';
  out += '"';
  out += name;
  out += "\":";
}

// DEL is escaped with the control characters: a line that is shown raw must
// not be able to steer a terminal. C1 controls (U+0080 to U+009F) likewise.
void add_escaped(std::string& out, std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 = byte == 0xC2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[i];
    } else if (byte < 0x20 || byte == 0x7F || c1) {
      const unsigned code = c1 ? static_cast<unsigned char>(text[++i]) : byte;
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", code);
      out += escape;
    } else {
      out += text[i];
    }
  }
}

void add_base64(std::string& out, std::string_view bytes) {
  const std::size_t at = out.size();
  out.resize(at + (bytes.size() + 2) / 3 * 4 + 1);  // EVP_EncodeBlock adds a NUL
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data() + at),
                                   reinterpret_cast<const unsigned char*>(bytes.data()),
                                   static_cast<int>(bytes.size()));
  out.resize(at + static_cast<std::size_t>(size));
}

}  // namespace

bool is_utf8(std::string_view bytes) noexcept {
  using Utf8 = boost::locale::utf::utf_traits<char>;
  const char* at = bytes.data();
  const char* const end = at + bytes.size();
  while (at != end) {
    if (static_cast<unsigned char>(*at) < 0x80) {
      ++at;
    } else if (const auto point = Utf8::decode(at, end);
               point == boost::locale::utf::illegal || point == boost::locale::utf::incomplete) {
      return false;
    }
  }
  return true;
}

void add_text(std::string& out, std::string_view name, std::string_view bytes) {
  add_name(out, name);
  if (is_utf8(bytes)) {
    out += '"';
    add_escaped(out, bytes);
    out += '"';
  } else {
    out += R"({"b64":")";
    add_base64(out, bytes);
    out += "\"}";
  }
}

void add_number(std::string& out, std::string_view name, std::uint64_t number) {
  add_name(out, name);
  char digits[20];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

void add_time(std::string& out, std::string_view name, WallTime time) {
  using namespace std::chrono;
  const auto seconds = floor<std::chrono::seconds>(time);
  // Within one second only the fraction differs; gmtime_r is half of a record's cost.
  thread_local std::time_t formatted_second = -1;
  thread_local char text[48];
  const std::time_t now = static_cast<std::time_t>(seconds.time_since_epoch().count());
  if (now != formatted_second) {
    tm parts{};
    ::gmtime_r(&now, &parts);
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S.", &parts);
    formatted_second = now;
  }
  char fraction[16];
  std::snprintf(fraction, sizeof fraction, "%09u",
                static_cast<unsigned>((time - seconds).count()));
  add_name(out, name);
  out += '"';
  out += text;
  out += fraction;
  out += "Z\"";
}

void add_members(std::string& out, const Record& r, Members members) {
  const auto text = [&](std::string_view name, const std::string& value) {
    if (!value.empty()) add_text(out, name, value);
  };
  const auto number = [&](std::string_view name, std::uint64_t value) {
    if (value != 0) add_number(out, name, value);
  };
  text("session", r.session);
  text("operation", r.operation);
  text("path", r.path);
  text("requested", r.requested);
  text("target", r.target);
  text("host_path", r.host_path);
  text("host", r.host);
  text("address", r.address);
  number("port", r.port);
  text("decision", r.decision);
  text("reason", r.reason);
  number("error", r.error < 0 ? 0 : static_cast<std::uint64_t>(r.error));
  if (members == Members::all) {
    number("pid", r.pid);
    number("peer_pid", r.peer_pid);
    number("handle", r.handle);
  }
  if (r.bytes_read) add_number(out, "bytes_read", *r.bytes_read);
  if (r.bytes_written) add_number(out, "bytes_written", *r.bytes_written);
  if (r.milliseconds) add_number(out, "milliseconds", *r.milliseconds);
  text("detail", r.detail);
}

}  // namespace fbroker::audit
