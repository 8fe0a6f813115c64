// What a person changes on the host while the agent looks: it is seen, and what
// was before it is never seen again. Real broker, real FUSE, real bubblewrap;
// over the device and over HTTP. FBROKER_COHERENCE_ROUNDS: how many for each
// way (default 60), of seven to a few dozen changes each.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "policy/base/unique_fd.h"
#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

// The agent. Each look gives a version, a number that only grows; none while
// the host is in the middle of it. One thread looks all the time; "expect"
// looks until the version is there. Going back is told at the end.
constexpr const char* kReader = R"(
import mmap, os, sys, threading, time
os.chdir("/workspace")
lock = threading.RLock()   # a look and its note are one step
newest, wrong = {}, []

def three(data):           # a number written three times: half a change is seen as that
    parts = bytes(data).split(b":")
    return int(parts[0]) if len(parts) == 3 and parts[0] == parts[1] == parts[2] else None

def whole(path):
    with open(path, "rb", buffering=0) as f:
        return f.readall()

def replaced():
    data = whole("replaced")
    if data != data[:8] * (len(data) // 8) or len(data) != 65536:
        wrong.append("mixed content: %r ... %r, %d bytes" % (data[:8], data[-8:], len(data)))
        return None
    return int(data[:8])

def resized():
    with open("resized", "rb", buffering=0) as f:
        data = f.readall()
        if len(data) < 26: return None
        version = three(data[:26])
    return version if version is not None and len(data) == 26 + version * 37 % 9000 else None

def resized_stat():
    size = os.stat("resized").st_size
    version = resized()
    return version if version is not None and size == 26 + version * 37 % 9000 else None

def names():
    found = os.listdir("names")
    return int(found[0]) if len(found) == 1 else None

def by_name():
    found = names()
    if found is None: return None
    try: os.stat("names/%d" % (found - 1))
    except FileNotFoundError: pass
    else: return None
    try: os.stat("names/%d" % found)
    except FileNotFoundError: return None
    return found

def tree():
    found = os.listdir("tree")
    return int(whole("tree/%s/inner" % found[0])) if len(found) == 1 else None

held = os.open("edited", os.O_RDONLY)
mapped = mmap.mmap(held, 0, mmap.MAP_SHARED, mmap.PROT_READ)
LOOKS = {
    "edited": [lambda: three(whole("edited")[:26]), lambda: three(os.pread(held, 26, 0)), lambda: three(mapped[:26])],
    "replaced": [replaced],
    "resized": [resized, resized_stat],
    "names": [names, by_name],
    "tree": [tree],
}
flip = [0]                 # a file that comes and goes has no version but the one asked for

def look(kind, i):
    with lock:
        try: version = LOOKS[kind][i]()
        except FileNotFoundError: version = None
        except OSError as e:
            if e.errno != 116: raise     # ESTALE: replaced between two steps of ours
            version = None
        if version is not None:
            if version < newest.get((kind, i), 0):
                wrong.append("%s %d: %d after %d" % (kind, i, version, newest[kind, i]))
            newest[kind, i] = version
        return version

def look_all_the_time():
    while True:
        for kind in LOOKS:
            for i in range(len(LOOKS[kind])):
                try: look(kind, i)
                except Exception as e: wrong.append("%s %d: %r" % (kind, i, e))
                time.sleep(0.0005)

def seen(kind, version):
    if kind == "flip":
        there = version % 2 == 1
        if os.path.exists("flip") != there or ("flip" in os.listdir(".")) != there: return False
        try: return int(whole("flip")) == version and there
        except FileNotFoundError: return not there
        except (OSError, ValueError): return False   # replaced, or not yet written
    return all(look(kind, i) == version for i in range(len(LOOKS[kind])))

threading.Thread(target=look_all_the_time, daemon=True).start()
for line in sys.stdin:
    command, *words = line.split()
    if command == "expect":
        kind, version = words[0], int(words[1])
        begun = time.monotonic()
        while not seen(kind, version):
            if time.monotonic() - begun > 90:
                print("never seen:", kind, version, [look(kind, i) for i in range(len(LOOKS.get(kind, [])))], end=";")
                break
            time.sleep(0.0002)
        took = time.monotonic() - begun
        for again in range(3):
            if not seen(kind, version): wrong.append("%s: %d was seen and is gone" % (kind, version))
        print("%.6f." % took, flush=True)
    else:
        with lock:
            print("\n".join(wrong[:20]) + ".", flush=True)
)";

class Coherence : public testing::TestWithParam<Way> {
 protected:
  static int rounds() {
    const char* wanted = std::getenv("FBROKER_COHERENCE_ROUNDS");
    return wanted != nullptr ? std::atoi(wanted) : 60;
  }
  static std::string three(int version) {
    std::string text = std::to_string(version);
    text.insert(0, 8 - text.size(), '0');
    text += ":" + text + ":" + text;
    return text;
  }
  fs::path at(const std::string& name) const { return home.project() / name; }
  // In place, by one write.
  void put(const std::string& name, const std::string& content, int more_flags = 0) const {
    const UniqueFd file(::open(at(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | more_flags, 0644));
    EXPECT_EQ(::pwrite(file.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size())) << name;
  }

  void change(const std::string& kind, int version) const {
    if (kind == "edited") {
      put("edited", three(version));
    } else if (kind == "replaced") {
      std::string content;
      const std::string number = three(version).substr(0, 8);
      while (content.size() < 65536) content += number;
      put("replacing", content);
      fs::rename(at("replacing"), at("replaced"));
    } else if (kind == "resized") {
      put("resized", three(version));
      EXPECT_EQ(::truncate(at("resized").c_str(), 26 + version * 37 % 9000), 0);
    } else if (kind == "names") {
      fs::rename(at("names/" + std::to_string(version - 1)), at("names/" + std::to_string(version)));
    } else if (kind == "tree") {
      const std::string before = "tree/" + std::to_string(version - 1), after = "tree/" + std::to_string(version);
      put(before + "/next", std::to_string(version));
      fs::rename(at(before + "/next"), at(before + "/inner"));
      fs::rename(at(before), at(after));
    } else if (version % 2 == 1) {
      put("flip", std::to_string(version), O_EXCL);
    } else {
      fs::remove(at("flip"));
    }
  }

  void expect(Process& agent, const std::string& kind, int version) {
    agent.write_line("expect " + kind + " " + std::to_string(version));
    const auto answer = agent.read_until(".\n", 200s);
    ASSERT_TRUE(answer) << kind << ' ' << version << ": " << agent.rest() << agent.errors();
    ASSERT_EQ(answer->find("never"), answer->npos) << *answer;
    times.push_back(std::atof(answer->c_str()));
  }

  Home home{GetParam().user};
  std::vector<double> times;   // seconds until it was seen
};

INSTANTIATE_TEST_SUITE_P(, Coherence, testing::ValuesIn(Way::all()), [](const auto& way) { return way.param.name(); });

TEST_P(Coherence, WhatTheHostChangesIsSeenAndNothingOlderEverAgain) {
  home.write("reader.py", kReader);
  home.write("edited", three(0));
  home.write("resized", three(0));
  home.write("names/0", "");
  home.write("tree/0/inner", "0");
  change("replaced", 0);
  std::vector<std::string> argv{programs_directory() + "/fbroker", "run", "--name", "look"};
  for (const std::string& option : GetParam().options()) argv.push_back(option);
  for (const char* word : {"--", "python3", "/workspace/reader.py"}) argv.push_back(word);
  Process agent = Process::start(argv, home.as());

  const std::vector<std::string> kinds{"edited", "replaced", "resized", "names", "tree", "flip"};
  std::map<std::string, int> version;
  int changes = 0;
  for (int round = 0; round < rounds() && !HasFatalFailure(); ++round) {
    for (const std::string& kind : kinds) {
      // Mostly one change; now and then many that nobody waits for.
      const int burst = round % 8 == 7 ? 5 : 1;
      for (int i = 0; i < burst; ++i, ++changes) change(kind, ++version[kind]);
      expect(agent, kind, version[kind]);
      if (HasFatalFailure()) break;
    }
  }
  agent.write_line("wrong");
  const auto wrong = agent.read_until(".\n");
  ASSERT_TRUE(wrong) << agent.errors();
  EXPECT_EQ(*wrong, "");
  ASSERT_FALSE(times.empty());
  std::sort(times.begin(), times.end());
  std::printf("%s: %d changes; seen after %.2f ms (half of them), %.2f ms (all)\n", GetParam().name().c_str(), changes,
              times[times.size() / 2] * 1e3, times.back() * 1e3);
}

}  // namespace
}  // namespace fbroker::test
