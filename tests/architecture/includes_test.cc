// The design's direction of dependency, read off the #include lines.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kRoot = FBROKER_SOURCE_DIR;

// A room and the rooms that it may include from. A file belongs to the room
// with the longest matching folder.
const std::map<std::string, std::set<std::string>> kMayInclude{
    {"policy/base", {}},
    {"policy", {"policy/base"}},
    {"broker/protocol", {"policy/base"}},
    {"broker/fuse", {"policy/base", "broker/protocol"}},
    {"broker", {"policy/base", "policy", "broker/protocol", "broker/fuse"}},
    {"broker/cli", {"policy/base", "policy", "broker/protocol", "broker", "container"}},
    {"shim/client", {"policy/base", "broker/protocol"}},
    {"shim/relay", {"policy/base", "container/carry"}},
    {"shim/init", {"policy/base", "broker/protocol", "shim/client", "shim/relay", "container/carry",
                   "container/hardening"}},
    {"shim/fuse", {"policy/base", "broker/protocol", "broker/fuse", "shim/client", "container/hardening"}},
    {"container/hardening", {"policy/base"}},
    {"container/carry", {"policy/base"}},
    {"container", {"policy/base", "policy", "broker/protocol", "broker", "container/carry",
                   "container/hardening"}},
};

std::string room_of(const std::string& path) {
  std::string best;
  for (const auto& [room, unused] : kMayInclude)
    if (path.starts_with(room + "/") && room.size() > best.size()) best = room;
  return best;
}

std::vector<fs::path> sources() {
  std::vector<fs::path> found;
  for (const char* top : {"policy", "broker", "shim", "container"})
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / top))
      if (entry.path().extension() == ".h" || entry.path().extension() == ".cc")
        found.push_back(fs::relative(entry.path(), kRoot));
  return found;
}

std::vector<std::string> quoted_includes(const fs::path& file) {
  static const std::regex line_form(R"re(^\s*#\s*include\s*"([^"]+)")re");
  std::vector<std::string> found;
  std::ifstream in(kRoot / file);
  for (std::string line; std::getline(in, line);)
    if (std::smatch match; std::regex_search(line, match, line_form)) found.push_back(match[1]);
  return found;
}

TEST(Architecture, EverySourceLiesInARoom) {
  const auto files = sources();
  ASSERT_GT(files.size(), 20u);
  for (const fs::path& file : files) EXPECT_NE(room_of(file.string()), "") << file;
}

TEST(Architecture, NoArrowRunsBack) {
  for (const fs::path& file : sources()) {
    const std::string room = room_of(file.string());
    for (const std::string& include : quoted_includes(file)) {
      EXPECT_TRUE(fs::exists(kRoot / include))
          << file << " includes \"" << include << "\": paths start at the repository root";
      const std::string other = room_of(include);
      if (other == room || other.empty()) continue;
      EXPECT_TRUE(kMayInclude.at(room).contains(other))
          << file << " (room " << room << ") must not include " << include;
    }
  }
}

// RE2 and JSON types stay out of public headers, and Beast out of all but a
// few: they cost seconds a file, and an engine that can be replaced.
TEST(Architecture, HeavyLibrariesStayOutOfHeaders) {
  static const std::regex heavy(R"(^\s*#\s*include\s*<(re2/|nlohmann/|boost/beast|valijson/|openssl/))");
  for (const fs::path& file : sources()) {
    // Private to their room, each included by a few .cc of it.
    static const std::set<std::string> kPrivate{"broker/protocol/wire_json.h", "broker/http/request_parser.h",
                                                "shim/client/reply_parser.h",
                                                "broker/sessions/hosts_json.h"};
    if (file.extension() != ".h" || kPrivate.contains(file.string())) continue;
    std::ifstream in(kRoot / file);
    for (std::string line; std::getline(in, line);)
      EXPECT_FALSE(std::regex_search(line, heavy)) << file << ": " << line;
  }
}

// Each header says all that it needs: it compiles alone.
TEST(Architecture, EachHeaderCompilesAlone) {
  std::ofstream list(testing::TempDir() + "headers.txt");
  for (const fs::path& file : sources())
    if (file.extension() == ".h") list << file.string() << '\n';
  list.close();
  const std::string command =
      "cd '" + kRoot.string() + "' && xargs -a '" + testing::TempDir() +
      "headers.txt' -P \"$(nproc)\" -I{} c++ -std=c++20 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64"
      " -DFUSE_USE_VERSION=314 -I. $(pkg-config --cflags fuse3) -fsyntax-only -Wno-pragma-once-outside-header"
      " -include {} -x c++ /dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

}  // namespace
