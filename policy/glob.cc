#include "policy/glob.h"

#include <algorithm>

#include "policy/base/workspace_path.h"

namespace fbroker::policy {

// One component's text -> its tokens. Anything whose meaning a reader could
// take in two ways (braces, backslashes, "a**") is refused: a deny rule that
// silently matches nothing is a hole.
class GlobParser {
 public:
  static Result<GlobComponent> component(std::string_view text) {
    GlobComponent out;
    if (text == "**") {
      out.kind = GlobComponent::Kind::tree;
      out.text = text;
      return out;
    }
    FBROKER_TRY_VOID(refuse(text));
    for (std::size_t at = 0; at < text.size();) {
      FBROKER_TRY(at, token(text, at, out));
    }
    classify(text, out);
    return out;
  }

 private:
  using Token = GlobComponent::Token;

  static Error error(std::string_view text, std::string what) {
    return Error{"", "\"" + std::string(text) + "\": " + std::move(what)};
  }

  static Result<void> refuse(std::string_view text) {
    if (text == "." || text == "..")
      return error(text, "\".\" and \"..\" are not allowed in a pattern");
    if (text.size() > 4 * kMaxComponentBytes)
      return error(text.substr(0, 32), "a component this long matches no name");
    if (text.find("**") != text.npos)
      return error(text, "\"**\" stands alone between slashes; within a name write \"*\"");
    if (text.find('\0') != text.npos) return error("", "no name holds a NUL byte");
    return ok;
  }

  // Reads one token at `at`; the next one's place.
  static Result<std::size_t> token(std::string_view text, std::size_t at, GlobComponent& out) {
    switch (text[at]) {
      case '*': out.tokens_.push_back({Token::Kind::star, 0, 0}); return at + 1;
      case '?': out.tokens_.push_back({Token::Kind::any_byte, 0, 0}); return at + 1;
      case '[': return byte_class(text, at, out);
      case '{':
      case '}':
        return error(text, "braces are no wildcards here: list the patterns one by one, "
                           "or write [{] for the character");
      case '\\':
        return error(text, "a backslash escapes nothing here: write [*] for a star and "
                           "[\\] for a backslash");
      default:
        out.tokens_.push_back({Token::Kind::byte, static_cast<unsigned char>(text[at]), 0});
        return at + 1;
    }
  }

  // "[abc]", "[a-z]", "[!a]" or "[^a]"; a ']' right after the opening is itself.
  static Result<std::size_t> byte_class(std::string_view text, std::size_t at, GlobComponent& out) {
    std::bitset<256> set;
    std::size_t i = at + 1;
    const bool negated = i < text.size() && (text[i] == '!' || text[i] == '^');
    if (negated) ++i;
    for (const std::size_t first = i;; ++i) {
      if (i >= text.size())
        return error(text, "\"[\" without \"]\"; for the character itself write [[]");
      if (text[i] == ']' && i != first) break;
      if (text[i] == '[' && i + 1 < text.size() && text[i + 1] == ':')
        return error(text, "classes such as [:alpha:] are not known; write [a-zA-Z]");
      unsigned low = static_cast<unsigned char>(text[i]);
      unsigned high = low;
      if (i + 2 < text.size() && text[i + 1] == '-' && text[i + 2] != ']') {
        high = static_cast<unsigned char>(text[i + 2]);
        i += 2;
      }
      if (low > high) return error(text, "a range runs upwards: [a-z], not [z-a]");
      for (unsigned byte = low; byte <= high; ++byte) set.set(byte);
    }
    add_set(negated ? ~set : set, out);
    return i + 1;
  }

  static void add_set(const std::bitset<256>& set, GlobComponent& out) {
    if (set.count() == 1) {  // "[*]": how a wildcard's own character is written
      unsigned byte = 0;
      while (!set[byte]) ++byte;
      out.tokens_.push_back({Token::Kind::byte, static_cast<unsigned char>(byte), 0});
      return;
    }
    out.tokens_.push_back({Token::Kind::set, 0, static_cast<std::uint16_t>(out.sets_.size())});
    out.sets_.push_back(set);
  }

  static void classify(std::string_view text, GlobComponent& out) {
    const auto is_byte = [](const Token& token) { return token.kind == Token::Kind::byte; };
    const auto append = [](std::string& to) {
      return [&to](const Token& token) { to.push_back(static_cast<char>(token.byte)); };
    };
    const auto& tokens = out.tokens_;
    const auto wild = std::ranges::find_if_not(tokens, is_byte);
    std::for_each(tokens.begin(), wild, append(out.prefix));
    if (wild == tokens.end()) {
      out.kind = GlobComponent::Kind::literal;
      out.text = std::exchange(out.prefix, {});
      return;
    }
    out.text = text;
    const bool star = tokens.size() == 1 && tokens[0].kind == Token::Kind::star;
    out.kind = star ? GlobComponent::Kind::any : GlobComponent::Kind::wild;
    const auto last = std::find_if_not(tokens.rbegin(), tokens.rend(), is_byte);
    std::for_each(last.base(), tokens.end(), append(out.suffix));
  }
};

bool GlobComponent::token_matches(const Token& token, unsigned char byte) const {
  switch (token.kind) {
    case Token::Kind::byte: return token.byte == byte;
    case Token::Kind::any_byte: return true;
    case Token::Kind::set: return sets_[token.set][byte];
    case Token::Kind::star: return false;
  }
  return false;
}

// Greedy with one point to fall back to: only the last star ever has to give
// a byte back, so the cost is bounded by name * pattern.
bool GlobComponent::matches(std::string_view name) const {
  if (kind == Kind::literal) return name == text;
  if (kind == Kind::any) return true;
  std::size_t token = 0, star = tokens_.size(), at = 0, star_at = 0;
  while (at < name.size()) {
    if (token < tokens_.size() && tokens_[token].kind == Token::Kind::star) {
      star = token++;
      star_at = at;
    } else if (token < tokens_.size() &&
               token_matches(tokens_[token], static_cast<unsigned char>(name[at]))) {
      ++token;
      ++at;
    } else if (star != tokens_.size()) {
      token = star + 1;
      at = ++star_at;
    } else {
      return false;
    }
  }
  while (token < tokens_.size() && tokens_[token].kind == Token::Kind::star) ++token;
  return token == tokens_.size();
}

bool Glob::is_literal() const {
  return std::ranges::all_of(
      components, [](const auto& c) { return c.kind == GlobComponent::Kind::literal; });
}

std::string Glob::literal_path() const {
  std::string path;
  for (const auto& component : components) path += "/" + component.text;
  return path.empty() ? "/" : path;
}

namespace {

Result<void> check_start(std::string_view pattern) {
  const std::string quoted = "\"" + std::string(pattern.substr(0, 200)) + "\"";
  if (pattern.empty()) return Error{"", "an empty pattern; \"/\" means everything"};
  if (pattern.size() > kMaxGlobBytes) return Error{"", "a pattern is at most 4096 bytes long"};
  if (pattern.front() == '!')
    return Error{"", quoted + " starts with \"!\"; exceptions go into the rule's \"except\""};
  if (pattern.front() == '~')
    return Error{"", quoted + ": patterns name paths in the workspace, not in the host's home; "
                              "export the directory and name it where it appears"};
  if (pattern.front() == '/' || pattern.starts_with("**/")) return ok;
  if (pattern == "**") return Error{"", quoted + " must start with \"/\"; did you mean \"/**\"?"};
  std::string_view rest = pattern;
  if (rest.starts_with("./")) rest.remove_prefix(2);
  if (rest.ends_with('/')) rest.remove_suffix(1);
  return Error{"", quoted + " must start with \"/\" or \"**/\"; did you mean \"/" +
                       std::string(rest.substr(0, 200)) + "\" (there) or \"**/" +
                       std::string(rest.substr(0, 200)) + "\" (anywhere)?"};
}

void append(std::vector<GlobComponent>& components, GlobComponent component) {
  constexpr auto tree = GlobComponent::Kind::tree;
  if (component.kind == tree && !components.empty() && components.back().kind == tree) return;
  components.push_back(std::move(component));
}

}  // namespace

Result<Glob> parse_glob(std::string_view pattern) {
  FBROKER_TRY_VOID(check_start(pattern));
  Glob glob;
  std::string_view rest = pattern.front() == '/' ? pattern.substr(1) : pattern;
  while (!rest.empty()) {
    const std::size_t slash = rest.find('/');
    const std::string_view text = rest.substr(0, slash);
    if (text.empty())
      return Error{"", "\"" + std::string(pattern) + "\": an empty component (\"//\")"};
    FBROKER_TRY(GlobComponent component, GlobParser::component(text));
    append(glob.components, std::move(component));
    if (slash == rest.npos) break;
    rest.remove_prefix(slash + 1);
    if (rest.empty())
      return Error{"", "\"" + std::string(pattern) + "\" ends with a slash; write \"" +
                           std::string(pattern.substr(0, pattern.size() - 1)) +
                           "\", which means it and everything below"};
  }
  if (!glob.components.empty() && glob.components.back().kind == GlobComponent::Kind::tree)
    glob.components.pop_back();
  return glob;
}

}  // namespace fbroker::policy
