#include "policy/explain.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "policy/words.h"

namespace fbroker::policy {
namespace {

using nlohmann::json;

// Bytes that are no UTF-8 stay what they are: base64 (RFC 4648).
std::string base64(std::string_view bytes) {
  constexpr std::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned bits = 0;
    const std::size_t have = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t j = 0; j < 3; ++j)
      bits = bits << 8 | (j < have ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j)
      out += j <= have ? digits[bits >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

json path_json(const std::string& bytes) {
  json text = bytes;
  try {
    (void)text.dump();  // the library's own check that it is UTF-8
    return text;
  } catch (const json::type_error&) {
    return json{{"b64", base64(bytes)}};
  }
}

// Safe for a shell and a terminal alike.
std::string shell_word(std::string_view bytes) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("/._-+=:,@%").find(c) != std::string_view::npos;
  };
  if (std::ranges::all_of(bytes, plain)) return std::string(bytes);
  std::string out = "$'";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\'' || c == '\\') {
      out += {'\\', c};
    } else if (byte < 0x20 || byte >= 0x7f) {
      constexpr std::string_view digits = "0123456789abcdef";
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    } else {
      out += c;
    }
  }
  return out + "'";
}

// The grant's option that holds the operation and little else.
std::string_view option_for(Operation operation) {
  switch (operation) {
    case Operation::list: return "--ops list";
    case Operation::read:
    case Operation::execute: return "--read";
    case Operation::write:
    case Operation::create:
    case Operation::delete_: return "--write";
  }
  return "--read";
}

}  // namespace

std::string lifting_command(const Snapshot& snapshot, const WorkspacePath& path,
                            Operation operation, const PathDecision& decision) {
  const auto& entry = decision.of(operation);
  if (entry.effect == Effect::allow) return "";
  const Reason reason = snapshot.reason(entry.reason);
  if (reason.id == "match-error") return "";
  // A session deny is lifted by any newer grant; a rule's deny is not.
  const auto grants = snapshot.grants();
  const bool live = std::ranges::any_of(grants, [&](const Grant& g) { return g.id == reason.id; });
  const bool overrides = entry.effect == Effect::deny && entry.reason != 0 && !live;
  std::string command = "fbroker grant ";
  command += shell_word("/workspace" + (path.is_root() ? "" : path.bytes()));
  command += " ";
  command += option_for(operation);
  if (overrides) command += " --override-deny";
  return command + " --for 15m";
}

std::string explain_text(const Snapshot& snapshot, const WorkspacePath& path, Operation operation,
                         const PathDecision& decision) {
  const auto& entry = decision.of(operation);
  const Reason reason = snapshot.reason(entry.reason);
  std::string text(name_of(operation));
  const std::string quoted_path = in_quotes(path.bytes());
  const bool plain = quoted_path.size() == path.bytes().size() + 2;
  text += " " + (plain ? path.bytes() : quoted_path) + ": ";
  text += std::string(name_of(entry.effect)) + ", by " + std::string(reason.id);
  if (!reason.because.empty()) text += " (" + std::string(reason.because) + ")";
  if (entry.guard) text += "\n  it holds for what this session did not itself create";
  if (entry.effect == Effect::ask) text += "\n  a person would be asked";
  if (operation == Operation::list && decision.leads_to_visible)
    text += "\n  as a directory it can still be walked through: something below may be listed";
  const std::string command = lifting_command(snapshot, path, operation, decision);
  if (!command.empty()) text += "\n  a person can lift it: " + command;
  return text;
}

std::string explain_json(const Snapshot& snapshot, const WorkspacePath& path, Operation operation,
                         const PathDecision& decision) {
  const auto& entry = decision.of(operation);
  const Reason reason = snapshot.reason(entry.reason);
  json out = {
      {"path", path_json(path.bytes())},
      {"operation", name_of(operation)},
      {"effect", name_of(entry.effect)},
      {"rule", reason.id},
      {"because", reason.because},
      {"guard", entry.guard},
      {"visible", decision.allows(Operation::list)},
      {"leads_to_visible", decision.leads_to_visible},
  };
  const std::string command = lifting_command(snapshot, path, operation, decision);
  if (!command.empty()) out["lift"] = command;
  return out.dump();
}

}  // namespace fbroker::policy
