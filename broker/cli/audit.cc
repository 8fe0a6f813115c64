// fbroker audit tail|search|verify: reads the log's files; needs no broker.
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "broker/audit/layout.h"
#include "broker/audit/read.h"
#include "broker/audit/segments.h"
#include "broker/audit/signing.h"
#include "broker/audit/verify.h"
#include "broker/cli/table.h"
#include "broker/cli/verbs.h"
#include "broker/control/control_client.h"
#include "broker/sessions/runtime_dir.h"

namespace fbroker::cli {

namespace {

namespace fs = std::filesystem;

struct AuditVerb {
  std::string directory, broker;   // which log
  bool json = false;
  std::uint64_t last = 20;
  bool follow = false;
  audit::Filter filter;
  std::string head, key;
};

// When the log last grew; none where there is no log.
std::optional<fs::file_time_type> last_written(const fs::path& directory) {
  std::error_code error;
  std::optional<fs::file_time_type> newest;
  for (const auto& file : fs::directory_iterator(directory, error)) {
    if (!audit::segment_number(file.path().filename().string())) continue;
    const auto time = fs::last_write_time(file.path(), error);
    if (!error && (!newest || time > *newest)) newest = time;
  }
  return newest;
}

// Every broker's log, the one that was written last first.
Result<std::vector<std::string>> all_logs() {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, std::string>> dated;
  for (const auto& broker : fs::directory_iterator(broker::state_root(), error))
    if (const auto time = last_written(broker.path() / "audit")) dated.emplace_back(*time, (broker.path() / "audit").string());
  if (dated.empty()) return Error{broker::state_root(), "holds no audit log; name one with --dir or --session"};
  std::ranges::sort(dated, std::greater{});
  std::vector<std::string> logs;
  logs.reserve(dated.size());
  for (auto& [time, directory] : dated) logs.push_back(std::move(directory));
  return logs;
}

bool is_no_name(const std::string& session) { return session.find('/') != session.npos || session.starts_with('.'); }

// A session that `fbroker serve` serves has its records in that broker's log,
// whatever lies under its own name from another time.
std::optional<std::string> log_of_serving(const std::string& session) {
  for (const control::LiveBroker& live : control::live_brokers())
    if (std::ranges::find(live.sessions, session) != live.sessions.end()) {
      const auto status = nlohmann::json::parse(control::ControlClient(live.control).status().value_or(""), nullptr, false);
      if (status.is_object() && status.contains("audit")) return status["audit"].value("directory", "");
    }
  return std::nullopt;
}

Result<std::string> find_log(const AuditVerb& verb) {
  if (!verb.directory.empty()) return verb.directory;
  if (verb.broker.empty()) {
    FBROKER_TRY(const auto logs, all_logs());
    return logs.front();
  }
  if (is_no_name(verb.broker)) return Error{"--session", "a session's name has no '/' and does not start with a dot"};
  if (const auto serving = log_of_serving(verb.broker); serving && !serving->empty()) return *serving;
  const fs::path named = fs::path(broker::state_root()) / verb.broker / "audit";
  std::error_code error;
  if (fs::is_directory(named, error)) return named.string();
  return Error{"--session " + verb.broker, "has no log of its own (" + named.string() +
               "); `fbroker audit search -s " + verb.broker + "` looks into every log"};
}

int complain(const Error& error, int status) {
  std::cerr << "fbroker audit: " << printable(error.text()) << '\n';
  return status;
}

std::string error_name(int error) {
  const char* const name = ::strerrorname_np(error);
  return error == 0 ? "ok" : name != nullptr ? name : std::to_string(error);
}

std::string bytes_text(const audit::Record& record) {
  std::string text;
  if (record.bytes_read) text += "r" + std::to_string(*record.bytes_read);
  if (record.bytes_written) text += (text.empty() ? "w" : " w") + std::to_string(*record.bytes_written);
  return text;
}

std::vector<std::string> headings() {
  return {"SEQ", "TIME", "SESSION", "OPERATION", "DECISION", "RESULT", "TIMES", "BYTES", "REASON", "PATH"};
}

std::vector<std::string> cells(const audit::Entry& entry) {
  const audit::Record& r = entry.record;
  std::string path = r.path;
  if (!r.requested.empty() && r.requested != r.path) path += "  (asked: " + r.requested + ")";
  if (!r.target.empty()) path += "  -> " + r.target;
  if (!r.host.empty()) path = r.host + ":" + std::to_string(r.port) + (r.address.empty() ? "" : "  = " + r.address);
  if (path.empty()) path = r.detail;
  return {std::to_string(entry.sequence), entry.time.substr(0, 23),   // to milliseconds
          r.session, r.operation, r.decision, error_name(r.error),
          r.repeated > 1 ? std::to_string(r.repeated) + "x" : "", bytes_text(r), r.reason, path};
}

// Prints what is there now. Lines that are no records are said to be so.
Result<void> print_more(audit::LineReader& reader, const AuditVerb& verb, Table& table,
                        std::uint64_t& printed) {
  for (;;) {
    FBROKER_TRY(const auto line, reader.next());
    if (!line) break;
    const auto entry = audit::parse_entry(line->text);
    if (!entry) {
      std::cerr << "fbroker audit: " << line->file << " holds a line that is no record; see: fbroker audit verify\n";
      continue;
    }
    if (!verb.filter.matches(*entry)) continue;
    ++printed;
    // As written, but for bytes that the log itself never writes.
    if (verb.json) std::cout << line->text << '\n';
    else table.row(cells(*entry));
    if (printed % 500 == 0 && !verb.json) table.flush();   // bounded
  }
  if (!verb.json) table.flush();
  std::cout.flush();
  return ok;
}

Result<void> follow(audit::LineReader& reader, const std::string& directory, const AuditVerb& verb,
                    Table& table, std::uint64_t& printed) {
  const UniqueFd changes(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (changes) ::inotify_add_watch(changes.get(), directory.c_str(), IN_MODIFY | IN_CREATE);
  while (std::cout) {
    pollfd ends[] = {{changes.get(), POLLIN, 0}, {STDOUT_FILENO, 0, 0}};
    ::poll(ends, 2, 1000);
    if ((ends[1].revents & (POLLERR | POLLHUP)) != 0) return ok;   // the reader of our pipe left
    alignas(inotify_event) char ignored[4096];
    while (changes && ::read(changes.get(), ignored, sizeof ignored) > 0) {}
    FBROKER_TRY_VOID(print_more(reader, verb, table, printed));
  }
  return ok;
}

int tail(const AuditVerb& verb) {
  auto directory = find_log(verb);
  if (!directory) return complain(directory.error(), kUsage);
  auto reader = audit::LineReader::open(*directory);
  if (!reader) return complain(reader.error(), kUsage);
  Table table(std::cout, headings());
  std::uint64_t printed = 0;
  auto done = reader->seek_last(verb.last);
  if (done) done = print_more(*reader, verb, table, printed);
  if (done && verb.follow) done = follow(*reader, *directory, verb, table, printed);
  return done ? kYes : complain(done.error(), kUsage);
}

// With -s alone: every log, for a session's runs may lie in several.
Result<std::vector<std::string>> logs_to_search(const AuditVerb& verb) {
  if (verb.broker.empty() || !verb.directory.empty()) {
    FBROKER_TRY(std::string one, find_log(verb));
    return std::vector{std::move(one)};
  }
  if (is_no_name(verb.broker)) return Error{"--session", "a session's name has no '/' and does not start with a dot"};
  FBROKER_TRY(auto logs, all_logs());
  std::ranges::reverse(logs);   // the newest records last, as in each log
  return logs;
}

int search(const AuditVerb& verb) {
  auto logs = logs_to_search(verb);
  if (!logs) return complain(logs.error(), kUsage);
  Table table(std::cout, headings());
  std::uint64_t printed = 0;
  for (const std::string& directory : *logs) {
    auto reader = audit::LineReader::open(directory);
    if (!reader) return complain(reader.error(), kUsage);
    if (auto done = print_more(*reader, verb, table, printed); !done) return complain(done.error(), kUsage);
  }
  return printed > 0 ? kYes : kNo;
}

// ---- verify

// Whether there was a log: its ring or its signed head say so.
bool has_traces(const std::string& directory) {
  std::error_code error;
  return fs::exists(fs::path(directory) / audit::kRingName, error) || fs::exists(fs::path(directory) / ".." / audit::kHeadName, error);
}

// What was given, or lies beside the log, to hold it against.
struct Witness {
  std::optional<audit::PublicKey> key;
  std::string key_file, head_file;      // "" = none
  std::optional<audit::ChainHead> noted, signed_head;
  std::optional<Error> forged;          // what is wrong with the head's file
};

Result<Witness> find_witness(const AuditVerb& verb, const std::string& directory) {
  const fs::path beside = fs::absolute(directory).lexically_normal() / "..";
  Witness found;
  std::error_code error;
  if (!verb.key.empty()) found.key_file = verb.key;
  else if (const fs::path own = beside / audit::kPublicKeyName; fs::exists(own, error))
    found.key_file = own.lexically_normal().string();
  if (!found.key_file.empty()) {
    FBROKER_TRY(found.key, audit::PublicKey::read(found.key_file));
  }
  if (!verb.head.empty()) found.noted = audit::parse_head(verb.head);
  if (found.noted) return found;
  found.head_file = !verb.head.empty() ? verb.head : (beside / audit::kHeadName).lexically_normal().string();
  if (!found.key && !verb.head.empty())
    return Error{verb.head, "its signature cannot be checked without the broker's public key; name it with --key"};
  if (!found.key) return found;
  auto head = audit::read_signed_head(found.head_file, *found.key);
  if (!head) found.forged = head.error();
  else if (*head) found.signed_head = **head;
  else if (!verb.head.empty())
    return Error{verb.head, "is neither a file nor SEQ:HASH with 64 hex digits, as verify prints it"};
  return found;
}

void print_json(const std::string& directory, const audit::Verdict& verdict, const Witness& witness) {
  nlohmann::json out{{"directory", directory}, {"verified", !verdict.bad},
                     {"records", verdict.records}, {"head", to_text(verdict.head)},
                     {"live", verdict.live},
                     {"checkpoints", {{"found", verdict.checkpoints}, {"checked", witness.key ? verdict.checkpoints : 0},
                                      {"records_after", verdict.after_checkpoint}}}};
  if (witness.key) out["key"] = witness.key_file;
  if (witness.signed_head) out["signed_head"] = to_text(*witness.signed_head);
  if (verdict.bad)
    out["bad"] = {{"file", verdict.bad->file}, {"line", verdict.bad->line},
                  {"seq", verdict.bad->sequence}, {"what", verdict.bad->what}};
  std::cout << out.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) << '\n';
}

std::string checkpoint_words(const audit::Verdict& verdict, const Witness& witness) {
  const std::string found = std::to_string(verdict.checkpoints);
  if (verdict.checkpoints == 0) return "none: nothing here is signed";
  if (!witness.key) return found + ", NOT CHECKED: no public key beside the log; name it with --key";
  return found + " with good signatures, " + std::to_string(verdict.after_checkpoint) + " records after the last";
}

void print_words(const std::string& directory, const audit::Verdict& verdict, const Witness& witness) {
  if (!verdict.bad) {
    std::cout << "verified: " << verdict.records << " records in " << printable(directory) << '\n'
              << "checkpoints: " << checkpoint_words(verdict, witness) << '\n';
    if (witness.signed_head)
      std::cout << "signed head: record " << witness.signed_head->sequence << ", " << printable(witness.head_file) << '\n';
    std::cout << "head: " << to_text(verdict.head) << '\n';
    if (verdict.live) std::cout << "(a broker is writing; what comes now is not part of this)\n";
    return;
  }
  const auto& bad = *verdict.bad;
  std::cout << "NOT VERIFIED: " << printable(directory) << '\n'
            << (bad.line != 0 || bad.sequence != 0 ? "first bad record: " : "not as signed: ")
            << (bad.file.empty() ? "no segment is there" : printable(bad.file));
  if (bad.line != 0) std::cout << ", line " << bad.line;
  if (bad.sequence != 0) std::cout << ", seq " << bad.sequence;
  std::cout << '\n' << "what: " << printable(bad.what) << '\n'
            << "good up to: " << to_text(verdict.head) << '\n';
}

int verify(const AuditVerb& verb) {
  auto directory = find_log(verb);
  if (!directory) return complain(directory.error(), kUsage);
  auto reader = audit::LineReader::open(*directory);
  if (!reader) return complain(reader.error(), kUsage);
  if (reader->segments().empty() && !has_traces(*directory))
    return complain({*directory, "holds no audit log (000001.jsonl, …)"}, kUsage);
  const auto witness = find_witness(verb, *directory);
  if (!witness) return complain(witness.error(), kUsage);
  auto verdict = audit::verify(*directory, {.noted = witness->noted, .signed_head = witness->signed_head,
                                            .key = witness->key ? &*witness->key : nullptr});
  if (!verdict) return complain(verdict.error(), kUsage);
  if (!verdict->bad && witness->forged)
    verdict->bad = {witness->forged->where, 0, 0, "the signed head " + witness->forged->what};
  if (verb.json) print_json(*directory, *verdict, *witness);
  else print_words(*directory, *verdict, *witness);
  return verdict->bad ? kNo : kYes;
}

void add_common(CLI::App& verb, AuditVerb& options) {
  verb.add_option("--dir", options.directory, "the audit directory");
  verb.add_option("-s,--session", options.broker, "whose log (default: the newest)");
  verb.add_flag("--json", options.json, "as JSON, one object a line");
}

}  // namespace

void add_audit(CLI::App& app, int& status) {
  auto options = std::make_shared<AuditVerb>();
  CLI::App* const verbs = app.add_subcommand("audit", "Read and verify the audit log");
  verbs->require_subcommand(1);

  CLI::App* const tail_verb = verbs->add_subcommand("tail", "The newest records");
  add_common(*tail_verb, *options);
  tail_verb->add_option("-n,--lines", options->last, "how many")->capture_default_str();
  tail_verb->add_flag("-f,--follow", options->follow, "and those to come");
  tail_verb->callback([options, &status] { status = tail(*options); });

  CLI::App* const search_verb = verbs->add_subcommand("search", "Records that match; status 1 when none does");
  add_common(*search_verb, *options);
  search_verb->add_option("--path", options->filter.path, "a path and all below it, or a glob");
  search_verb->add_option("--host", options->filter.host, "connections to a domain and all below it, or a glob");
  search_verb->add_option("--op", options->filter.operation, "open, rename, grant, …");
  search_verb->add_option("--decision", options->filter.decision, "allow, ask or deny")
      ->check(CLI::IsMember({"allow", "ask", "deny"}));
  search_verb->add_option("--since", options->filter.since, "UTC: 2026-01-31, 2026-01-31T12:00, …");
  search_verb->callback([options, &status] {
    audit::Filter& filter = options->filter;
    if (!filter.since.empty() && (filter.since.size() < 4 || std::isdigit(static_cast<unsigned char>(filter.since[0])) == 0)) {
      status = complain({"--since", "expected a date and time in UTC, such as 2026-01-31T12:00"}, kUsage);
      return;
    }
    // As the agent says it, or without its first slash.
    if (filter.path.starts_with("/workspace/")) filter.path.erase(0, std::string_view("/workspace").size());
    else if (!filter.path.empty() && filter.path[0] != '/' && filter.path[0] != '*') filter.path.insert(0, "/");
    options->filter.session = options->broker;   // -s: its log, and its records only
    status = search(*options);
  });

  CLI::App* const verify_verb = verbs->add_subcommand("verify", "Whether the log is what was written; status 1 if not");
  add_common(*verify_verb, *options);
  verify_verb->add_option("--head", options->head,
                          "SEQ:HASH noted earlier, or the signed head's file (default: beside the key); shows whether the end is missing");
  verify_verb->add_option("--key", options->key,
                          "the broker's public key (default: audit-key.pub.pem beside the log); shows who wrote it");
  verify_verb->footer("Examples:\n  fbroker audit verify -s web-1\n"
                      "  fbroker audit verify -s web-1 --key ~/kept/web-1.pub.pem --head /backup/web-1.head\n"
                      "Exit status: 0 whole, 1 not, 2 usage.");
  verify_verb->callback([options, &status] { status = verify(*options); });
}

}  // namespace fbroker::cli
