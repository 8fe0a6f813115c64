#include "container/agents/profile.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "container/agents/builtin.h"
#include "policy/json_text.h"
#include "policy/network.h"
#include "policy/words.h"

namespace fbroker::container::agents {
namespace {

using nlohmann::json;
using policy::Findings;
using policy::JsonValue;

const json& schema_text() {
  static const json text = json::parse(agent_schema());
  return text;
}

// Owned by the process: compiled once, read by any thread.
const valijson::Schema& schema() {
  static const auto compiled = [] {
    auto made = std::make_unique<valijson::Schema>();
    const valijson::adapters::NlohmannJsonAdapter adapter(schema_text());
    valijson::SchemaParser(valijson::SchemaParser::kDraft7).populateSchema(adapter, *made);
    return made;
  }();
  return *compiled;
}

// A place in the text, and what the schema says of it.
struct Place {
  const JsonValue* value;
  const json* schema;
};

Place step(Place at, std::string_view piece) {
  Place next{nullptr, nullptr};
  if (at.value->type == JsonValue::Type::array) {
    std::size_t index = 0;
    for (const char digit : piece) index = index * 10 + static_cast<std::size_t>(digit - '0');
    if (index < at.value->items.size()) next.value = &at.value->items[index];
  } else {
    next.value = at.value->find(piece);
  }
  const auto member = [&](const char* name) { return at.schema->contains(name) ? &(*at.schema)[name] : nullptr; };
  if (const json* properties = member("properties"); properties != nullptr && properties->contains(piece))
    next.schema = &(*properties)[std::string(piece)];
  else if (const json* items = member("items"); items != nullptr)
    next.schema = items;
  else if (const json* others = member("additionalProperties"); others != nullptr && others->is_object())
    next.schema = others;
  return next;
}

// valijson names places as <root>[program][names][0].
Place follow(const JsonValue& root, const std::vector<std::string>& context) {
  Place at{&root, &schema_text()};
  for (std::size_t i = 1; i < context.size(); ++i) {
    std::string_view piece = context[i];
    if (piece.size() >= 2 && piece.front() == '[') piece = piece.substr(1, piece.size() - 2);
    const Place next = step(at, piece);
    if (next.value == nullptr || next.schema == nullptr) break;
    at = next;
  }
  return at;
}

// Unknown keys first: these words are better than the validator's.
void check_keys(Place at, Findings& findings) {
  if (at.value->type == JsonValue::Type::array && at.schema->contains("items"))
    for (const JsonValue& item : at.value->items) check_keys({&item, &(*at.schema)["items"]}, findings);
  if (at.value->type != JsonValue::Type::object || !at.schema->contains("properties")) return;
  const json& properties = (*at.schema)["properties"];
  std::vector<std::string> names;
  for (const auto& [name, unused] : properties.items()) names.push_back(name);
  const std::vector<std::string_view> known(names.begin(), names.end());
  for (const JsonValue::Member& member : at.value->members) {
    if (properties.contains(member.key))
      check_keys({&member.value, &properties[member.key]}, findings);
    else
      findings.add(member.offset, member.value.pointer, "unknown key; expected " + policy::one_of(known),
                   policy::nearest(member.key, known));
  }
}

void check_schema(std::string_view text, const JsonValue& root, Findings& findings) {
  check_keys({&root, &schema_text()}, findings);
  if (!findings.empty()) return;
  const json parsed = json::parse(text, nullptr, false);
  const valijson::adapters::NlohmannJsonAdapter adapter(parsed);
  valijson::Validator validator;
  valijson::ValidationResults results;
  if (validator.validate(schema(), adapter, &results)) return;
  // The innermost place says it best; those around it repeat that they do not fit.
  std::size_t deepest = 0;
  for (const auto& error : results) deepest = std::max(deepest, error.context.size());
  for (const auto& error : results) {
    if (error.context.size() < deepest) continue;
    const Place at = follow(root, error.context);
    findings.add(at.value->offset, at.value->pointer,
                 "found " + std::string(at.value->type_name()) + ", expected " +
                     at.schema->value("description", std::string("what the schema says")) + " (" +
                     error.description + ")");
  }
}

// What follows reads a text that the schema has accepted.

std::string text_at(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value == nullptr ? "" : value->string;
}

std::vector<std::string> strings_at(const JsonValue& object, std::string_view key) {
  std::vector<std::string> strings;
  if (const JsonValue* value = object.find(key); value != nullptr)
    for (const JsonValue& item : value->items) strings.push_back(item.string);
  return strings;
}

Program read_program(const JsonValue& object) {
  Program program{.names = strings_at(object, "names"),
                  .places = strings_at(object, "places"),
                  .directory = text_at(object, "shows") == "directory",
                  .node = {},
                  .arguments = strings_at(object, "arguments")};
  if (const JsonValue* node = object.find("node"); node != nullptr) program.node = static_cast<int>(node->number);
  return program;
}

Profile read(std::string_view text, const JsonValue& root) {
  Profile profile;
  profile.name = text_at(root, "name");
  profile.title = text_at(root, "title");
  profile.install = text_at(root, "install");
  profile.program = read_program(*root.find("program"));
  profile.state = strings_at(root, "state");
  if (const JsonValue* login = root.find("login"); login != nullptr)
    profile.login = {strings_at(*login, "files"), strings_at(*login, "domains"), text_at(*login, "callback")};
  if (const JsonValue* environment = root.find("environment"); environment != nullptr) {
    profile.pass = strings_at(*environment, "pass");
    if (const JsonValue* set = environment->find("set"); set != nullptr)
      for (const JsonValue::Member& member : set->members) profile.set.emplace_back(member.key, member.value.string);
  }
  if (const JsonValue* settings = root.find("settings"); settings != nullptr) {
    const json parsed = json::parse(text, nullptr, false);
    for (const JsonValue::Member& member : settings->members)
      profile.settings.emplace_back(member.key, parsed["settings"][member.key].dump(2) + "\n");
  }
  profile.domains = strings_at(root, "domains");
  profile.notes = strings_at(root, "notes");
  return profile;
}

// And what follows, what a schema cannot say.

// Calls `check` with each string of root/…/key and adds what it returns.
template <class Check>
void each(const JsonValue& root, std::string_view object, std::string_view key, Findings& findings, Check check) {
  const JsonValue* at = object.empty() ? &root : root.find(object);
  const JsonValue* list = at == nullptr ? nullptr : at->find(key);
  if (list == nullptr) return;
  for (const JsonValue& item : list->items)
    if (std::string wrong = check(item.string); !wrong.empty()) findings.add(item.offset, item.pointer, wrong);
}

template <class Check>
void each_key(const JsonValue* object, Findings& findings, Check check) {
  if (object == nullptr) return;
  for (const JsonValue::Member& member : object->members)
    if (std::string wrong = check(member.key); !wrong.empty()) findings.add(member.offset, member.value.pointer, wrong);
}

bool plain_components(std::string_view path) {
  while (!path.empty()) {
    const std::string_view one = path.substr(0, path.find('/'));
    if (one.empty() || one == "." || one == ".." || one.find('\0') != one.npos) return false;
    if (one.size() == path.size()) return true;
    path.remove_prefix(one.size() + 1);
  }
  return false;
}

bool below(std::string_view path, std::string_view directory) {
  return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
}

std::string wrong_place(const std::string& place) {
  const std::string_view path = std::string_view(place).substr(place.starts_with("~/") ? 2 : 1);
  return plain_components(path) ? "" : "expected a path that starts with \"~/\" or \"/\", without \"..\"";
}

// ATTACK: a profile that somebody passed on names "../other" and gets what
//   another agent keeps, a login included.
std::string wrong_state(const std::string& directory, const std::vector<std::string>& all) {
  if (!plain_components(directory)) return "expected a path relative to HOME, without \".\" and \"..\"";
  for (const std::string& other : all)
    if (below(directory, other)) return "lies in " + policy::in_quotes(other) + ", which is kept already";
  return std::count(all.begin(), all.end(), directory) > 1 ? "stands there twice" : "";
}

std::string wrong_login_file(const std::string& file, const std::vector<std::string>& state) {
  const bool kept = std::any_of(state.begin(), state.end(), [&](const auto& one) { return below(file, one); });
  return plain_components(file) && kept ? "" : "expected a path relative to HOME, in one of the directories of state";
}

std::string wrong_domain(const std::string& domain) {
  const auto parsed = policy::HostPattern::parse(domain);
  return parsed ? "" : parsed.error().text();
}

std::string wrong_settings_name(const std::string& name) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789.-";
  const bool fine = !name.empty() && name.size() <= 64 && name.front() != '.' && name.find_first_not_of(kLetters) == name.npos;
  return fine ? "" : "expected a file's name of lower case letters, digits, \".\" and \"-\"";
}

std::string wrong_variable(const std::string& name) {
  const std::string why = why_no_variable(name);
  return why.empty() ? "" : policy::in_quotes(name) + " " + why;
}

void check_meaning(const JsonValue& root, const Profile& profile, const std::string& file, Findings& findings) {
  if (const auto stem = std::filesystem::path(file).stem().string(); profile.name != stem) {
    const JsonValue& name = *root.find("name");
    findings.add(name.offset, name.pointer,
                 "expected " + policy::in_quotes(stem) + ", the file's own name, found " + policy::in_quotes(profile.name));
  }
  each(root, "program", "places", findings, wrong_place);
  each(root, "", "state", findings, [&](const auto& one) { return wrong_state(one, profile.state); });
  each(root, "login", "files", findings, [&](const auto& one) { return wrong_login_file(one, profile.state); });
  each(root, "login", "domains", findings, wrong_domain);
  each(root, "", "domains", findings, wrong_domain);
  each(root, "environment", "pass", findings, wrong_variable);
  const JsonValue* environment = root.find("environment");
  each_key(environment == nullptr ? nullptr : environment->find("set"), findings, wrong_variable);
  each_key(root.find("settings"), findings, wrong_settings_name);
}

Error as_error(Findings& findings) {
  std::string all;
  for (const policy::Diagnostic& one : findings.take()) all += (all.empty() ? "" : "\n") + one.text();
  return Error{"", all};
}

}  // namespace

Result<Profile> parse_profile(std::string_view text, const std::string& file) {
  if (text.size() > kMaxProfileBytes) return Error{file, "is larger than 64 KiB"};
  Findings findings(text, file);
  JsonValue root;
  if (!policy::parse_json(text, root, findings)) return as_error(findings);
  if (root.type != JsonValue::Type::object)
    findings.add(root.offset, "", "found " + std::string(root.type_name()) + ", expected an object: an agent's profile");
  else
    check_schema(text, root, findings);
  if (!findings.empty()) return as_error(findings);
  Profile profile = read(text, root);
  check_meaning(root, profile, file, findings);
  if (!findings.empty()) return as_error(findings);
  return profile;
}

std::string why_no_variable(std::string_view name) {
  constexpr std::array<std::string_view, 6> kOurs{"PATH", "HOME", "USER", "LOGNAME", "PWD", "SHELL"};
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
  if (name.empty() || name.find_first_not_of(kLetters) != name.npos || (name.front() >= '0' && name.front() <= '9'))
    return "is no variable's name: expected letters, digits and \"_\", not a digit first";
  if (std::find(kOurs.begin(), kOurs.end(), name) != kOurs.end()) return "is set by the sandbox";
  // They reach fbroker-init too, which runs before the agent with all power over the sandbox.
  if (name.starts_with("LD_") || name == "GLIBC_TUNABLES") return "would change how the sandbox's own programs are loaded";
  if (name.starts_with("FBROKER_")) return "belongs to fbroker";
  return "";
}

}  // namespace fbroker::container::agents
