// Glob: a path pattern, taken apart into components.
//
// "/src" is that path and everything below it; so is whatever a pattern with
// wildcards matches. Within a component `*`, `?` and `[...]` match bytes, dot
// names included; a component `**` is any number of components, none too.
// Names are bytes: `?` matches one byte, not one UTF-8 character.
// There is no escape character: `[*]` is a star, `[[]` a bracket, `[\]` a backslash.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/base/result.h"

namespace fbroker::policy {

inline constexpr std::size_t kMaxGlobBytes = 4096;

class GlobComponent {
 public:
  enum class Kind : std::uint8_t {
    literal,  // exactly these bytes
    any,      // "*": every name
    wild,     // a pattern within the component
    tree,     // "**"
  };

  Kind kind = Kind::literal;
  std::string text;    // literal: the name's bytes; otherwise the pattern as written
  std::string prefix;  // wild: every name that matches starts with these bytes
  std::string suffix;  //       and ends with these

  // Whether a name (no slash in it) matches. Precondition: kind != tree.
  // Cost: at most name * pattern, no recursion.
  bool matches(std::string_view name) const;

 private:
  friend class GlobParser;
  struct Token {
    enum class Kind : std::uint8_t { byte, any_byte, set, star } kind;
    unsigned char byte = 0;
    std::uint16_t set = 0;  // index into sets_
  };
  bool token_matches(const Token& token, unsigned char byte) const;

  std::vector<Token> tokens_;
  std::vector<std::bitset<256>> sets_;
};

struct Glob {
  // Without a trailing "**": what a pattern matches includes what lies below.
  // No two "**" in a row. Empty: the root, that is everything.
  std::vector<GlobComponent> components;

  bool is_literal() const;
  std::string literal_path() const;  // Precondition: is_literal().
};

// Errors: `what` says what is wrong with the pattern and how to write it.
Result<Glob> parse_glob(std::string_view pattern);

}  // namespace fbroker::policy
