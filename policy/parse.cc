// Reads a policy text by hand, for the sake of its words: every error names the
// place, what was found, what was expected and the nearest valid word.
#include <algorithm>
#include <optional>
#include <set>

#include "policy/base_rules.h"
#include "policy/glob.h"
#include "policy/json_text.h"
#include "policy/match_set.h"
#include "policy/policy.h"
#include "policy/presets.h"
#include "policy/schema.h"
#include "policy/words.h"

namespace fbroker::policy {
namespace {

using Type = JsonValue::Type;
using Words = std::span<const std::string_view>;

constexpr std::size_t kMaxExports = 256;
constexpr std::size_t kMaxRules = 20000;
constexpr std::size_t kMaxBecause = 200;

constexpr std::size_t kMaxHosts = 1000;
constexpr std::size_t kMaxAliases = 64;

constexpr std::array<std::string_view, 7> kTopKeys{"version", "exports",    "rules",  "base",
                                                   "network", "durability", "$schema"};
constexpr std::array<std::string_view, 2> kNetworkKeys{"allow", "aliases"};
constexpr std::array<std::string_view, 3> kHostKeys{"host", "tls", "because"};
constexpr std::array<std::string_view, 3> kTlsChecks{"sni", "no-sni", "off"};
constexpr std::array<std::string_view, 5> kExportKeys{"at", "from", "submounts", "static",
                                                      "writer"};
constexpr std::array<std::string_view, 8> kRuleKeys{"allow",  "ask",          "deny",    "paths",
                                                    "except", "match", "match_except", "because"};
constexpr std::array<std::string_view, 1> kBaseKeys{"except"};
constexpr std::array<std::string_view, 2> kSwitch{"off", "on"};
constexpr std::array<std::string_view, 2> kWriters{"agent", "anyone"};
constexpr std::array<std::string_view, 2> kDurabilities{"normal", "strict"};
constexpr std::array<std::string_view, 3> kAllowLevels{"list", "read", "write"};
constexpr std::array<std::string_view, 3> kStrictLevels{"read", "write", "all"};
constexpr std::array<std::string_view, kOperations> kOperationWords{
    "list", "read", "write", "create", "delete", "execute"};
constexpr std::array<Effect, 3> kEffects{Effect::allow, Effect::ask, Effect::deny};

class Reader {
 public:
  explicit Reader(Findings& findings) : findings_(findings) {}

  Policy policy(const JsonValue& root) {
    Policy policy;
    if (!expect(root, Type::object, "an object with \"version\", \"exports\" and \"rules\""))
      return policy;
    known_keys(root, kTopKeys);
    version(root);
    policy.exports = exports(root);
    if (const JsonValue* list = root.find("rules")) policy.rules = rules(*list);
    add_base(root.find("base"), policy.rules);
    if (const JsonValue* section = root.find("network")) policy.network = network(*section);
    if (const JsonValue* value = root.find("durability")) durability(*value, policy);
    if (const JsonValue* schema = root.find("$schema")) expect(*schema, Type::string, "a string");
    return policy;
  }

 private:
  void complain(const JsonValue& at, std::string message, std::string suggestion = {}) {
    findings_.add(at.offset, at.pointer, std::move(message), std::move(suggestion));
  }

  bool expect(const JsonValue& value, Type type, std::string_view expected) {
    if (value.type == type) return true;
    complain(value, "found " + std::string(value.type_name()) + ", expected " +
                        std::string(expected));
    return false;
  }

  void known_keys(const JsonValue& object, Words known) {
    for (const auto& member : object.members) {
      if (std::ranges::find(known, member.key) != known.end()) continue;
      findings_.add(member.offset, member.value.pointer,
                    "unknown key " + in_quotes(member.key) + "; expected " + one_of(known),
                    nearest(member.key, known));
    }
  }

  void unknown_word(const JsonValue& at, std::string_view what, Words known) {
    complain(at, "unknown " + std::string(what) + " " + in_quotes(at.string) + "; expected " +
                     one_of(known),
             nearest(at.string, known));
  }

  const JsonValue* required(const JsonValue& object, std::string_view key, Type type,
                            std::string_view expected) {
    const JsonValue* value = object.find(key);
    if (value == nullptr) {
      complain(object, "\"" + std::string(key) + "\" is missing; expected " +
                           std::string(expected));
      return nullptr;
    }
    return expect(*value, type, expected) ? value : nullptr;
  }

  void version(const JsonValue& root) {
    const JsonValue* value = required(root, "version", Type::number, "the number 1");
    if (value != nullptr && value->number != 1)
      complain(*value, "this version of the format is not known; expected 1");
  }

  void durability(const JsonValue& value, Policy& policy) {
    if (!expect(value, Type::string, one_of(kDurabilities))) return;
    if (std::ranges::find(kDurabilities, value.string) == kDurabilities.end())
      unknown_word(value, "durability", kDurabilities);
    if (value.string == name_of(Durability::strict)) policy.durability = Durability::strict;
  }

  // ---- exports

  std::vector<Export> exports(const JsonValue& root) {
    const JsonValue* list = root.find("exports");
    if (list == nullptr) return {Export{WorkspacePath(), "."}};
    std::vector<Export> exports;
    if (!expect(*list, Type::array, "a list of exports")) return exports;
    if (list->items.empty()) complain(*list, "the list is empty; expected at least one export");
    if (list->items.size() > kMaxExports) complain(*list, "more than 256 exports");
    std::set<WorkspacePath> taken;
    for (const JsonValue& item : list->items)
      if (auto made = export_(item, taken)) exports.push_back(std::move(*made));
    return exports;
  }

  std::optional<Export> export_(const JsonValue& item, std::set<WorkspacePath>& taken) {
    if (!expect(item, Type::object, "an object with \"at\" and \"from\"")) return std::nullopt;
    known_keys(item, kExportKeys);
    Export out;
    const JsonValue* at = required(item, "at", Type::string, "a workspace path such as \"/docs\"");
    const JsonValue* from =
        required(item, "from", Type::string, "a host path such as \".\" or \"~/docs\"");
    flag(item, "submounts", out.submounts);
    flag(item, "static", out.static_content);
    writer(item, out);
    const bool placed = at != nullptr && place(*at, taken, out.at);
    if (from == nullptr || !host_path(*from) || !placed) return std::nullopt;
    out.from = from->string;
    return out;
  }

  bool place(const JsonValue& at, std::set<WorkspacePath>& taken, WorkspacePath& out) {
    const auto path = WorkspacePath::parse(at.string);
    if (!path) {
      complain(at, in_quotes(at.string) + " is no workspace path; expected \"/\" and names between "
                                       "single slashes, without \".\" or \"..\"");
      return false;
    }
    if (path->is_at_or_below(*WorkspacePath::parse("/.fbroker"))) {
      complain(at, "\"/.fbroker\" is where granted files appear; expected another place");
      return false;
    }
    if (!taken.insert(*path).second) {
      complain(at, in_quotes(at.string) + " is already the place of another export");
      return false;
    }
    out = *path;
    return true;
  }

  bool host_path(const JsonValue& from) {
    const std::string& path = from.string;
    if (path.empty() || path.find('\0') != path.npos) {
      complain(from, "expected a host path: relative to the run's root, \"~/...\" or absolute");
      return false;
    }
    if (path.front() == '~' && path != "~" && !path.starts_with("~/")) {
      complain(from, "only one's own home can be written with \"~\"; expected \"~/...\" or an "
                     "absolute path");
      return false;
    }
    return true;
  }

  void flag(const JsonValue& item, std::string_view key, bool& out) {
    const JsonValue* value = item.find(key);
    if (value != nullptr && expect(*value, Type::boolean, "true or false")) out = value->boolean;
  }

  void writer(const JsonValue& item, Export& out) {
    const JsonValue* value = item.find("writer");
    if (value == nullptr || !expect(*value, Type::string, one_of(kWriters))) return;
    if (std::ranges::find(kWriters, value->string) == kWriters.end())
      unknown_word(*value, "writer", kWriters);
    out.agent_is_only_writer = value->string == "agent";
  }

  // ---- rules

  std::vector<Rule> rules(const JsonValue& list) {
    std::vector<Rule> rules;
    if (!expect(list, Type::array, "a list of rules")) return rules;
    if (list.items.size() > kMaxRules) {
      complain(list, "more than 20000 rules");
      return rules;
    }
    for (const JsonValue& item : list.items)
      if (expect(item, Type::object, "a rule: an object with \"allow\", \"ask\" or \"deny\""))
        rules.push_back(rule(item));
    return rules;
  }

  Rule rule(const JsonValue& item) {
    Rule rule;
    rule.id = "policy:" + item.pointer;
    known_keys(item, kRuleKeys);
    effect(item, rule);
    subject(item, rule);
    if (const JsonValue* except = item.find("except")) patterns(*except, rule.except);
    rule.because = because(item);
    return rule;
  }

  void effect(const JsonValue& item, Rule& rule) {
    const JsonValue* value = nullptr;
    for (const Effect effect : kEffects) {
      const JsonValue* found = item.find(name_of(effect));
      if (found != nullptr && value != nullptr) {
        complain(*found, "a rule has one of \"allow\", \"ask\" and \"deny\", this one has two");
        return;
      }
      if (found == nullptr) continue;
      value = found;
      rule.effect = effect;
    }
    if (value == nullptr) {
      // A misspelled key was already reported; a second complaint adds nothing.
      const bool misspelled = std::ranges::any_of(item.members, [](const auto& member) {
        return std::ranges::find(kRuleKeys, member.key) == kRuleKeys.end();
      });
      if (!misspelled) complain(item, "a rule needs one of \"allow\", \"ask\" or \"deny\"");
      return;
    }
    rule.operations = operations(*value, rule.effect);
  }

  OperationSet operations(const JsonValue& value, Effect effect) {
    const Words levels = effect == Effect::allow ? Words(kAllowLevels) : Words(kStrictLevels);
    if (value.type == Type::array) return operation_list(value);
    if (!expect(value, Type::string, one_of(levels) + ", or a list of operations")) return {};
    if (const auto level = level_of(effect, value.string)) return *level;
    complain(value, "unknown level " + in_quotes(value.string) + " for \"" +
                        std::string(name_of(effect)) + "\"; expected " + one_of(levels) +
                        ", or a list of operations",
             operation_named(value.string) ? "[\"" + value.string + "\"]"
                                           : nearest(value.string, levels));
    return {};
  }

  OperationSet operation_list(const JsonValue& list) {
    OperationSet set;
    if (list.items.empty()) complain(list, "the list is empty; expected operations");
    for (const JsonValue& item : list.items) {
      if (!expect(item, Type::string, one_of(kOperationWords))) continue;
      const auto operation = operation_named(item.string);
      if (!operation)
        unknown_word(item, "operation", kOperationWords);
      else if (set.has(*operation))
        complain(item, "the operation " + in_quotes(item.string) + " stands twice in this list");
      else
        set.add(*operation);
    }
    return set;
  }

  // What the rule is about: paths, or a match.
  void subject(const JsonValue& item, Rule& rule) {
    const JsonValue* paths = item.find("paths");
    const JsonValue* match = item.find("match");
    const JsonValue* match_except = item.find("match_except");
    if (paths != nullptr && match != nullptr)
      complain(*match, "a rule has \"paths\" or \"match\", not both");
    if (paths == nullptr && match == nullptr)
      complain(item, "a rule needs \"paths\" (patterns) or \"match\" (an expression)");
    if (paths != nullptr) patterns(*paths, rule.paths, rule.effect == Effect::allow ? Presets::taken : Presets::refused);
    if (match != nullptr && expression(*match, rule.effect != Effect::allow))
      rule.match = match->string;
    if (match_except == nullptr) return;
    if (match == nullptr)
      complain(*match_except, "\"match_except\" belongs to \"match\"; expected \"except\"");
    if (!expect(*match_except, Type::array, "a list of expressions")) return;
    if (match_except->items.empty()) complain(*match_except, "the list is empty");
    for (const JsonValue& except : match_except->items)
      if (expression(except, true)) rule.match_except.push_back(except.string);
  }

  enum class Presets { refused, taken };

  void patterns(const JsonValue& list, std::vector<std::string>& out, Presets presets = Presets::refused) {
    if (!expect(list, Type::array, "a list of patterns such as [\"/src\", \"**/*.md\"]")) return;
    if (list.items.empty()) complain(list, "the list is empty; expected patterns");
    for (const JsonValue& item : list.items) {
      if (!expect(item, Type::string, "a pattern such as \"/src\" or \"**/*.md\"")) continue;
      if (is_preset(item.string)) {
        if (presets == Presets::refused)
          complain(item, "a preset stands among the paths of an \"allow\" or in network.allow, not here");
        else if (const Preset* preset = known_preset(item))
          out.insert(out.end(), preset->paths.begin(), preset->paths.end());
        continue;
      }
      const auto glob = parse_glob(item.string);
      if (!glob) complain(item, glob.error().what);
      else out.push_back(item.string);
    }
  }

  bool expression(const JsonValue& value, bool below) {
    if (!expect(value, Type::string, "an RE2 expression over the whole path")) return false;
    if (value.string.empty()) {
      complain(value, "an empty expression matches no path");
      return false;
    }
    const auto added = MatchSet().add(value.string, below);
    if (!added) complain(value, added.error().what);
    return added.has_value();
  }

  std::string because(const JsonValue& item) {
    const JsonValue* value = item.find("because");
    if (value == nullptr || !expect(*value, Type::string, "words for whoever is refused")) return "";
    if (value->string.size() > kMaxBecause) complain(*value, "longer than 200 bytes");
    return value->string;
  }

  const Preset* known_preset(const JsonValue& item) {
    const Preset* preset = preset_named(item.string);
    if (preset == nullptr) unknown_word(item, "preset", preset_words());
    return preset;
  }

  // ---- network

  std::vector<HostRule> network(const JsonValue& section) {
    std::vector<HostRule> rules;
    if (!expect(section, Type::object, "an object with \"allow\" and \"aliases\"")) return rules;
    known_keys(section, kNetworkKeys);
    if (const JsonValue* list = section.find("allow"))
      if (expect(*list, Type::array, "a list of domains such as [\"api.example.com\"]")) allowed_hosts(*list, rules);
    if (const JsonValue* names = section.find("aliases"))
      if (expect(*names, Type::object, "an object such as {\"llm.local:11434\": \"127.0.0.1:11434\"}"))
        aliases(*names, rules);
    return rules;
  }

  void allowed_hosts(const JsonValue& list, std::vector<HostRule>& rules) {
    if (list.items.size() > kMaxHosts) complain(list, "more than 1000 entries");
    for (const JsonValue& item : list.items) {
      if (item.type == Type::string && is_preset(item.string)) {
        preset_hosts(item, rules);
        continue;
      }
      HostRule rule{.id = "policy:" + item.pointer};
      const JsonValue* host = &item;
      if (item.type == Type::object) host = host_object(item, rule);
      else if (!expect(item, Type::string, "a domain such as \"api.example.com\", or an object with \"host\"")) continue;
      if (host != nullptr && host_pattern(*host, rule)) rules.push_back(std::move(rule));
    }
  }

  const JsonValue* host_object(const JsonValue& item, HostRule& rule) {
    known_keys(item, kHostKeys);
    if (const JsonValue* tls = item.find("tls"); tls != nullptr && expect(*tls, Type::string, one_of(kTlsChecks))) {
      const auto check = tls_check_named(tls->string);
      if (!check) unknown_word(*tls, "check", kTlsChecks);
      rule.tls = check.value_or(TlsCheck::sni);
    }
    rule.because = because(item);
    return required(item, "host", Type::string, "a domain such as \"api.example.com\"");
  }

  bool host_pattern(const JsonValue& host, HostRule& rule) {
    auto pattern = HostPattern::parse(host.string);
    if (!pattern) return complain(host, pattern.error().text()), false;
    rule.pattern = std::move(*pattern);
    if (rule.pattern.host.is_name() || rule.tls != TlsCheck::sni) return true;
    complain(host, "an address has no server name to check; expected {\"host\": " + in_quotes(host.string) +
                       ", \"tls\": \"no-sni\"} (or \"off\")");
    return false;
  }

  void preset_hosts(const JsonValue& item, std::vector<HostRule>& rules) {
    const Preset* preset = known_preset(item);
    if (preset == nullptr) return;
    for (const std::string_view domain : preset->domains)
      rules.push_back({.id = std::string(preset->word), .pattern = HostPattern::parse(domain).value()});
  }

  void aliases(const JsonValue& names, std::vector<HostRule>& rules) {
    if (names.members.size() > kMaxAliases) complain(names, "more than 64 aliases");
    for (const auto& [key, offset, value] : names.members) {
      if (!expect(value, Type::string, "an address and port such as \"127.0.0.1:11434\"")) continue;
      auto rule = alias_rule(key, value.string);
      if (!rule) findings_.add(offset, value.pointer, rule.error().text());
      else rules.push_back(std::move(*rule)), rules.back().id = "policy:" + value.pointer;
    }
  }

  // ---- base rules

  void add_base(const JsonValue* section, std::vector<Rule>& rules) {
    const std::vector<std::string_view> ids = base_ids();
    if (section != nullptr && expect(*section, Type::object, "an object of base rules' ids"))
      known_base(*section, ids);
    for (const BaseRule& base : base_rules()) {
      const JsonValue* setting = section == nullptr ? nullptr : section->find(base.id);
      if (setting != nullptr && setting->type == Type::string && setting->string == "off") continue;
      std::vector<std::string> except;
      if (setting != nullptr && setting->type == Type::object)
        if (const JsonValue* list = setting->find("except"))
          for (const JsonValue& item : list->items) except.push_back(item.string);
      rules.push_back(to_rule(base, except));
    }
  }

  void known_base(const JsonValue& section, Words ids) {
    for (const auto& [key, offset, value] : section.members) {
      if (std::ranges::find(ids, key) == ids.end()) {
        findings_.add(offset, value.pointer,
                      "unknown base rule " + in_quotes(key) + "; expected " + one_of(ids),
                      nearest(key, ids));
        continue;
      }
      base_setting(value);
    }
  }

  void base_setting(const JsonValue& value) {
    if (value.type == Type::string) {
      if (std::ranges::find(kSwitch, value.string) == kSwitch.end())
        unknown_word(value, "setting", kSwitch);
      return;
    }
    if (!expect(value, Type::object, "\"off\", \"on\" or {\"except\": [...]}")) return;
    known_keys(value, kBaseKeys);
    std::vector<std::string> except;
    if (const JsonValue* list = required(value, "except", Type::array, "a list of patterns"))
      patterns(*list, except);
  }

  Findings& findings_;
};

}  // namespace

std::string Diagnostic::text() const {
  std::string out = file.empty() ? "policy" : file;
  if (line > 0) out += ":" + std::to_string(line) + ":" + std::to_string(column);
  out += ": ";
  if (!pointer.empty()) out += pointer + ": ";
  out += message;
  if (!suggestion.empty())
    out += suggestion.starts_with('[') ? "; did you mean " + suggestion + "?"
                                       : "; did you mean \"" + suggestion + "\"?";
  return out;
}

Policy default_policy() {
  Policy policy;
  policy.exports = {Export{WorkspacePath(), "."}};
  Rule allow;
  allow.id = "builtin:/rules/0";
  allow.effect = Effect::allow;
  allow.operations = *level_of(Effect::allow, "write");
  allow.paths = {"/"};
  allow.because = "the current directory";
  policy.rules.push_back(std::move(allow));
  for (const BaseRule& base : base_rules()) policy.rules.push_back(to_rule(base));
  return policy;
}

Result<Policy, std::vector<Diagnostic>> parse_policy(std::string_view text, std::string file,
                                                     std::size_t max_bytes) {
  Findings findings(text, file);
  if (text.size() > max_bytes) {
    findings.add(0, "", "the text has " + std::to_string(text.size()) + " bytes, at most " +
                            std::to_string(max_bytes) + " are read");
    return findings.take();
  }
  JsonValue root;
  if (!parse_json(text, root, findings)) return findings.take();
  Policy policy = Reader(findings).policy(root);
  if (findings.empty()) check_schema(text, root, findings);
  if (!findings.empty()) return findings.take();
  policy.source = std::move(file);
  return policy;
}

}  // namespace fbroker::policy
