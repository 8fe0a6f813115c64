#include "container/words.h"

#include <vector>
#include <iterator>
#include <algorithm>
#include <array>
#include <cstdio>

namespace fbroker::container {
namespace {

constexpr std::size_t kMostHiddenShown = 3;
constexpr std::size_t kMostHostsShown = 3;
constexpr std::size_t kMostRefusedShown = 20;
constexpr std::size_t kMostCreatedShown = 20;

std::string shortened(const std::string& path, const std::string& home) {
  if (home.size() > 1 && path == home) return "~";
  if (home.size() > 1 && path.starts_with(home + "/")) return "~" + path.substr(home.size());
  return path;
}

std::string exports(const control::Session& session, const std::string& workspace, const std::string& home) {
  std::string text;
  for (const control::ExportShown& one : session.exports) {
    if (!text.empty()) text += ", ";
    text += printable(one.at == "/" ? workspace : workspace + one.at) + " = " +
            printable(shortened(one.from, home)) + (one.writable ? " (rw)" : " (ro)");
  }
  return text.empty() ? workspace + " is empty" : text;
}

std::string hidden(const control::Session& session) {
  if (session.hidden_count == 0) return "nothing hidden";
  std::string text = std::to_string(session.hidden_count) + " hidden:";
  std::size_t shown = 0;
  for (const std::string& path : session.hidden) {
    if (shown == kMostHiddenShown) break;
    text += (shown++ == 0 ? " " : ", ") + printable(path.starts_with('/') ? path.substr(1) : path);
  }
  return session.hidden_count > shown ? text + " …" : text;
}

std::string network(const control::Session& session) {
  if (session.offline) return "offline";
  std::string text;
  for (std::size_t i = 0; i < session.network.size() && i < kMostHostsShown; ++i)
    text += (text.empty() ? "" : ", ") + printable(session.network[i]);
  if (session.network.size() > kMostHostsShown) text += " …";
  return text.empty() ? "none" : text;
}

std::string refusal(const control::Refused& one) {
  std::string text = "refused " + std::to_string(one.count) + "× " + one.operation + " " +
                     printable(one.path) + " (" + printable(one.rule) + ")";
  if (!one.lift.empty()) text += " → " + printable(one.lift);
  return text;
}

std::string counted(std::uint64_t count, const char* one, const char* many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

// The length of the UTF-8 sequence at `at`; 0 where there is none that can be shown.
std::size_t sequence(const std::string& text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(at);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  const std::size_t length = first >= 0xf0 && first <= 0xf4 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
  if (length == 0 || first > 0xf4) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  const unsigned second = byte(at + 1);
  // ATTACK: C1 controls (some terminals obey them), characters that turn the
  //   line's direction around or end it, and those that show nothing (a path
  //   that reads as another one): U+00AD, 061C, 200B-200F, 2028-202E, 2060-206F, FEFF.
  const unsigned third = byte(at + 2);
  if (first == 0xc2 && (second < 0xa0 || second == 0xad)) return 0;
  if (first == 0xd8 && second == 0x9c) return 0;
  if (first == 0xe2 && second == 0x80 && ((third >= 0x8b && third <= 0x8f) || (third >= 0xa8 && third <= 0xae))) return 0;
  if (first == 0xe2 && second == 0x81 && third >= 0xa0 && third <= 0xaf) return 0;
  if (first == 0xef && second == 0xbb && third == 0xbf) return 0;
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90))
    return 0;
  return length;
}

}  // namespace

std::string printable(const std::string& name) {
  std::string shown;
  for (std::size_t at = 0; at < name.size();) {
    const std::size_t length = sequence(name, at);
    if (length == 0) {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(name[at++]));
      shown += escaped;
      continue;
    }
    shown.append(name, at, length);
    at += length;
  }
  return shown;
}

std::string amount(std::uint64_t bytes) {
  constexpr std::array kUnits{"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return std::to_string(bytes) + " B";
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string banner(const control::Session& session, const BannerFacts& facts) {
  std::string text = "session " + session.name;
  if (!facts.broker.empty()) text += " on broker " + printable(facts.broker);
  text += " · " + exports(session, facts.workspace, facts.home);
  if (!facts.policy.empty()) text += " by " + printable(shortened(facts.policy, facts.home));
  text += " · " + hidden(session) + " · network " + network(session) + " · other terminal: fbroker grant " +
          (facts.broker.empty() ? "" : "-s " + session.name + " ") + "PATH --read\n";
  if (facts.tracked_hidden == 0) return text;
  return text + "  git tracks " + counted(facts.tracked_hidden, "file that is hidden", "files that are hidden") +
         ": inside they look deleted (do not `git commit -a`), and what was committed of them can be read from .git\n";
}

// What the agent made that a program on the host may run or obey. Configuration
// comes first: git reads it at `git status` already. A hook that git made as a
// sample is not run.
std::string may_run(const control::Report& report) {
  std::vector<std::string> paths;
  std::copy_if(report.created_guarded.begin(), report.created_guarded.end(), std::back_inserter(paths),
               [](const std::string& path) { return !path.ends_with(".sample"); });
  std::stable_partition(paths.begin(), paths.end(), [](const std::string& path) { return path.ends_with("/config"); });
  std::string text;
  for (std::size_t at = 0; at < paths.size() && at < kMostCreatedShown; ++at)
    text += "  created, and may run code on this machine: " + printable(paths[at]) + "\n";
  if (paths.size() > kMostCreatedShown)
    text += "  … and " + std::to_string(paths.size() - kMostCreatedShown) + " more of them\n";
  return text;
}

std::string traffic(const control::Report& report) {
  if (report.connections == 0) return "";
  return counted(report.connections, "connection", "connections") + " (" + amount(report.received) + " in, " +
         amount(report.sent) + " out) · ";
}

std::string end_report(const control::Session& session, const control::Report& report) {
  std::string text = "session " + session.name + " ended · " + counted(report.read, "file", "files") +
                     " read (" + amount(report.bytes_read) + ") · " +
                     counted(report.changed, "change", "changes") + " (" + amount(report.bytes_written) +
                     " written) · " + traffic(report) + (report.refused.empty() ? "nothing refused" : "refused:") + "\n";
  std::size_t shown = 0;
  for (const control::Refused& one : report.refused) {
    if (shown++ == kMostRefusedShown) break;
    text += "  " + refusal(one) + "\n";
  }
  if (report.refused.size() > kMostRefusedShown)
    text += "  … and " + std::to_string(report.refused.size() - kMostRefusedShown) +
            " more: fbroker audit search -s " + session.name + "\n";
  return text + may_run(report);
}

}  // namespace fbroker::container
