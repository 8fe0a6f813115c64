#include "broker/cli/person.h"

#include <unistd.h>

#include <charconv>
#include <climits>
#include <cstdio>
#include <filesystem>

#include "broker/cli/table.h"

namespace fbroker::cli {

std::string current_directory() {
  std::error_code gone;
  return std::filesystem::current_path(gone).string();
}

int told(const control::Failure& failure, bool json) {
  if (json && !failure.json.empty()) std::printf("%s\n", printable_json(failure.json).c_str());
  else std::fprintf(stderr, "fbroker: %s\n", printable_words(failure.what).c_str());
  return failure.exit;
}

std::string shown(const std::string& bytes) { return printable(bytes); }

Result<std::chrono::seconds> duration_from(const std::string& text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  const std::uint64_t factor = unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : unit == "d" ? 86400 : 0;
  if (error != std::errc() || factor == 0 || number == 0 || number > 100'000)
    return Error{"--for", "\"" + text + "\" is none of 90s, 15m, 2h, 1d, once, session"};
  return std::chrono::seconds(number * factor);
}

}  // namespace fbroker::cli
