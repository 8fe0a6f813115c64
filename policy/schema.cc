#include "policy/schema.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

namespace fbroker::policy {
namespace {

// The same text lies in policy/policy.schema.json for editors; a test compares.
constexpr std::string_view kSchema = R"schema({
  "$schema": "http://json-schema.org/draft-07/schema#",
  "$id": "https://fbroker.dev/policy.schema.json",
  "title": "fbroker policy",
  "description": "What an agent may see and change below /workspace, until a person grants more.",
  "type": "object",
  "required": ["version"],
  "additionalProperties": false,
  "properties": {
    "$schema": { "type": "string" },
    "version": { "description": "The format's version.", "enum": [1] },
    "exports": {
      "description": "Host directories and files, and where they appear. Left out: the run's root at /.",
      "type": "array",
      "minItems": 1,
      "maxItems": 256,
      "items": { "$ref": "#/definitions/export" }
    },
    "rules": {
      "description": "In any order: a matching deny wins, then ask, then allow; the rest is denied.",
      "type": "array",
      "maxItems": 20000,
      "items": { "$ref": "#/definitions/rule" }
    },
    "network": {
      "description": "What may be reached through the egress gate. Left out or empty: nothing.",
      "type": "object",
      "additionalProperties": false,
      "properties": {
        "allow": { "type": "array", "maxItems": 1000, "items": { "$ref": "#/definitions/host" } },
        "aliases": {
          "description": "A name and port inside, and the address and port that are reached by it.",
          "type": "object",
          "maxProperties": 64,
          "additionalProperties": { "type": "string", "minLength": 1 }
        }
      }
    },
    "durability": {
      "description": "strict: opens and changes wait until their audit record is on disk (normal: in the kernel's hands).",
      "enum": ["normal", "strict"]
    },
    "base": {
      "description": "Shipped rules to switch off or to narrow, by id.",
      "type": "object",
      "additionalProperties": false,
      "properties": {
        "env": { "$ref": "#/definitions/base" },
        "ssh": { "$ref": "#/definitions/base" },
        "gnupg": { "$ref": "#/definitions/base" },
        "keys": { "$ref": "#/definitions/base" },
        "cloud": { "$ref": "#/definitions/base" },
        "netrc": { "$ref": "#/definitions/base" },
        "registry": { "$ref": "#/definitions/base" },
        "keychain": { "$ref": "#/definitions/base" },
        "browser": { "$ref": "#/definitions/base" },
        "history": { "$ref": "#/definitions/base" },
        "login": { "$ref": "#/definitions/base" },
        "git": { "$ref": "#/definitions/base" },
        "hg": { "$ref": "#/definitions/base" },
        "jj": { "$ref": "#/definitions/base" },
        "husky": { "$ref": "#/definitions/base" },
        "editor": { "$ref": "#/definitions/base" },
        "direnv": { "$ref": "#/definitions/base" },
        "shellrc": { "$ref": "#/definitions/base" },
        "agent": { "$ref": "#/definitions/base" }
      }
    }
  },
  "definitions": {
    "export": {
      "type": "object",
      "required": ["at", "from"],
      "additionalProperties": false,
      "properties": {
        "at": { "description": "Workspace path.", "type": "string", "pattern": "^/" },
        "from": { "description": "Host path: relative to the run's root, ~/... or absolute.", "type": "string", "minLength": 1 },
        "submounts": { "description": "Show file systems that are mounted below.", "type": "boolean" },
        "static": { "description": "Nothing on the host changes it: no watching needed.", "type": "boolean" },
        "writer": { "description": "Who writes: anyone (the default), or only the agent.", "enum": ["agent", "anyone"] }
      }
    },
    "pattern": {
      "description": "A path (it and everything below), or one with *, ?, [...] and **.",
      "type": "string",
      "pattern": "^(/|\\*\\*/)"
    },
    "place": {
      "description": "A pattern, or (with allow) a preset: preset:git, preset:node, preset:python, preset:rust.",
      "type": "string",
      "pattern": "^(/|\\*\\*/|preset:)"
    },
    "host": {
      "description": "A domain: api.example.com, *.example.com (what is below it), with :PORT where it is not 443; a preset.",
      "anyOf": [
        { "type": "string", "minLength": 1 },
        {
          "type": "object",
          "required": ["host"],
          "additionalProperties": false,
          "properties": {
            "host": { "type": "string", "minLength": 1 },
            "tls": {
              "description": "sni: a TLS connection that names this host; no-sni: or that names none; off: anything.",
              "enum": ["sni", "no-sni", "off"]
            },
            "because": { "type": "string", "maxLength": 200 }
          }
        }
      ]
    },
    "patterns": { "type": "array", "minItems": 1, "items": { "$ref": "#/definitions/pattern" } },
    "operations": {
      "type": "array",
      "minItems": 1,
      "uniqueItems": true,
      "items": { "enum": ["list", "read", "write", "create", "delete", "execute"] }
    },
    "strict": { "anyOf": [ { "enum": ["read", "write", "all"] }, { "$ref": "#/definitions/operations" } ] },
    "rule": {
      "type": "object",
      "additionalProperties": false,
      "allOf": [
        { "oneOf": [ { "required": ["allow"] }, { "required": ["ask"] }, { "required": ["deny"] } ] },
        { "oneOf": [ { "required": ["paths"] }, { "required": ["match"] } ] }
      ],
      "dependencies": { "match_except": ["match"] },
      "properties": {
        "allow": { "anyOf": [ { "enum": ["list", "read", "write"] }, { "$ref": "#/definitions/operations" } ] },
        "ask": { "$ref": "#/definitions/strict" },
        "deny": { "$ref": "#/definitions/strict" },
        "paths": { "type": "array", "minItems": 1, "items": { "$ref": "#/definitions/place" } },
        "match": { "description": "RE2 expression over the whole path, as bytes.", "type": "string", "minLength": 1 },
        "except": { "description": "Patterns for which the rule does not hold.", "$ref": "#/definitions/patterns" },
        "match_except": { "description": "RE2 expressions for which it does not hold.", "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1 } },
        "because": { "description": "Shown to whoever is refused.", "type": "string", "maxLength": 200 }
      }
    },
    "base": {
      "anyOf": [
        { "enum": ["on", "off"] },
        {
          "type": "object",
          "required": ["except"],
          "additionalProperties": false,
          "properties": { "except": { "$ref": "#/definitions/patterns" } }
        }
      ]
    }
  }
}
)schema";

// Owned by the process: compiled once, read by any thread.
const valijson::Schema& compiled() {
  static const auto schema = [] {
    auto made = std::make_unique<valijson::Schema>();
    const auto json = nlohmann::json::parse(policy_schema());
    const valijson::adapters::NlohmannJsonAdapter adapter(json);
    valijson::SchemaParser(valijson::SchemaParser::kDraft7).populateSchema(adapter, *made);
    return made;
  }();
  return *schema;
}

// valijson names places as <root>[rules][0][allow].
const JsonValue& follow(const JsonValue& root, const std::vector<std::string>& context) {
  const JsonValue* at = &root;
  for (std::size_t i = 1; i < context.size(); ++i) {
    std::string_view piece = context[i];
    if (piece.size() >= 2 && piece.front() == '[') piece = piece.substr(1, piece.size() - 2);
    const JsonValue* next = at->find(piece);
    if (at->type == JsonValue::Type::array) {
      std::size_t index = 0;
      for (const char digit : piece) index = index * 10 + static_cast<std::size_t>(digit - '0');
      if (index < at->items.size()) next = &at->items[index];
    }
    if (next == nullptr) break;
    at = next;
  }
  return *at;
}

}  // namespace

std::string_view policy_schema() { return kSchema; }

void check_schema(std::string_view text, const JsonValue& root, Findings& findings) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const valijson::adapters::NlohmannJsonAdapter adapter(json);
  valijson::Validator validator;
  valijson::ValidationResults results;
  if (validator.validate(compiled(), adapter, &results)) return;
  for (const auto& error : results) {
    const JsonValue& at = follow(root, error.context);
    findings.add(at.offset, at.pointer, "does not fit the schema: " + error.description);
  }
}

}  // namespace fbroker::policy
