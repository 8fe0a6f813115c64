// fbroker status: which brokers live, and how they are.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "broker/cli/person.h"
#include "broker/cli/table.h"
#include "broker/cli/verbs.h"

namespace fbroker::cli {

using nlohmann::json;

namespace {

std::string text_at(const json& object, const char* name) {
  return object.contains(name) && object[name].is_string() ? shown(object[name].get<std::string>()) : "";
}
unsigned long long number_at(const json& object, const char* name) {
  return object.contains(name) && object[name].is_number_unsigned() ? object[name].get<unsigned long long>() : 0;
}

// Whether all is well with it.
bool print_broker(const json& status) {
  std::printf("broker %s  version %s  pid %llu%s\n", text_at(status, "broker").c_str(), text_at(status, "version").c_str(),
              number_at(status, "pid"), status.value("embedded", false) ? "  (inside fbroker run)" : "");
  const json audit = status.value("audit", json::object());
  std::printf("  audit %s  %llu records\n", text_at(audit, "directory").c_str(), number_at(audit, "appended"));
  const bool writing = audit.value("writing", true);
  if (const std::string problem = text_at(audit, "head_problem"); !problem.empty())
    std::printf("  the log's signed head cannot be written: %s\n", problem.c_str());
  if (!writing) std::printf("  AUDIT LOG CANNOT BE WRITTEN, no work is done: %s\n", text_at(audit, "problem").c_str());
  for (const json& session : status.value("sessions", json::array())) {
    std::printf("  session %s  /workspace = %s\n", text_at(session, "name").c_str(), text_at(session, "root").c_str());
    std::printf("    socket %s\n", text_at(session, "socket").c_str());
    std::printf("    %llu grants, %llu denies, %llu connections, %llu open files; %llu read, %llu changed, %llu refused\n",
                number_at(session, "grants"), number_at(session, "denies"), number_at(session, "connections"),
                number_at(session, "open_handles"), number_at(session, "read"), number_at(session, "changed"),
                number_at(session, "refused"));
    if (const json mount = session.value("mount", json::object()); !mount.empty())
      std::printf("    workspace served by the broker itself: %llu nodes known%s\n", number_at(mount, "nodes"),
                  !mount.value("serving", true)          ? ", unmounted"
                  : !mount.value("outlives_broker", true) ? ", ENDS WITH THIS BROKER"
                                                          : "");
  }
  return writing;
}

int status_of_all(const std::string& session, bool as_json) {
  std::vector<control::LiveBroker> live = control::live_brokers();
  if (!session.empty() || live.empty()) {
    const auto client = control::ControlClient::find(session);
    if (!client) return told(client.error(), as_json);
    std::erase_if(live, [&](const control::LiveBroker& one) { return one.control != client->socket(); });
  }
  int status = kYes;
  std::string all = "[";
  for (const control::LiveBroker& one : live) {
    const auto text = control::ControlClient(one.control).status();
    if (!text) return told(text.error(), as_json);
    all += (all.size() > 1 ? "," : "") + *text;
    const json parsed = json::parse(*text, nullptr, false);
    if (!as_json && parsed.is_object() && !print_broker(parsed)) status = kNo;
  }
  if (as_json) std::printf("{\"brokers\":%s]}\n", printable_json(all).c_str());
  return status;
}

}  // namespace

void add_status(CLI::App& app, int& status) {
  auto session = std::make_shared<std::string>();
  auto as_json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("status", "Brokers and sessions that live, and whether the audit log can be written");
  verb->add_option("-s,--session", *session, "the broker of this session alone");
  verb->add_flag("--json", *as_json, "print JSON");
  verb->footer("Example:\n  fbroker status\nExit status: 0 all well, 1 the audit log cannot be written, 3 no broker.");
  verb->callback([session, as_json, &status] { status = status_of_all(*session, *as_json); });
}

}  // namespace fbroker::cli
