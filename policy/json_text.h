// JSON text -> values that know where they stand in it, so that every error
// can name its line. Duplicate keys are errors; depth and size are bounded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "policy/policy.h"

namespace fbroker::policy {

inline constexpr std::size_t kMaxJsonDepth = 16;

struct JsonValue {
  enum class Type : std::uint8_t { null, boolean, number, string, array, object };
  struct Member;

  Type type = Type::null;
  std::size_t offset = 0;             // of its first byte in the text
  std::string pointer;                // RFC 6901
  bool boolean = false;
  double number = 0;
  std::string string;
  std::vector<JsonValue> items;       // of an array
  std::vector<Member> members;        // of an object, in the text's order

  const JsonValue* find(std::string_view key) const;
  std::string_view type_name() const; // "an object", "a string", …
};

struct JsonValue::Member {
  std::string key;
  std::size_t offset = 0;             // of the key
  JsonValue value;
};

// A pointer's piece, with '~' and '/' escaped.
std::string pointer_piece(std::string_view key);

// Collects diagnostics for one text.
class Findings {
 public:
  Findings(std::string_view text, std::string file) : text_(text), file_(std::move(file)) {}

  void add(std::size_t offset, std::string pointer, std::string message,
           std::string suggestion = {});
  bool empty() const { return found_.empty(); }
  std::vector<Diagnostic> take() { return std::move(found_); }

 private:
  std::string_view text_;
  std::string file_;
  std::vector<Diagnostic> found_;
};

// False when the text is not JSON (or not acceptable JSON); then `findings` says why.
bool parse_json(std::string_view text, JsonValue& root, Findings& findings);

}  // namespace fbroker::policy
