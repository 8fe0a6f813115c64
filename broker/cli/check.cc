// fbroker check PATH OP: may it happen, and which rule says so?
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "broker/cli/person.h"
#include "broker/cli/table.h"
#include "broker/cli/verbs.h"
#include "broker/control/person_path.h"
#include "broker/sessions/runtime_dir.h"
#include "broker/sessions/session.h"
#include "policy/explain.h"

namespace fbroker::cli {

namespace {

struct CheckOptions {
  std::string session, path, operation, policy, root, domain;
  bool as_json = false;
};

int status_of(const std::string& decision) {
  return decision == "allow" ? kYes : decision == "ask" ? kWouldBeAsked : kNo;
}

// "/src/main.c" is a path of the host's; the agent's begins with /workspace.
std::string workspace_hint(const std::string& path) {
  if (!path.starts_with('/') || path.starts_with("/workspace")) return "";
  return "; as the agent sees it: " + shown("/workspace" + path);
}

int check_domain_offline(const CheckOptions& options, const policy::Policy& policy) {
  const auto target = policy::Endpoint::parse(options.domain, policy::kHttpsPort);
  if (!target) return told({kUsage, "--domain " + target.error().text(), ""}, false);
  const auto decision = policy::NetworkRules(policy.network, false).decide(target->host, target->port);
  const std::string effect = decision.allowed ? "allow" : "deny";
  if (options.as_json)
    std::printf("%s\n", nlohmann::json{{"decision", effect}, {"operation", "connect"}, {"path", target->text()},
                                       {"rule", decision.rule}, {"because", decision.because}}.dump().c_str());
  else
    std::printf("connect %s: %s, by %s%s\n", target->text().c_str(), effect.c_str(), decision.rule.c_str(),
                decision.because.empty() ? "" : (" (" + shown(decision.because) + ")").c_str());
  return status_of(effect);
}

// Without a broker: what the file says, on a tree that starts at --root.
int check_offline(const CheckOptions& options, const std::string& cwd) {
  const auto usage = [](const std::string& what) { return told({kUsage, what, ""}, false); };
  const auto text = broker::read_text_file(options.policy, 16 << 20);
  if (!text) return usage(text.error().text());
  auto policy = policy::parse_policy(*text, options.policy);
  if (!policy) {
    for (const auto& diagnostic : policy.error()) std::fprintf(stderr, "%s\n", printable_words(diagnostic.text()).c_str());
    return kUsage;
  }
  if (!options.domain.empty()) return check_domain_offline(options, *policy);
  const auto operation = policy::operation_named(options.operation);
  if (!operation) return usage("OP: \"" + options.operation + "\" is none of list, read, write, create, delete, execute");
  const std::string home = broker::home_directory();
  const auto exports = broker::ExportTable::build({options.root.empty() ? cwd : options.root, home, policy->exports, {}});
  if (!exports) return usage(exports.error().text());
  const auto placed = control::place({options.path, cwd, home}, **exports);
  if (!placed) return usage(placed.error().text());
  if (placed->outside)
    return std::printf("deny: %s lies in no export%s\n", shown(placed->host).c_str(), workspace_hint(options.path).c_str()), kNo;
  policy::SnapshotInput input;
  input.rules = std::move(policy->rules);
  const auto snapshot = policy::Snapshot::compile(std::move(input));
  if (!snapshot) return usage(snapshot.error().text());
  const auto decision = (*snapshot)->decide(placed->path);
  const auto words = options.as_json ? policy::explain_json(**snapshot, placed->path, *operation, decision)
                                     : policy::explain_text(**snapshot, placed->path, *operation, decision);
  std::printf("%s\n", (options.as_json ? printable_json(words) : printable_words(words)).c_str());
  return status_of(std::string(policy::name_of(decision.of(*operation).effect)));
}

int check(const CheckOptions& options) {
  const std::string cwd = current_directory();
  if (options.domain.empty() == (options.path.empty() || options.operation.empty()))
    return told({kUsage, "say what: PATH and OP, or --domain D", ""}, false);
  if (!options.policy.empty()) return check_offline(options, cwd);
  const auto client = control::ControlClient::find(options.session);
  if (!client) return told(client.error(), options.as_json);
  const auto checked = client->check({options.session, options.path, cwd, broker::home_directory(), options.operation, options.domain});
  if (!checked) return told(checked.error(), options.as_json);
  const auto answer = nlohmann::json::parse(checked->json, nullptr, false);
  const std::string words = answer.is_object() ? answer.value("words", "") : "";
  if (options.as_json) std::printf("%s\n", printable_json(checked->json).c_str());
  else if (!words.empty()) std::printf("%s\n", printable_words(words).c_str());
  else std::printf("%s: %s (%s)%s\n", checked->decision.c_str(), shown(checked->path).c_str(), shown(checked->because).c_str(),
                   workspace_hint(options.path).c_str());
  return status_of(checked->decision);
}

}  // namespace

void add_check(CLI::App& app, int& status) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* verb = app.add_subcommand("check", "Whether an operation or a connection is allowed, and by which rule");
  verb->add_option("PATH", options->path, "as your shell knows it, or as the agent sees it (/workspace/…)");
  verb->add_option("OP", options->operation, "list, read, write, create, delete or execute");
  verb->add_option("--domain", options->domain, "instead: whether host[:port] may be reached");
  verb->add_option("--policy", options->policy, "decide by this file, without a broker");
  verb->add_option("--root", options->root, "with --policy: what exports are relative to (here)");
  verb->add_option("-s,--session", options->session, "needed only when several live");
  verb->add_flag("--json", options->as_json, "print JSON");
  verb->footer("Examples:\n  fbroker check .env read\n  fbroker check /workspace/src/main.c write --policy p.json\n"
               "  fbroker check --domain api.example.com\n"
               "Exit status: 0 allow, 1 deny, 4 ask.");
  verb->callback([options, &status] { status = check(*options); });
}

}  // namespace fbroker::cli
