// Reading JSON from somebody hostile: size, depth and keys are checked while
// it is parsed, so that nothing is built that will be refused afterwards.
//
// The only header with JSON types; only the .cc files of the edges include it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "policy/base/result.h"

namespace fbroker::protocol {

inline constexpr std::size_t kMaxJsonBytes = 1 << 20;
inline constexpr int kMaxJsonDepth = 32;

// What is wrong with a message. `error` is what a syscall would answer.
struct WireError {
  std::string field;   // dotted ("times.modified"), "" = the whole text
  std::string what;    // found and expected, for a person
  int error = EINVAL;

  std::string text() const { return field.empty() ? what : field + ": " + what; }
};

struct JsonLimits {
  std::size_t bytes = kMaxJsonBytes;
  int depth = kMaxJsonDepth;
};

// One JSON text. Refused: more bytes or depth than the limits, duplicate keys,
// NaN and infinities, text after the end, strings that are not UTF-8.
Result<nlohmann::json, WireError> parse_strict(std::string_view text, JsonLimits limits = {});

// An object's fields, each taken by name and type; finish() refuses the rest.
// The first error stays; later takes return defaults, so that callers read all
// fields in a row and look once, at finish().
// Precondition: the json outlives the reader.
class FieldReader {
 public:
  explicit FieldReader(const nlohmann::json& object, std::string prefix = "");

  bool has(std::string_view name) const;
  std::string text(std::string_view name);       // a string
  std::string bytes(std::string_view name);      // a string, or {"b64": "…"}
  std::uint64_t number(std::string_view name);   // an integer, 0 ≤ n < 2^63
  bool boolean(std::string_view name);
  // For arrays and objects: nullptr when it is absent or something else.
  const nlohmann::json* array(std::string_view name);
  const nlohmann::json* object(std::string_view name);

  void refuse(std::string_view name, std::string what, int error = EINVAL);
  // Errors: the first that was met, or a field that nobody took.
  Result<void, WireError> finish();

 private:
  const nlohmann::json* take(std::string_view name);

  const nlohmann::json& object_;
  std::string prefix_;
  std::uint64_t taken_ = 0;   // by position; an object of more than 64 fields is refused
  std::optional<WireError> error_;
};

// Text that goes out is appended, not built as a tree: replies are hot.
// A string as JSON when it is UTF-8, else {"b64":"…"}: names are bytes.
void append_bytes(std::string& out, std::string_view bytes);
// Precondition: `text` is UTF-8 (our own words).
void append_text(std::string& out, std::string_view text);
void append_number(std::string& out, std::uint64_t number);

bool is_utf8(std::string_view bytes) noexcept;

}  // namespace fbroker::protocol
