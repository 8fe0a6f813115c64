// fbroker grant, revoke, grants
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "broker/cli/person.h"
#include "broker/cli/table.h"
#include "broker/cli/verbs.h"
#include "broker/protocol/wire_json.h"
#include "broker/sessions/runtime_dir.h"

namespace fbroker::cli {

using control::ControlClient;
using nlohmann::json;

namespace {

struct GrantOptions {
  std::string session, path, domain, tls = "sni", lasts = "session", because;
  std::vector<std::string> operations;
  bool read = false, write = false, override_deny = false, as_json = false;
};

std::string words(const std::vector<std::string>& list, const char* between = " ") {
  std::string text;
  for (const std::string& word : list) text += (text.empty() ? "" : between) + word;
  return text;
}

int print_granted(const control::Granted& granted, const GrantOptions& options) {
  if (options.as_json) return std::printf("%s\n", printable_json(granted.json).c_str()), kYes;
  std::printf("%s: %s (%s)%s\n", granted.id.c_str(), shown(granted.path).c_str(), words(granted.operations).c_str(),
              granted.expires.empty() ? (options.lasts == "once" ? ", for one open" : ", until the session ends")
                                      : (", until " + granted.expires).c_str());
  return kYes;
}

int grant_domain(const GrantOptions& options, std::optional<std::chrono::seconds> lasts) {
  if (options.read || options.write || options.override_deny || !options.operations.empty() || options.lasts == "once")
    return told({kUsage, "--domain goes with --for, --tls and --because alone", ""}, false);
  const auto client = ControlClient::find(options.session);
  if (!client) return told(client.error(), options.as_json);
  const auto granted = client->grant_domain({options.session, options.domain, options.tls, lasts, options.because});
  return granted ? print_granted(*granted, options) : told(granted.error(), options.as_json);
}

int grant(const GrantOptions& options) {
  if (options.path.empty() == options.domain.empty())
    return told({kUsage, "say what: a PATH, or --domain D", ""}, false);
  std::optional<std::chrono::seconds> lasts;
  if (options.lasts != "once" && options.lasts != "session") {
    const auto given = duration_from(options.lasts);
    if (!given) return told({kUsage, given.error().text(), ""}, false);
    lasts = *given;
  }
  if (!options.domain.empty()) return grant_domain(options, lasts);
  control::GrantRequest request;
  request.session = options.session;
  request.path = options.path;
  request.cwd = current_directory();
  request.home = broker::home_directory();
  request.operations = options.operations;
  if (options.write) request.operations.push_back("write");
  if (options.read || request.operations.empty()) request.operations.push_back("read");
  request.override_deny = options.override_deny;
  request.because = options.because;
  request.once = options.lasts == "once";
  request.lasts = lasts;
  const auto client = ControlClient::find(options.session);
  if (!client) return told(client.error(), options.as_json);
  const auto granted = client->grant(request);
  return granted ? print_granted(*granted, options) : told(granted.error(), options.as_json);
}

struct RevokeOptions {
  std::string session, target, domain;
  bool all = false, as_json = false;
};

std::string ids(const std::vector<control::Ended>& list) {
  std::string text;
  for (const control::Ended& one : list) text += (text.empty() ? "" : ", ") + one.id + " " + shown(one.path);
  return text;
}

// 0 only when it is final and written down.
int verdict_on(const control::Revoked& revoked, const json& answer) {
  const bool gone = answer.value("acknowledged", false) || revoked.sandbox_killed;
  return revoked.recorded && answer.value("drained", false) && gone ? kYes : kNo;
}

int print_revoked(const control::Revoked& revoked, const json& answer) {
  const bool drained = answer.value("drained", false), acknowledged = answer.value("acknowledged", false);
  if (!revoked.ended.empty()) std::printf("ended: %s\n", ids(revoked.ended).c_str());
  if (!revoked.denied.empty())
    std::printf("denied: %s%s\n", ids(revoked.denied).c_str(),
                revoked.overruled.empty() ? "" : (" (" + shown(words(revoked.overruled, ", ")) + " would have allowed it)").c_str());
  for (const json& lifted : answer.value("lifted", json::array()))
    std::printf("taken back: %s; the policy's rules hold there again\n", shown(lifted.value("id", "")).c_str());
  if (revoked.ended.empty() && revoked.denied.empty() && answer.value("lifted", json::array()).empty())
    std::printf("nothing was accessible\n");
  if (const auto cut = answer.value("tunnels_cut", 0); cut > 0)
    std::printf("%d %s cut\n", cut, cut == 1 ? "connection" : "connections");
  std::printf("%llu %s closed, %.1f ms\n", static_cast<unsigned long long>(revoked.handles_closed),
              revoked.handles_closed == 1 ? "handle" : "handles", revoked.milliseconds);
  if (revoked.sandbox_killed) std::fprintf(stderr, "the sandbox did not forget in time and was killed\n");
  else if (!acknowledged)
    std::fprintf(stderr, "a client did not confirm that it forgot, and its sandbox is not known: its connections "
                         "were cut. What it had read lies with it until its container is stopped\n");
  if (!answer.value("flushed", true))
    std::fprintf(stderr, "not all that the agent had written before could be brought to the host in time: the rest is "
                         "refused, and the programs that wrote it are told when they sync or close\n");
  if (!drained) std::fprintf(stderr, "an operation still hangs in the kernel; its client was cut off\n");
  if (!revoked.recorded)
    std::fprintf(stderr, "revoked, not recorded: %s\n", shown(answer.value("not_recorded", "")).c_str());
  return verdict_on(revoked, answer);
}

int revoke(const RevokeOptions& options) {
  if (int{options.all} + int{!options.target.empty()} + int{!options.domain.empty()} != 1)
    return told({kUsage, "say what: a PATH, an ID, --domain D, or --all", ""}, false);
  const auto client = ControlClient::find(options.session);
  if (!client) return told(client.error(), options.as_json);
  const auto revoked = client->revoke({options.session, options.target, current_directory(),
                                       broker::home_directory(), options.all, options.domain});
  if (!revoked) return told(revoked.error(), options.as_json);
  const json answer = json::parse(revoked->json, nullptr, false);
  if (!options.as_json) return print_revoked(*revoked, answer);
  std::printf("%s\n", printable_json(revoked->json).c_str());
  return verdict_on(*revoked, answer);
}

std::string text_at(const json& object, const char* name) {
  if (!object.contains(name)) return "";
  if (object[name].is_string()) return object[name].get<std::string>();
  protocol::FieldReader reader(object);
  return reader.bytes(name);
}

int list(const std::string& session, bool as_json) {
  const auto client = ControlClient::find(session);
  if (!client) return told(client.error(), as_json);
  const auto text = client->grants(session);
  if (!text) return told(text.error(), as_json);
  if (as_json) return std::printf("%s\n", printable_json(*text).c_str()), kYes;
  const json answer = json::parse(*text, nullptr, false);
  const json grants = answer.is_object() ? answer.value("grants", json::array()) : json::array();
  if (grants.empty()) return std::printf("no grants\n"), kYes;
  std::printf("%-5s %-12s %-6s %-28s %-21s %s\n", "ID", "SESSION", "", "OPERATIONS", "UNTIL", "PATH");
  for (const json& one : grants) {
    std::string operations;
    for (const json& word : one.value("operations", json::array())) operations += (operations.empty() ? "" : ",") + word.get<std::string>();
    const std::string until = one.contains("expires") ? text_at(one, "expires") : one.value("once", false) ? (one.value("used", false) ? "used" : "one open") : "session";
    const std::string from = text_at(one, "from");
    std::printf("%-5s %-12s %-6s %-28s %-21s %s%s%s\n", text_at(one, "id").c_str(), text_at(one, "session").c_str(),
                text_at(one, "effect").c_str(), operations.c_str(), until.c_str(), shown(text_at(one, "path")).c_str(),
                from.empty() ? "" : (" = " + shown(from)).c_str(),
                one.value("override_deny", false) ? " (overrides a deny)" : "");
  }
  return kYes;
}

void add_grant(CLI::App& app, int& status) {
  auto options = std::make_shared<GrantOptions>();
  CLI::App* verb = app.add_subcommand("grant", "Allow a file, a directory or a domain while the agent runs");
  verb->add_option("PATH", options->path, "as your shell knows it, or as the agent sees it (/workspace/…)");
  verb->add_option("--domain", options->domain, "instead: api.example.com, *.example.com (what is below it), host:8443");
  verb->add_option("--tls", options->tls, "with --domain: sni (the connection names this host), no-sni (or none), off (not TLS)")
      ->capture_default_str()->check(CLI::IsMember({"sni", "no-sni", "off"}));
  verb->add_flag("--read", options->read, "list, read, execute (the default)");
  verb->add_flag("--write", options->write, "that, and write, create, delete");
  verb->add_option("--ops", options->operations, "single operations: list,read,write,create,delete,execute")->delimiter(',');
  verb->add_option("--for", options->lasts, "90s, 15m, 2h, 1d, once (one open), session (the default)");
  verb->add_flag("--override-deny", options->override_deny, "lift a rule's deny, too");
  verb->add_option("--because", options->because, "words for the audit log");
  verb->add_option("-s,--session", options->session, "needed only when several live");
  verb->add_flag("--json", options->as_json, "print JSON");
  verb->footer("Examples:\n  fbroker grant ~/Downloads/spec.pdf --for 15m\n  fbroker grant src --write\n"
               "  fbroker grant --domain pypi.org --for 15m\n"
               "  fbroker grant .env --read --override-deny --for once --because 'debugging the login'\n"
               "A host file outside every export appears below /workspace/.fbroker/granted.");
  verb->callback([options, &status] { status = grant(*options); });
}

void add_revoke(CLI::App& app, int& status) {
  auto options = std::make_shared<RevokeOptions>();
  CLI::App* verb = app.add_subcommand("revoke", "Take something back; final when it returns");
  verb->add_option("TARGET", options->target, "a path, or a grant's id");
  verb->add_option("--domain", options->domain,
                   "a domain (every port, or D:PORT): nothing of it can be reached afterwards, open connections are cut");
  verb->add_flag("--all", options->all, "end every grant; what earlier revokes denied stays denied");
  verb->add_option("-s,--session", options->session, "needed only when several live");
  verb->add_flag("--json", options->as_json, "print JSON");
  verb->footer("Examples:\n  fbroker revoke .env      nothing at or below it is accessible afterwards\n"
               "  fbroker revoke g3        ends that grant\n"
               "  fbroker revoke --domain example.com\n"
               "  fbroker revoke r4        takes a session deny back: the policy's rules hold again\n"
               "  fbroker revoke --all");
  verb->callback([options, &status] { status = revoke(*options); });
}

}  // namespace

void add_grants(CLI::App& app, int& status) {
  add_grant(app, status);
  add_revoke(app, status);
  auto session = std::make_shared<std::string>();
  auto as_json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("grants", "What is granted, and what revokes have denied");
  verb->add_option("-s,--session", *session, "only this session's");
  verb->add_flag("--json", *as_json, "print JSON");
  verb->footer("Example:\n  fbroker grants");
  verb->callback([session, as_json, &status] { status = list(*session, *as_json); });
}

}  // namespace fbroker::cli
