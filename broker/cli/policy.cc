// fbroker policy lint|show|schema: a policy looked at without a broker.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "broker/cli/table.h"
#include "broker/cli/verbs.h"
#include "container/git_tracked.h"
#include "policy/base/unique_fd.h"
#include "policy/lint.h"
#include "policy/words.h"

namespace fbroker::cli {
namespace {

using nlohmann::json;
using namespace fbroker::policy;

constexpr std::size_t kMostShown = 20;              // hidden files, one per line

struct Options {
  std::string file;  // "" = the built-in policy
  std::string root = ".";
  bool as_json = false;
};

// At most one byte more than `max`, so that the caller sees what is too long.
Result<std::string, Errno> read_all(int fd, std::size_t max) {
  std::string text;
  std::array<char, 1 << 16> piece;
  while (text.size() <= max) {
    const ssize_t got = ::read(fd, piece.data(), std::min(piece.size(), max + 1 - text.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Errno::last();
    if (got == 0) break;
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
  return text;
}

// Reads the policy, or says on stderr (or as JSON) what is wrong with it.
std::optional<Policy> load(const Options& options) {
  if (options.file.empty()) return default_policy();
  const UniqueFd fd(::open(options.file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  auto text = fd ? read_all(fd.get(), kMaxPolicyBytes) : Result<std::string, Errno>(Errno::last());
  if (!text) {
    std::cerr << "fbroker: " << options.file << ": " << std::strerror(text.error().value) << "\n";
    return std::nullopt;
  }
  auto policy = parse_policy(*text, options.file);
  if (policy) return std::move(*policy);
  json list = json::array();
  for (const Diagnostic& d : policy.error()) {
    list.push_back({{"file", d.file}, {"pointer", d.pointer}, {"line", d.line},
                    {"column", d.column}, {"message", d.message}, {"suggestion", d.suggestion}});
    if (!options.as_json) std::cerr << d.text() << "\n";
  }
  if (options.as_json) {
    constexpr auto replace = json::error_handler_t::replace;
    std::cout << json{{"errors", list}}.dump(2, ' ', false, replace) << "\n";
  }
  return std::nullopt;
}

// ---- lint

std::string host_directory(const Export& e, const std::string& root) {
  if (e.from == "~" || e.from.starts_with("~/")) {
    const char* home = std::getenv("HOME");
    return (home == nullptr ? "" : home) + e.from.substr(1);
  }
  return (std::filesystem::path(root) / e.from).string();
}

// The export whose place is the longest one above the path.
const Export* export_of(const Policy& policy, const WorkspacePath& path) {
  const Export* best = nullptr;
  for (const Export& e : policy.exports)
    if (path.is_at_or_below(e.at) &&
        (best == nullptr || e.at.bytes().size() > best->at.bytes().size()))
      best = &e;
  return best;
}

std::vector<WorkspacePath> tracked_files(const Policy& policy, const std::string& root) {
  std::vector<WorkspacePath> tracked;
  for (const Export& e : policy.exports) {
    const std::string place = e.at.is_root() ? "/" : e.at.bytes() + "/";
    for (const std::string& name : container::git_tracked(host_directory(e, root))) {
      const auto path = WorkspacePath::parse(place + name);
      if (path && export_of(policy, *path) == &e) tracked.push_back(*path);
    }
  }
  return tracked;
}

void print(const std::vector<Finding>& findings, const std::vector<Hidden>& hidden) {
  for (const Finding& finding : findings)
    std::cout << (finding.level == Finding::Level::warning ? "warning: " : "note: ")
              << finding.rule << ": " << finding.message << "\n";
  if (!hidden.empty())
    std::cout << "note: git tracks " << hidden.size()
              << " file(s) that the policy hides; `git status` in the sandbox shows them as "
                 "deleted:\n";
  for (std::size_t i = 0; i < hidden.size() && i < kMostShown; ++i)
    std::cout << "  " << printable(hidden[i].path.bytes()) << "  (" << hidden[i].rule << ")\n";
  if (hidden.size() > kMostShown)
    std::cout << "  and " << hidden.size() - kMostShown << " more (--json lists all)\n";
  if (findings.empty() && hidden.empty()) std::cout << "nothing to complain about\n";
}

void print_json(const std::vector<Finding>& findings, const std::vector<Hidden>& hidden) {
  json out = {{"findings", json::array()}, {"hidden_tracked", json::array()}};
  for (const Finding& f : findings)
    out["findings"].push_back(
        {{"level", f.level == Finding::Level::warning ? "warning" : "note"},
         {"rule", f.rule}, {"message", f.message}});
  for (const Hidden& h : hidden)
    out["hidden_tracked"].push_back({{"path", in_quotes(h.path.bytes())}, {"rule", h.rule}});
  std::cout << out.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
}

int run_lint(const Options& options) {
  const auto policy = load(options);
  if (!policy) return kUsage;
  const auto snapshot = Snapshot::compile({policy->rules, {}, 1});
  if (!snapshot) {
    std::cerr << "fbroker: " << snapshot.error().text() << "\n";
    return kUsage;
  }
  const auto findings = lint(*policy);
  const auto hidden = hidden_files(**snapshot, tracked_files(*policy, options.root));
  options.as_json ? print_json(findings, hidden) : print(findings, hidden);
  const auto warns = [](const Finding& f) { return f.level == Finding::Level::warning; };
  return std::ranges::any_of(findings, warns) ? kNo : kYes;
}

// ---- show

json operations_json(OperationSet set) {
  json list = json::array();
  for (std::size_t i = 0; i < kOperations; ++i)
    if (set.has(static_cast<Operation>(i))) list.push_back(name_of(static_cast<Operation>(i)));
  return list;
}

// "write", or "list+read" where the set is no level of its effect.
std::string level_text(const Rule& rule) {
  for (const std::string_view level : {"list", "read", "write", "all"})
    if (level_of(rule.effect, level) == rule.operations) return std::string(level);
  std::string text;
  for (const auto& word : operations_json(rule.operations))
    text += (text.empty() ? "" : "+") + word.get<std::string>();
  return text;
}

std::string joined(const std::vector<std::string>& patterns) {
  std::string text;
  for (const std::string& pattern : patterns) {
    const std::string safe = in_quotes(pattern);
    const bool plain = safe.size() == pattern.size() + 2 && pattern.find(' ') == pattern.npos;
    text += " " + (plain ? pattern : safe);
  }
  return text;
}

void show_text(const Policy& policy) {
  for (const Export& e : policy.exports)
    std::cout << "export " << joined({e.at.bytes()}).substr(1) << " = "
              << joined({e.from}).substr(1) << (e.submounts ? ", submounts" : "")
              << (e.static_content ? ", static" : "")
              << (e.agent_is_only_writer ? ", written by the agent alone" : "") << "\n";
  for (const Rule& rule : policy.rules) {
    std::cout << rule.id << ": " << name_of(rule.effect) << " " << level_text(rule)
              << (rule.match ? " match " + in_quotes(*rule.match) : joined(rule.paths)) << "\n";
    const auto except = joined(rule.except) + joined(rule.match_except);
    if (!except.empty()) std::cout << "    except" << except << "\n";
    if (rule.unless_created) std::cout << "    unless this session created it\n";
    if (!rule.because.empty()) std::cout << "    because: " << in_quotes(rule.because) << "\n";
  }
  for (const HostRule& rule : policy.network) {
    std::cout << rule.id << ": reach " << rule.pattern.text();
    if (rule.instead) std::cout << " = " << rule.instead->text();
    if (!rule.instead && rule.tls != TlsCheck::sni) std::cout << ", tls " << name_of(rule.tls);
    std::cout << (rule.because.empty() ? "" : "\n    because: " + in_quotes(rule.because)) << "\n";
  }
  std::cout << "otherwise: deny\n"
            << "durability: " << name_of(policy.durability) << "\n";
}

void show_json(const Policy& policy) {
  json out = {{"exports", json::array()}, {"rules", json::array()}, {"network", json::array()},
              {"durability", name_of(policy.durability)}};
  for (const Export& e : policy.exports)
    out["exports"].push_back({{"at", e.at.bytes()}, {"from", e.from}, {"submounts", e.submounts},
                              {"static", e.static_content},
                              {"writer", e.agent_is_only_writer ? "agent" : "anyone"}});
  for (const Rule& rule : policy.rules) {
    json one = {{"id", rule.id}, {"effect", name_of(rule.effect)},
                {"operations", operations_json(rule.operations)}, {"because", rule.because},
                {"except", rule.except}, {"unless_created", rule.unless_created}};
    if (rule.match) {
      one["match"] = *rule.match;
      one["match_except"] = rule.match_except;
    } else {
      one["paths"] = rule.paths;
    }
    out["rules"].push_back(std::move(one));
  }
  for (const HostRule& rule : policy.network) {
    json one = {{"id", rule.id}, {"host", rule.pattern.text()}, {"port", rule.pattern.port},
                {"tls", name_of(rule.tls)}, {"because", rule.because}};
    if (rule.instead) one["instead"] = rule.instead->text();
    out["network"].push_back(std::move(one));
  }
  std::cout << out.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
}

int run_show(const Options& options) {
  const auto policy = load(options);
  if (!policy) return kUsage;
  options.as_json ? show_json(*policy) : show_text(*policy);
  return kYes;
}

void add_options(CLI::App& verb, Options& options) {
  verb.add_option("FILE", options.file, "the policy; left out: the built-in one");
  verb.add_flag("--json", options.as_json, "print JSON");
}

}  // namespace

void add_policy(CLI::App& app, int& status) {
  auto* policy = app.add_subcommand("policy", "look at a policy without running anything");
  policy->require_subcommand(1);
  const auto options = std::make_shared<Options>();

  auto* lint_verb = policy->add_subcommand(
      "lint", "say what looks wrong, and which tracked files it hides (0 fine, 1 warnings, 2 invalid)");
  add_options(*lint_verb, *options);
  lint_verb->add_option("--root", options->root, "what `from` is relative to");
  lint_verb->callback([options, &status] { status = run_lint(*options); });

  auto* show_verb = policy->add_subcommand("show", "print every rule in force, the base rules too");
  add_options(*show_verb, *options);
  show_verb->callback([options, &status] { status = run_show(*options); });

  auto* schema_verb = policy->add_subcommand("schema", "print the JSON Schema of a policy");
  schema_verb->callback([&status] {
    std::cout << policy_schema();
    status = kYes;
  });
}

}  // namespace fbroker::cli
