#include "policy/json_text.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "policy/words.h"

namespace fbroker::policy {
namespace {

constexpr std::size_t kMaxFindings = 50;  // more would only scroll away the first

// An iterator that tells how far the lexer has read.
class Tracked {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Tracked(const char* at, const char** read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  Tracked& operator++() {
    *read_ = ++at_;
    return *this;
  }
  Tracked operator++(int) {
    Tracked old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Tracked& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  const char** read_;
};

// Builds the values from the library's events.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view text, JsonValue& root, Findings& findings)
      : text_(text), read_(text.data()), root_(root), findings_(findings) {}

  const char** read() { return &read_; }

  bool null() override { return add(JsonValue::Type::null, word_start()) != nullptr; }
  bool boolean(bool value) override {
    JsonValue* made = add(JsonValue::Type::boolean, word_start());
    if (made) made->boolean = value;
    return made != nullptr;
  }
  bool number_integer(number_integer_t value) override { return number(static_cast<double>(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    return number(static_cast<double>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return number(value); }
  bool string(string_t& value) override {
    JsonValue* made = add(JsonValue::Type::string, string_start());
    if (made) made->string = std::move(value);
    return made != nullptr;
  }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override { return open(JsonValue::Type::object); }
  bool start_array(std::size_t) override { return open(JsonValue::Type::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    JsonValue& object = *open_.back();
    const std::size_t offset = string_start();
    const std::string pointer = object.pointer + "/" + pointer_piece(key);
    // ATTACK: of two equal keys a person reads one and a parser takes the other.
    if (object.find(key) != nullptr)
      findings_.add(offset, pointer, "the key " + in_quotes(key) + " stands twice in this object");
    auto& member = object.members.emplace_back();
    member.key = std::move(key);
    member.offset = offset;
    member.value.pointer = pointer;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::size_t offset = std::min(position == 0 ? 0 : position - 1, text_.size());
    findings_.add(offset, open_.empty() ? "" : open_.back()->pointer, words(error.what(), offset));
    return false;
  }

 private:
  bool number(double value) {
    JsonValue* made = add(JsonValue::Type::number, word_start());
    if (made) made->number = value;
    return made != nullptr;
  }

  JsonValue* add(JsonValue::Type type, std::size_t offset) {
    JsonValue* value = &root_;
    if (!open_.empty()) {
      JsonValue& parent = *open_.back();
      if (parent.type == JsonValue::Type::array) {
        value = &parent.items.emplace_back();
        value->pointer = parent.pointer + "/" + std::to_string(parent.items.size() - 1);
      } else {
        value = &parent.members.back().value;
      }
    }
    value->type = type;
    value->offset = offset;
    return value;
  }

  bool open(JsonValue::Type type) {
    const std::size_t offset = static_cast<std::size_t>(read_ - text_.data()) - 1;
    if (open_.size() == kMaxJsonDepth) {
      findings_.add(offset, open_.back()->pointer,
                    "nested deeper than " + std::to_string(kMaxJsonDepth) + " levels");
      return false;
    }
    // Pointers stay good: a parent's children grow only once this one is closed.
    open_.push_back(add(type, offset));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  // A string was read to its closing quote; an opening one is not escaped.
  std::size_t string_start() const {
    auto at = static_cast<std::size_t>(read_ - text_.data()) - 1;
    while (at-- > 0) {
      if (text_[at] != '"') continue;
      std::size_t slashes = 0;
      while (slashes < at && text_[at - 1 - slashes] == '\\') ++slashes;
      if (slashes % 2 == 0) return at;
    }
    return 0;
  }

  // A number is read one byte too far, a word exactly.
  std::size_t word_start() const {
    const auto in_word = [&](std::size_t i) {
      return std::isalnum(static_cast<unsigned char>(text_[i])) != 0 || text_[i] == '-' ||
             text_[i] == '+' || text_[i] == '.';
    };
    auto at = static_cast<std::size_t>(read_ - text_.data());
    if (at > 0 && (at == text_.size() + 1 || !in_word(at - 1))) --at;
    while (at > 0 && in_word(at - 1)) --at;
    return at;
  }

  std::string words(std::string what, std::size_t offset) const {
    const std::size_t column = what.find(", column ");
    const std::size_t colon = what.find(": ", column == what.npos ? 0 : column);
    if (colon != what.npos) what = what.substr(colon + 2);
    if (text_.substr(0, offset + 1).ends_with('/') || what.find("'/") != what.npos)
      what += "; JSON has no comments";
    return "not valid JSON: " + what;
  }

  std::string_view text_;
  const char* read_;
  JsonValue& root_;
  Findings& findings_;
  std::vector<JsonValue*> open_;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  for (const Member& member : members)
    if (member.key == key) return &member.value;
  return nullptr;
}

std::string_view JsonValue::type_name() const {
  switch (type) {
    case Type::null: return "null";
    case Type::boolean: return boolean ? "true" : "false";
    case Type::number: return "a number";
    case Type::string: return "a string";
    case Type::array: return "a list";
    case Type::object: return "an object";
  }
  return "";
}

std::string pointer_piece(std::string_view key) {
  std::string out;
  for (const char c : key) {
    if (c == '~') out += "~0";
    else if (c == '/') out += "~1";
    else out += c;
  }
  return out;
}

void Findings::add(std::size_t offset, std::string pointer, std::string message,
                   std::string suggestion) {
  if (found_.size() >= kMaxFindings) return;
  const std::string_view before = text_.substr(0, offset);
  const std::size_t newline = before.rfind('\n');
  Diagnostic diagnostic;
  diagnostic.file = file_;
  diagnostic.pointer = std::move(pointer);
  diagnostic.line = static_cast<int>(1 + std::ranges::count(before, '\n'));
  diagnostic.column =
      static_cast<int>(newline == before.npos ? offset + 1 : before.size() - newline);
  diagnostic.message = std::move(message);
  diagnostic.suggestion = std::move(suggestion);
  found_.push_back(std::move(diagnostic));
}

bool parse_json(std::string_view text, JsonValue& root, Findings& findings) {
  Builder builder(text, root, findings);
  const char* begin = text.data();
  return nlohmann::json::sax_parse(Tracked(begin, builder.read()),
                                   Tracked(begin + text.size(), builder.read()), &builder) &&
         findings.empty();
}

}  // namespace fbroker::policy
