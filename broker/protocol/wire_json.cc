#include "broker/protocol/wire_json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

namespace fbroker::protocol {

using nlohmann::json;

namespace {

// Builds the tree as nlohmann's own reader would, but says no on the way.
// ATTACK: a megabyte of "[[[[…" or of equal keys. The parser itself does not
//   recurse; depth and width are bounded here, before anything is allocated
//   for them.
class StrictBuilder : public nlohmann::json_sax<json> {
 public:
  explicit StrictBuilder(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return add(json(nullptr)); }
  bool boolean(bool value) override { return add(json(value)); }
  bool number_integer(number_integer_t value) override { return add(json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(json(value)); }
  bool string(string_t& value) override { return add(json(std::move(value))); }
  bool binary(binary_t&) override { return refuse("binary value"); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    json& object = *open_.back();
    const auto [slot, is_new] = object.get_ref<json::object_t&>().try_emplace(name);
    if (!is_new) {
      error_.field = name;
      return refuse("given twice");
    }
    slot_ = &slot->second;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return refuse("not JSON at byte " + std::to_string(position));
  }

  json take() { return std::move(root_); }
  WireError error() { return std::move(error_); }

 private:
  bool refuse(std::string what) {
    error_.what = std::move(what);
    return false;
  }
  json* place(json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_object()) return &(*slot_ = std::move(value));
    json& array = *open_.back();
    array.push_back(std::move(value));
    return &array.back();
  }
  bool add(json value) { return place(std::move(value)), true; }
  bool open(json value) {
    if (static_cast<int>(open_.size()) >= max_depth_)
      return refuse("nested deeper than " + std::to_string(max_depth_));
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() { return open_.pop_back(), true; }

  int max_depth_;
  json root_;
  json* slot_ = nullptr;       // where the value of the key just read belongs
  std::vector<json*> open_;    // children never move while an ancestor is open
  WireError error_;
};

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void append_base64(std::string& out, std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t have = std::min<std::size_t>(3, bytes.size() - at);
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i)
      group = group << 8 | (i < have ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    for (std::size_t i = 0; i < 4; ++i)
      out += i <= have ? kAlphabet[group >> (18 - 6 * i) & 63] : '=';
  }
}

// Strict: full groups, padding only at the end, no other characters.
std::optional<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  for (std::size_t at = 0; at < text.size(); at += 4) {
    const bool last = at + 4 == text.size();
    std::uint32_t group = 0;
    std::size_t padding = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const char c = text[at + i];
      if (c == '=' && last && i >= 2) {
        ++padding;
        group <<= 6;
        continue;
      }
      const std::size_t value = kAlphabet.find(c);
      if (value == kAlphabet.npos || padding > 0) return std::nullopt;
      group = group << 6 | static_cast<std::uint32_t>(value);
    }
    for (std::size_t i = 0; i + padding < 3; ++i)
      bytes += static_cast<char>(group >> (16 - 8 * i) & 0xff);
  }
  return bytes;
}

}  // namespace

Result<json, WireError> parse_strict(std::string_view text, JsonLimits limits) {
  if (text.size() > limits.bytes)
    return WireError{"", "more than " + std::to_string(limits.bytes) + " bytes"};
  StrictBuilder builder(limits.depth);
  if (!json::sax_parse(text, &builder)) return builder.error();
  return builder.take();
}

FieldReader::FieldReader(const json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  if (!object_.is_object())
    error_ = WireError{prefix_, "expected an object"};
  else if (object_.size() > 64)
    error_ = WireError{prefix_, "more than 64 fields"};
}

bool FieldReader::has(std::string_view name) const {
  return object_.is_object() && object_.find(name) != object_.end();
}

void FieldReader::refuse(std::string_view name, std::string what, int error) {
  if (error_) return;
  std::string field = prefix_;
  if (!prefix_.empty() && !name.empty()) field += '.';
  field += name;
  error_ = WireError{std::move(field), std::move(what), error};
}

const json* FieldReader::take(std::string_view name) {
  if (error_) return nullptr;
  const auto found = object_.find(name);
  if (found == object_.end()) {
    refuse(name, "missing");
    return nullptr;
  }
  taken_ |= std::uint64_t{1} << std::distance(object_.begin(), found);
  return &*found;
}

std::string FieldReader::text(std::string_view name) {
  const json* value = take(name);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  refuse(name, "expected a string");
  return {};
}

std::string FieldReader::bytes(std::string_view name) {
  const json* value = take(name);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  if (value->is_object() && value->size() == 1 && value->contains("b64") &&
      (*value)["b64"].is_string()) {
    if (auto decoded = decode_base64((*value)["b64"].get_ref<const std::string&>()))
      return std::move(*decoded);
    refuse(name, "b64 is not base64 (RFC 4648, padded)");
    return {};
  }
  refuse(name, "expected a string or {\"b64\": \"...\"}");
  return {};
}

std::uint64_t FieldReader::number(std::string_view name) {
  const json* value = take(name);
  if (value == nullptr) return 0;
  if (value->is_number_unsigned()) {
    const auto number = value->get<std::uint64_t>();
    if (number <= std::numeric_limits<std::int64_t>::max()) return number;
  }
  refuse(name, "expected an integer from 0 to 2^63-1");
  return 0;
}

bool FieldReader::boolean(std::string_view name) {
  const json* value = take(name);
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  refuse(name, "expected true or false");
  return false;
}

const json* FieldReader::array(std::string_view name) {
  const json* value = take(name);
  if (value == nullptr || value->is_array()) return value;
  refuse(name, "expected an array");
  return nullptr;
}

const json* FieldReader::object(std::string_view name) {
  const json* value = take(name);
  if (value == nullptr || value->is_object()) return value;
  refuse(name, "expected an object");
  return nullptr;
}

// INVARIANT: a field that we do not know is refused, never skipped: what a
//   client believes to have said must be what we understood.
Result<void, WireError> FieldReader::finish() {
  if (error_) return *error_;
  std::size_t at = 0;
  for (const auto& [name, value] : object_.items()) {
    if ((taken_ >> at++ & 1) != 0) continue;
    refuse(name, "unknown field");
    return *error_;
  }
  return ok;
}

void append_number(std::string& out, std::uint64_t number) {
  char digits[20];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  out.append(digits, end);
}

void append_text(std::string& out, std::string_view text) {
  static constexpr std::string_view kHex = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += kHex[static_cast<unsigned char>(c) >> 4];
      out += kHex[static_cast<unsigned char>(c) & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

void append_bytes(std::string& out, std::string_view bytes) {
  if (is_utf8(bytes)) return append_text(out, bytes);
  out += "{\"b64\":\"";
  append_base64(out, bytes);
  out += "\"}";
}

// RFC 3629: shortest form only, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view bytes) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  for (std::size_t at = 0; at < bytes.size();) {
    const unsigned first = byte(at);
    if (first < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || bytes.size() - at < length) return false;
    for (std::size_t i = 1; i < length; ++i)
      if ((byte(at + i) & 0xc0) != 0x80) return false;
    const unsigned second = byte(at + 1);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
        (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f))
      return false;
    at += length;
  }
  return true;
}

}  // namespace fbroker::protocol
