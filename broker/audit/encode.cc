#include "broker/audit/encode.h"

#include <openssl/evp.h>
#include <time.h>

#include <array>
#include <boost/locale/utf.hpp>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>
#include <vector>

namespace fbroker::audit {

namespace {

void add_name(std::string& out, std::string_view name) {
  if (!out.empty()) out += ',';
  out += '"';
  out += name;
  out += "\":";
}

// Bytes that stand in a text as they are: not so what JSON escapes, DEL, and 0xC2,
// which may begin a C1 control.
constexpr auto kPlain = [] {
  std::array<bool, 256> plain{};
  for (std::size_t byte = 0x20; byte < plain.size(); ++byte)
    plain[byte] = byte != '"' && byte != '\\' && byte != 0x7F && byte != 0xC2;
  return plain;
}();

// DEL is escaped with the control characters: a line that is shown raw must
// not be able to steer a terminal. C1 controls (U+0080 to U+009F) likewise.
void add_escaped(std::string& out, std::string_view text) {
  std::size_t plain_from = 0;
  const auto add_plain_until = [&](std::size_t end) { out.append(text, plain_from, end - plain_from); };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (kPlain[byte]) continue;
    const bool c1 = byte == 0xC2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (byte == 0xC2 && !c1) continue;
    add_plain_until(i);
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[i];
    } else {
      const unsigned code = c1 ? static_cast<unsigned char>(text[++i]) : byte;
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", code);
      out += escape;
    }
    plain_from = i + 1;
  }
  add_plain_until(text.size());
}

void add_base64(std::string& out, std::string_view bytes) {
  const std::size_t at = out.size();
  out.resize(at + (bytes.size() + 2) / 3 * 4 + 1);  // EVP_EncodeBlock adds a NUL
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data() + at),
                                   reinterpret_cast<const unsigned char*>(bytes.data()),
                                   static_cast<int>(bytes.size()));
  out.resize(at + static_cast<std::size_t>(size));
}

bool is_ascii(std::string_view bytes) noexcept {
  std::uint64_t high = 0;
  std::size_t at = 0;
  for (std::uint64_t word; at + sizeof word <= bytes.size(); at += sizeof word) {
    std::memcpy(&word, bytes.data() + at, sizeof word);
    high |= word;
  }
  for (; at < bytes.size(); ++at) high |= static_cast<unsigned char>(bytes[at]);
  return (high & 0x8080808080808080u) == 0;
}

// ---- the members, in the order of the line: one list for both forms ----------------
//
// text() and number() leave out what is empty or 0; count() what there is not;
// own_number() is one that is no part of what makes refusals equal.
template <class Visitor>
void visit_members(const Record& r, Visitor& visitor) {
  visitor.text("session", r.session);   // the first: session_of_packed()
  visitor.text("operation", r.operation);
  visitor.text("path", r.path);
  visitor.text("requested", r.requested);
  visitor.text("target", r.target);
  visitor.text("host_path", r.host_path);
  visitor.text("host", r.host);
  visitor.text("address", r.address);
  visitor.number("port", r.port);
  visitor.text("decision", r.decision);
  visitor.text("reason", r.reason);
  visitor.number("error", r.error < 0 ? 0 : static_cast<std::uint64_t>(r.error));
  visitor.own_number("pid", r.pid);
  visitor.own_number("peer_pid", r.peer_pid);
  visitor.own_number("handle", r.handle);
  visitor.count("bytes_read", r.bytes_read);
  visitor.count("bytes_written", r.bytes_written);
  visitor.count("milliseconds", r.milliseconds);
  visitor.text("detail", r.detail);
  visitor.own_number("repeated", r.repeated > 1 ? r.repeated : 0);
}

struct AddJson {
  std::string& out;
  Members members;

  void text(std::string_view name, const std::string& value) {
    if (!value.empty()) add_text(out, name, value);
  }
  void number(std::string_view name, std::uint64_t value) {
    if (value != 0) add_number(out, name, value);
  }
  void own_number(std::string_view name, std::uint64_t value) {
    if (members == Members::all) number(name, value);
  }
  void count(std::string_view name, const std::optional<std::uint64_t>& value) {
    if (value) add_number(out, name, *value);
  }
};

// Packed: the time, one bit for each member that is there, then these: a text
// as its length and its bytes, a number as it is.
using Present = std::uint32_t;
using Length = std::uint32_t;
constexpr std::size_t kPackedMembersAt = sizeof(std::int64_t) + sizeof(Present);

struct AddSizes {
  std::size_t size = kPackedMembersAt;

  void text(std::string_view, const std::string& value) {
    if (!value.empty()) size += sizeof(Length) + value.size();
  }
  void number(std::string_view, std::uint64_t value) { size += value != 0 ? sizeof value : 0; }
  void own_number(std::string_view name, std::uint64_t value) { number(name, value); }
  void count(std::string_view, const std::optional<std::uint64_t>& value) { size += value ? sizeof *value : 0; }
};

struct Pack {
  char* at;
  Present present = 0, bit = 1;

  void bytes(const void* from, std::size_t size) {
    std::memcpy(at, from, size);
    at += size;
  }
  void member(bool there, const void* from, std::size_t size) {
    if (there) present |= bit, bytes(from, size);
    bit <<= 1;
  }
  void text(std::string_view, const std::string& value) {
    const auto length = static_cast<Length>(value.size());
    member(length != 0, &length, sizeof length);
    if (length != 0) bytes(value.data(), length);
  }
  void number(std::string_view, std::uint64_t value) { member(value != 0, &value, sizeof value); }
  void own_number(std::string_view name, std::uint64_t value) { number(name, value); }
  void count(std::string_view, const std::optional<std::uint64_t>& value) {
    const std::uint64_t number = value.value_or(0);
    member(value.has_value(), &number, sizeof number);
  }
};

// Visits the members of any record for their names and order alone.
struct Unpack {
  std::string& out;
  std::string_view rest;
  Present present = 0, bit = 1;
  bool whole = true;

  template <class T>
  T take() {
    T value{};
    whole = whole && rest.size() >= sizeof value;
    if (!whole) return value;
    std::memcpy(&value, rest.data(), sizeof value);
    rest.remove_prefix(sizeof value);
    return value;
  }
  bool next_is_there() {
    const bool there = (present & bit) != 0;
    bit <<= 1;
    return there;
  }
  void text(std::string_view name, const std::string&) {
    if (!next_is_there()) return;
    const auto length = take<Length>();
    whole = whole && length <= rest.size();
    if (!whole) return;
    add_text(out, name, rest.substr(0, length));
    rest.remove_prefix(length);
  }
  void number(std::string_view name, std::uint64_t) {
    if (!next_is_there()) return;
    const auto value = take<std::uint64_t>();
    if (whole) add_number(out, name, value);
  }
  void own_number(std::string_view name, std::uint64_t value) { number(name, value); }
  void count(std::string_view name, const std::optional<std::uint64_t>&) { number(name, 0); }
};

}  // namespace

bool is_utf8(std::string_view bytes) noexcept {
  using Utf8 = boost::locale::utf::utf_traits<char>;
  const char* at = bytes.data();
  const char* const end = at + bytes.size();
  if (is_ascii(bytes)) return true;
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
  char fraction[9];
  auto left = static_cast<std::uint32_t>((time - seconds).count());
  for (std::size_t digit = sizeof fraction; digit-- > 0; left /= 10)
    fraction[digit] = static_cast<char>('0' + left % 10);
  add_name(out, name);
  out += '"';
  out += text;
  out.append(fraction, sizeof fraction);
  out += "Z\"";
}

void add_members(std::string& out, const Record& record, Members members) {
  AddJson json{out, members};
  visit_members(record, json);
}

std::size_t packed_size(const Record& record) noexcept {
  AddSizes sizes;
  visit_members(record, sizes);
  return sizes.size;
}

void pack(const Record& record, WallTime time, char* out) noexcept {
  Pack packer{out + kPackedMembersAt};
  visit_members(record, packer);
  const std::int64_t ns = time.time_since_epoch().count();
  std::memcpy(out, &ns, sizeof ns);
  std::memcpy(out + sizeof ns, &packer.present, sizeof packer.present);
}

bool add_packed_members(std::string& out, std::string_view packed) {
  static const Record any;
  const std::size_t before = out.size();
  Unpack unpacked{out, packed};
  const auto ns = unpacked.take<std::int64_t>();
  unpacked.present = unpacked.take<Present>();
  if (unpacked.whole) {
    add_time(out, "time", WallTime(std::chrono::nanoseconds(ns)));
    visit_members(any, unpacked);
    if (unpacked.whole && unpacked.rest.empty() && unpacked.present < unpacked.bit) return true;
  }
  out.resize(before);
  return false;
}

std::string_view session_of_packed(std::string_view packed) noexcept {
  Present present = 0;
  Length length = 0;
  if (packed.size() < kPackedMembersAt + sizeof length) return {};
  std::memcpy(&present, packed.data() + sizeof(std::int64_t), sizeof present);
  std::memcpy(&length, packed.data() + kPackedMembersAt, sizeof length);
  if ((present & 1) == 0) return {};
  return packed.substr(kPackedMembersAt + sizeof length, length);
}

}  // namespace fbroker::audit
