// A revoke is final when it returns: nothing that a program in the sandbox
// begins afterwards succeeds, by whatever it holds. Real broker, real FUSE,
// real bubblewrap; over the device and over HTTP. FBROKER_REVOKE_SECONDS: how
// long for each way (default 4); the rounds go on as long as that.
//
// This program is also the load: started in the sandbox with FBROKER_TEST_LOAD
// set to a directory there, it holds files of it in all ways there are and uses
// them as fast as it is let, while the test grants and revokes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <thread>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kBytes = 64 * 1024;   // of each file
constexpr std::size_t kPage = 4096;

// The host's and the sandbox's: there is no time namespace between them.
std::int64_t now() {
  timespec at{};
  ::clock_gettime(CLOCK_MONOTONIC, &at);
  return static_cast<std::int64_t>(at.tv_sec) * 1'000'000'000 + at.tv_nsec;
}

// ---- the load ------------------------------------------------------------

const char* g_place = "";   // set once, before there are threads

std::string at(const char* name) { return std::string(g_place) + "/" + name; }

// What one worker holds. No destructors: a touched page may throw us out.
struct Held {
  int fd = -1, second = -1;
  char* map = nullptr;
  unsigned turn = 0;
  std::int64_t began = 0;   // the operation
};

bool open_file(Held& held, const char* name, int flags) {
  held.fd = ::open(at(name).c_str(), flags | O_CLOEXEC, 0644);
  return held.fd >= 0;
}
bool map_file(Held& held, int protection, int flags) {
  void* map = ::mmap(nullptr, kBytes, protection, flags, held.fd, 0);
  if (map == MAP_FAILED) return false;
  held.map = static_cast<char*>(map);
  return true;
}
bool make_file(Held& held, const char* name) {
  if (!open_file(held, name, O_RDWR | O_CREAT | O_TRUNC)) return false;
  static const char content[kBytes] = {'x'};
  return ::pwrite(held.fd, content, kBytes, 0) == static_cast<ssize_t>(kBytes);
}
bool read_page(int fd, unsigned turn) {
  char page[kPage];
  return ::pread(fd, page, kPage, static_cast<off_t>(turn % (kBytes / kPage) * kPage)) > 0;
}
bool touch(const Held& held) {
  // Reading through volatile: what the compiler must not leave out.
  return *(static_cast<volatile char*>(held.map) + held.turn % (kBytes / kPage) * kPage) >= 0 || true;
}
bool store(const Held& held) {
  *(static_cast<volatile char*>(held.map) + held.turn % (kBytes / kPage) * kPage) = 'y';
  return true;
}
void release(Held& held) {
  if (held.map != nullptr) ::munmap(held.map, kBytes);
  if (held.fd >= 0) ::close(held.fd);
  if (held.second >= 0) ::close(held.second);
  held = Held{.turn = held.turn};
}

bool read_somehow(Held& held) {
  off_t at = 0;
  switch (held.turn % 3) {
    case 0: return read_page(held.fd, held.turn);
    case 1: return ::sendfile(held.second, held.fd, &at, kPage) > 0;
    default: return ::lseek(held.fd, 0, SEEK_SET) == 0 && read_page(held.fd, 1);
  }
}

bool write_somehow(Held& held) {
  if (held.turn % 8 == 0) return ::ftruncate(held.fd, static_cast<off_t>(kBytes)) == 0;
  return ::pwrite(held.fd, "written", 7, static_cast<off_t>(held.turn % kBytes)) == 7;
}

bool list(Held& held) {
  char entries[4096];
  if (held.turn % 2 == 0) {
    const int inner = ::openat(held.fd, "inner", O_RDONLY | O_CLOEXEC);
    if (inner < 0) return false;
    const bool read = read_page(inner, 0);
    ::close(inner);
    return read;
  }
  if (::lseek(held.fd, 0, SEEK_SET) != 0) return false;
  const long got = ::syscall(SYS_getdents64, held.fd, entries, sizeof entries);
  return got > 0 && ::memmem(entries, static_cast<std::size_t>(got), "inner", 5) != nullptr;
}

bool lock(int fd, int command, short type) {
  struct flock wanted{};
  wanted.l_type = type;
  wanted.l_whence = SEEK_SET;
  return ::fcntl(fd, command, &wanted) == 0;
}

// Holds both kinds of lock half of the time, and no longer than it can read.
bool read_under_lock(Held& held) {
  ::flock(held.fd, LOCK_EX | LOCK_NB);
  const bool wanted = held.turn % 32 < 16;
  if (wanted) lock(held.fd, F_OFD_SETLK, F_WRLCK);
  const bool read = read_page(held.fd, held.turn);
  if (!read || !wanted) lock(held.fd, F_OFD_SETLK, F_UNLCK);
  return read;
}
// Blocked in the kernel most of the time; what follows may begin after a revoke.
bool read_after_waiting(Held& held) {
  if (!lock(held.fd, F_OFD_SETLKW, F_WRLCK)) return false;
  held.began = now();
  const bool read = read_page(held.fd, held.turn);
  lock(held.fd, F_OFD_SETLK, F_UNLCK);
  return read;
}

bool open_anew(Held& held) {
  const std::string self = "/proc/self/fd/" + std::to_string(held.fd);
  const int fd = ::open(self.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool read = read_page(fd, held.turn);
  ::close(fd);
  return read;
}

bool open_by_name(Held& held) {
  struct stat info{};
  if (held.turn % 3 == 0) return ::stat(at("fresh").c_str(), &info) == 0;
  const int fd = ::open(at("fresh").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool read = read_page(fd, held.turn);
  ::close(fd);
  return read;
}

bool change_names(Held& held) {
  switch (held.turn % 4) {
    case 0: return ::mkdir(at("made").c_str(), 0755) == 0;
    case 1: return ::rmdir(at("made").c_str()) == 0;
    case 2: {
      const int fd = ::open(at("created").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      if (fd >= 0) ::close(fd);
      return fd >= 0;
    }
    default: return ::unlink(at("created").c_str()) == 0;
  }
}

struct Kind {
  const char* name;
  bool changes;            // what ends when only writing is taken away
  bool (*open)(Held&);
  bool (*work)(Held&);
};

const Kind kKinds[] = {
    {"read", false, [](Held& h) { h.second = ::open("/dev/null", O_WRONLY | O_CLOEXEC); return open_file(h, "read", O_RDONLY); }, read_somehow},
    {"write", true, [](Held& h) { return open_file(h, "write", O_RDWR); }, write_somehow},
    {"append", true, [](Held& h) { return open_file(h, "append", O_WRONLY | O_APPEND); },
     [](Held& h) { return ::write(h.fd, "appended\n", 9) == 9; }},
    {"map", false, [](Held& h) { return open_file(h, "map", O_RDONLY) && map_file(h, PROT_READ, MAP_SHARED); },
     [](Held& h) { return touch(h); }},
    {"map-private", false, [](Held& h) { return open_file(h, "map", O_RDONLY) && map_file(h, PROT_READ, MAP_PRIVATE); },
     [](Held& h) { return touch(h); }},
    {"map-write", true, [](Held& h) { return open_file(h, "map-write", O_RDWR) && map_file(h, PROT_READ | PROT_WRITE, MAP_SHARED); },
     [](Held& h) { return store(h); }},
    {"directory", false, [](Held& h) { return open_file(h, "dir", O_RDONLY | O_DIRECTORY); }, list},
    {"lock", false, [](Held& h) { return open_file(h, "locked", O_RDWR); }, read_under_lock},
    {"wait-for-lock", false, [](Held& h) { return open_file(h, "locked", O_RDWR); }, read_after_waiting},
    {"unlinked", false, [](Held& h) { return make_file(h, "gone") && ::unlink(at("gone").c_str()) == 0; },
     [](Held& h) { return read_page(h.fd, h.turn); }},
    {"unlinked-write", true, [](Held& h) { return make_file(h, "gone-write") && ::unlink(at("gone-write").c_str()) == 0; }, write_somehow},
    {"unlinked-map", true,
     [](Held& h) {
       return make_file(h, "gone-map") && map_file(h, PROT_READ | PROT_WRITE, MAP_SHARED) && ::unlink(at("gone-map").c_str()) == 0;
     },
     [](Held& h) { return h.turn % 2 == 0 ? touch(h) : store(h); }},
    {"replaced", false,
     [](Held& h) {
       Held other;
       const bool made = make_file(h, "old") && make_file(other, "new") && ::rename(at("new").c_str(), at("old").c_str()) == 0;
       release(other);
       return made;
     },
     [](Held& h) { return read_page(h.fd, h.turn); }},
    {"renamed", true,
     [](Held& h) { return make_file(h, "before") && ::rename(at("before").c_str(), at("after").c_str()) == 0; },
     [](Held& h) { return h.turn % 2 == 0 ? write_somehow(h) : ::pwrite(h.fd, "x", 1, 0) == 1; }},
    {"moved-by-host", false, [](Held& h) { return open_file(h, "moved", O_RDONLY) && map_file(h, PROT_READ, MAP_SHARED); },
     [](Held& h) { return h.turn % 2 == 0 ? touch(h) : read_page(h.fd, h.turn); }},
    {"path-only", false, [](Held& h) { return open_file(h, "path-only", O_PATH); }, open_anew},
    {"by-name", false, [](Held&) { return true; }, open_by_name},
    {"names", true, [](Held&) { return true; }, change_names},
};

thread_local sigjmp_buf t_way_out;
thread_local volatile sig_atomic_t t_touching = 0;

void on_bus_error(int) {
  if (t_touching != 0) ::siglongjmp(t_way_out, 1);
  ::_exit(99);
}

bool attempt(const Kind& kind, Held& held) {
  if (sigsetjmp(t_way_out, 1) != 0) {
    t_touching = 0;
    return false;
  }
  t_touching = 1;
  const bool worked = kind.work(held);
  t_touching = 0;
  return worked;
}

struct Worker {
  const Kind* kind;
  std::atomic<unsigned> wanted{0}, opened{0};   // openings
  std::atomic<unsigned> attempts{0};            // since the latest
  std::atomic<bool> worked{false};              // since the latest
  std::atomic<std::int64_t> latest{0};          // when the latest success began
  std::atomic<int> why{0};
};

void work(Worker& worker) {
  Held held;
  for (;; ++held.turn) {
    if (const unsigned wanted = worker.wanted; wanted != worker.opened) {
      release(held);
      if (!worker.kind->open(held)) {
        worker.why = errno;
        ::usleep(2000);
        continue;
      }
      worker.worked = false;
      worker.opened = wanted;
    }
    held.began = now();
    if (attempt(*worker.kind, held)) {
      worker.latest = std::max(worker.latest.load(), held.began);
      worker.worked = true;
    } else {
      worker.why = errno;
    }
    ++worker.attempts;
    ::usleep(100);
  }
}

int count_files(const std::string& directory) {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) count += entry.is_regular_file() ? 1 : 0;
  return count;
}

template <class Condition>
bool in_time(Condition condition) {
  for (const std::int64_t until = now() + std::int64_t{90} * 1'000'000'000; now() < until; ::usleep(500))
    if (condition()) return true;
  return false;
}

[[noreturn]] void be_the_load() {
  struct sigaction action{};
  action.sa_handler = on_bus_error;
  ::sigaction(SIGBUS, &action, nullptr);
  static std::array<Worker, std::size(kKinds)> workers;
  for (std::size_t i = 0; i < workers.size(); ++i) workers[i].kind = &kKinds[i];
  bool started = false;
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "open") {
      for (Worker& worker : workers) ++worker.wanted;
      if (!std::exchange(started, true))
        for (Worker& worker : workers) std::thread([&worker] { work(worker); }).detach();
      for (Worker& worker : workers)
        if (!in_time([&] { return worker.opened == worker.wanted && worker.worked; }))
          std::cout << worker.kind->name << " does not work: " << std::strerror(worker.why) << "; ";
    } else if (line == "settle") {
      std::array<unsigned, std::size(kKinds)> before{};
      for (std::size_t i = 0; i < workers.size(); ++i) before[i] = workers[i].attempts;
      for (std::size_t i = 0; i < workers.size(); ++i)
        if (!in_time([&] { return workers[i].attempts - before[i] >= 4; })) std::cout << workers[i].kind->name << " hangs; ";
      for (Worker& worker : workers)
        std::cout << worker.kind->name << ' ' << worker.kind->changes << ' ' << worker.latest << '\n';
    } else if (line.starts_with("walk ")) {
      std::cout << count_files(line.substr(5));
    }
    std::cout << "." << std::endl;
  }
  ::_exit(0);
}

[[gnu::constructor]] void perhaps_be_the_load() {
  if (const char* place = std::getenv("FBROKER_TEST_LOAD")) {
    // Before main: the streams are there once an object of this is.
    static const std::ios_base::Init streams;
    g_place = place;
    be_the_load();
  }
}

// ---- the tests -----------------------------------------------------------

double seconds_of_rounds() {
  const char* wanted = std::getenv("FBROKER_REVOKE_SECONDS");
  return wanted != nullptr ? std::atof(wanted) : 4;
}
constexpr int kLeastRounds = 4;
#ifdef __SANITIZE_ADDRESS__
constexpr int kKnownFiles = 2'000;    // each takes ten times as long, and a revoke has its bound
#else
constexpr int kKnownFiles = 20'000;
#endif

class DeviceRevoke : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    home.write("p.json", R"({"version":1,"exports":[{"at":"/","from":"."}],
      "rules":[{"allow":"read","paths":["/many","/readable"]}]})");
  }
  void fill(const std::string& place) const {
    for (const char* name : {"read", "write", "append", "map", "map-write", "dir/inner", "locked", "path-only", "fresh"})
      home.write(place + "/" + name, std::string(kBytes, 'a'));
  }
  Process load(const std::string& place) const {
    const fs::path kit = home.path() / "kit";
    fs::create_directories(kit);
    fs::copy_file("/proc/self/exe", kit / "load", fs::copy_options::overwrite_existing);
    std::vector<std::string> argv{programs_directory() + "/fbroker", "run", "--name", "revoke", "--policy", "p.json"};
    for (const std::string& option : GetParam().options()) argv.push_back(option);
    for (const std::string& word : {std::string("--tool"), kit.string(), std::string("--"), std::string("env"),
                                    "FBROKER_TEST_LOAD=/workspace/" + place, (kit / "load").string()})
      argv.push_back(word);
    return Process::start(argv, home.as());
  }
  static std::string ask(Process& load, const std::string& command) {
    load.write_line(command);
    const auto answer = load.read_until(".\n", 200s);
    EXPECT_TRUE(answer) << command << ": no answer; " << load.rest() << load.errors();
    return answer.value_or("");
  }
  json person(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin() + 1, {"-s", "revoke", "--json"});
    const Output output = home.fbroker(arguments);
    EXPECT_EQ(output.status, 0) << arguments[0] << ": " << output.out << output.err;
    json answer = json::parse(output.out, nullptr, false);
    return answer.is_object() ? answer : json::object();
  }
  json revoke(const std::string& what) {
    const json answer = person({"revoke", what});
    returned = now();
    times.push_back(answer.value("milliseconds", -1.0));
    EXPECT_FALSE(answer.value("sandbox_killed", true)) << answer.dump();
    handles += answer.value("handles_closed", 0);
    return answer;
  }
  void expect_nothing_succeeded(Process& load, bool changes_only, int round) const {
    std::istringstream lines(ask(load, "settle"));
    std::string name;
    bool changes = false;
    std::int64_t latest = 0;
    int seen = 0;
    for (; lines >> name >> changes >> latest; ++seen) {
      EXPECT_GT(latest, 0) << name;
      if (changes || !changes_only) {
        EXPECT_LT(latest, returned) << name << " succeeded after revoke had returned, round " << round;
      }
    }
    EXPECT_EQ(seen, static_cast<int>(std::size(kKinds))) << lines.str();
  }
  void tell_times() {
    std::sort(times.begin(), times.end());
    const auto of = [&](double share) { return times[static_cast<std::size_t>(share * static_cast<double>(times.size() - 1))]; };
    std::printf("%s: %zu revokes, 0.5: %.1f ms, 0.99: %.1f ms, most: %.1f ms; %llu handles closed\n",
                GetParam().name().c_str(), times.size(), of(0.5), of(0.99), times.back(), handles);
  }
  template <class Round>
  void rounds(Round one) {
    const std::int64_t until = now() + static_cast<std::int64_t>(seconds_of_rounds() * 1e9);
    for (int round = 0; (round < kLeastRounds || now() < until) && !HasFailure(); ++round) one(round);
    tell_times();
  }

  Home home{GetParam().user};
  std::int64_t returned = 0;
  std::vector<double> times;
  unsigned long long handles = 0;
};

INSTANTIATE_TEST_SUITE_P(, DeviceRevoke, testing::ValuesIn(Way::all()), [](const auto& way) { return way.param.name(); });

// One place among many that the kernel knows, and now and then all of them.
TEST_P(DeviceRevoke, NothingThatBeginsAfterwardsSucceeds) {
  fill("granted");
  ASSERT_EQ(home.shell("for d in $(seq 20); do mkdir -p many/$d; (cd many/$d; seq " +
                       std::to_string(kKnownFiles / 20) + " | xargs touch); done").status, 0);
  Process inside = load("granted");
  ASSERT_EQ(ask(inside, "walk /workspace/many"), std::to_string(kKnownFiles));
  rounds([&](int round) {
    home.write("granted/moved", std::string(kBytes, 'm'));
    person({"grant", "granted", "--write"});
    ASSERT_EQ(ask(inside, "open"), "");
    fs::rename(home.project() / "granted/moved", home.path() / ("moved-" + std::to_string(round)));
    const bool everything = round % 4 == 3;
    const json answer = revoke(everything ? "." : "granted");
    expect_nothing_succeeded(inside, false, round);
    if (!everything) return;
    for (const json& deny : answer.value("denied", json::array())) person({"revoke", deny.value("id", "")});
    ASSERT_EQ(ask(inside, "walk /workspace/many"), std::to_string(kKnownFiles));
  });
  inside.close_input();
  EXPECT_EQ(inside.wait(), 0) << "the sandbox lives through all of it: " << inside.errors();
}

TEST_P(DeviceRevoke, WritingIsTakenAwayAndReadingStays) {
  fill("readable");
  Process inside = load("readable");
  ASSERT_EQ(ask(inside, "walk /workspace/readable"), "9");
  rounds([&](int round) {
    home.write("readable/moved", std::string(kBytes, 'm'));
    const json granted = person({"grant", "readable", "--write"});
    ASSERT_EQ(ask(inside, "open"), "");
    const std::string id = granted.value("id", granted.value("grant", json::object()).value("id", ""));
    ASSERT_NE(id, "") << granted.dump();
    revoke(id);
    expect_nothing_succeeded(inside, true, round);
    const std::string read = ask(inside, "walk /workspace/readable");
    EXPECT_GE(std::atoi(read.c_str()), 9) << "what may be read is still there";
  });
  inside.close_input();
  EXPECT_EQ(inside.wait(), 0) << inside.errors();
}

// A person sees what it took, and a program too.
TEST_P(DeviceRevoke, TheVerbSaysHowLongItTookAndHowMuchItClosed) {
  home.write("secret", "s");
  AgentShell agent(home, "revoke", [this] { auto o = GetParam().options(); o.insert(o.end(), {"--policy", "p.json"}); return o; }());
  ASSERT_EQ(agent("true").status, 0) << agent.errors();
  person({"grant", "secret"});
  ASSERT_EQ(agent("exec 7<secret 8<secret").status, 0) << agent.errors();
  const json answer = person({"revoke", "secret"});
  EXPECT_GE(answer.value("handles_closed", 0), 1) << answer.dump();
  EXPECT_GT(answer.value("milliseconds", 0.0), 0) << answer.dump();
  person({"grant", "secret"});
  ASSERT_EQ(agent("exec 7<secret").status, 0);
  const Output words = home.fbroker({"revoke", "-s", "revoke", "secret"});
  EXPECT_NE(words.out.find("1 handle closed, "), std::string::npos) << words.out;
  EXPECT_NE(words.out.find(" ms\n"), std::string::npos) << words.out;
}

// ATTACK: an agent that has the broker serve a mount of its own.
TEST_P(DeviceRevoke, TheAgentCannotGiveADeviceAway) {
  AgentShell agent(home, "revoke", GetParam().options());
  const auto answer = agent(R"(python3 - <<'PY'
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/fbroker/broker.sock")
s.sendall(b"GET /v1/device HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: fbroker-device\r\n\r\n")
print(s.recv(65536).decode())
PY)");
  EXPECT_EQ(answer.status, 0) << answer.out;
  EXPECT_EQ(answer.out.substr(0, 13), "HTTP/1.1 409 ") << answer.out;
}

}  // namespace
}  // namespace fbroker::test
