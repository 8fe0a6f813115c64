// What the broker's answer to a FUSE request costs: a session's files mounted by
// this very process (front, file service, real audit log, 50 rules, host watch),
// a child process that works on them, and the same work in a plain directory
// beside it, in turns.
//
//   front_bench [ROUNDS] [DIRECTORY]      FBROKER_BENCH_ONLY=list: what begins so
//
// Per operation: the median in microseconds on both sides, their ratio, and the
// processor time of the program that works and of this process with it.
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "broker/audit/audit_log.h"
#include "broker/files/export.h"
#include "broker/files/local_file_service.h"
#include "broker/files/own_files.h"
#include "broker/fuse/device.h"
#include "broker/fuse/front.h"
#include "broker/watch/host_watch.h"

namespace {

using namespace fbroker;

constexpr int kFiles = 1000, kEntries = 1000, kPages = 4096;
constexpr std::size_t kPage = 4096;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "front_bench: %s: %s\n", what.c_str(), std::strerror(errno));
  std::_Exit(1);
}
template <class T>
T value_of(Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "front_bench: %s\n", result.error().text().c_str());
  std::_Exit(1);
}

// ---- the child: works in a directory, prints "NAME MEDIAN_NS OWN_CPU_NS BROKER_CPU_NS" lines

std::int64_t now(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

class Worker {
 public:
  Worker(std::string directory, int round) : at_(std::move(directory)), round_(std::to_string(round)) {
    if (::clock_getcpuclockid(::getppid(), &broker_) != 0) fail("clock_getcpuclockid");
  }

  void work() {
    const std::string small = at_ + "/small/";
    for (int i = 0; i < kFiles; ++i) read_once(small + std::to_string(i));   // warm
    measure("open read close", kFiles, [&](int i) { read_once(small + std::to_string(i)); });
    measure("stat, not yet known", kFiles, [&](int i) {
      struct stat st;
      if (::lstat((at_ + "/cold" + round_ + "/" + std::to_string(i)).c_str(), &st) != 0) fail("lstat");
    });
    measure("stat, absent", kFiles, [&](int i) {
      struct stat st;
      ::lstat((at_ + "/cold" + round_ + "/no" + std::to_string(i)).c_str(), &st);
    });
    std::vector<int> open(kFiles);
    const auto made = [&](int i) { return at_ + "/made" + round_ + "-" + std::to_string(i); };
    measure("create", kFiles, [&](int i) {
      open[static_cast<std::size_t>(i)] = ::open(made(i).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
      if (open[static_cast<std::size_t>(i)] < 0) fail("create");
    });
    measure("write 1 KiB", kFiles, [&](int i) {
      if (::write(open[static_cast<std::size_t>(i)], page_, 1024) != 1024) fail("write");
    });
    measure("close written", kFiles, [&](int i) { ::close(open[static_cast<std::size_t>(i)]); });
    measure("open O_TRUNC", kFiles, [&](int i) { ::close(::open(made(i).c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC)); });
    measure("rename", kFiles, [&](int i) {
      if (::rename(made(i).c_str(), (made(i) + "r").c_str()) != 0) fail("rename");
    });
    measure("unlink", kFiles, [&](int i) {
      if (::unlink((made(i) + "r").c_str()) != 0) fail("unlink");
    });
    measure("mkdir", kFiles, [&](int i) {
      if (::mkdir(made(i).c_str(), 0755) != 0) fail("mkdir");
    });
    measure("rmdir", kFiles, [&](int i) {
      if (::rmdir(made(i).c_str()) != 0) fail("rmdir");
    });
    const std::string big = at_ + "/many" + round_;
    measure("list 1000, first time", 1, [&](int) { list(big); });
    measure("list 1000, again", 20, [&](int) { list(big); });
    const int file = ::open((at_ + "/pages" + round_).c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0) fail("pages");
    ::posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
    measure("pread 4 KiB, random", kPages / 4, [&](int i) { page_io(file, i, false); });
    measure("pwrite 4 KiB, random", kPages / 4, [&](int i) { page_io(file, i, true); });
    ::close(file);
  }

 private:
  template <class Act>
  void measure(const char* name, int count, Act act) {
    const char* const only = std::getenv("FBROKER_BENCH_ONLY");
    if (only != nullptr && !std::string_view(name).starts_with(only)) return;
    std::vector<std::int64_t> times(static_cast<std::size_t>(count));
    const std::int64_t own = now(CLOCK_PROCESS_CPUTIME_ID), broker = now(broker_);
    for (int i = 0; i < count; ++i) {
      const std::int64_t begun = now(CLOCK_MONOTONIC);
      act(i);
      times[static_cast<std::size_t>(i)] = now(CLOCK_MONOTONIC) - begun;
    }
    const std::int64_t own_used = now(CLOCK_PROCESS_CPUTIME_ID) - own, broker_used = now(broker_) - broker;
    std::nth_element(times.begin(), times.begin() + count / 2, times.end());
    std::printf("%s|%lld|%lld|%lld\n", name, static_cast<long long>(times[static_cast<std::size_t>(count / 2)]),
                static_cast<long long>(own_used / count), static_cast<long long>(broker_used / count));
    std::fflush(stdout);
  }
  void read_once(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ::read(fd, page_, sizeof page_) < 0) fail(path);
    ::close(fd);
  }
  void list(const std::string& path) {
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) fail(path);
    while (::readdir(directory) != nullptr) {}
    ::closedir(directory);
  }
  void page_io(int file, int i, bool write) {
    const off_t where = (i * 2654435761LL % kPages) * static_cast<off_t>(kPage);
    const ssize_t done = write ? ::pwrite(file, page_, kPage, where) : ::pread(file, page_, kPage, where);
    if (done != static_cast<ssize_t>(kPage)) fail("page");
  }

  std::string at_, round_;
  clockid_t broker_{};
  char page_[kPage] = {};
};

// ---- the parent: prepares, serves, prints

void make_file(const std::string& path, std::size_t size) {
  std::ofstream(path) << std::string(size, 'x');
}

void prepare(const std::string& at, int rounds) {
  namespace fs = std::filesystem;
  fs::create_directories(at + "/small");
  for (int i = 0; i < kFiles; ++i) make_file(at + "/small/" + std::to_string(i), 1000);
  for (int round = 0; round < rounds; ++round) {
    const std::string n = std::to_string(round);
    for (const std::string& directory : {at + "/cold" + n, at + "/many" + n}) {
      fs::create_directories(directory);
      for (int i = 0; i < kEntries; ++i) make_file(directory + "/" + std::to_string(i), 10);
    }
    make_file(at + "/pages" + n, kPages * kPage);
  }
}

std::vector<policy::Rule> fifty_rules() {
  std::vector<policy::Rule> rules(50);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const std::string n = std::to_string(i);
    rules[i].id = "bench:" + n;
    rules[i].effect = i == 0 ? policy::Effect::allow : policy::Effect::deny;
    rules[i].operations = policy::level_of(rules[i].effect, i == 0 ? "write" : "all").value();
    rules[i].paths = {i == 0 ? "/**" : i % 2 == 0 ? "**/*.secret" + n : "/hidden" + n + "/below"};
  }
  return rules;
}

struct Figures {
  std::vector<std::int64_t> median, own, broker;
};
std::int64_t middle(std::vector<std::int64_t> all) {
  std::sort(all.begin(), all.end());
  return all.empty() ? 0 : all[all.size() / 2];
}

void run_child(const std::string& directory, int round, std::map<std::string, Figures>& into,
               std::vector<std::string>* order) {
  int ends[2];
  if (::pipe(ends) != 0) fail("pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 1);
    ::execl("/proc/self/exe", "front_bench", "--work", directory.c_str(), std::to_string(round).c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  FILE* lines = ::fdopen(ends[0], "r");
  char line[256], name[64];
  long long median, own, broker;
  while (std::fgets(line, sizeof line, lines) != nullptr) {
    if (std::sscanf(line, "%63[^|]|%lld|%lld|%lld", name, &median, &own, &broker) != 4) continue;
    if (order != nullptr && !into.contains(name)) order->emplace_back(name);
    Figures& figures = into[name];
    figures.median.push_back(median), figures.own.push_back(own), figures.broker.push_back(broker);
  }
  std::fclose(lines);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (status != 0) fail("the child failed");
}

// Takes a session's events to the front, as the broker does.
class Pump {
 public:
  Pump(broker::EventBus& bus, fuse::FuseFront& front) : front_(front) {
    subscription_ = bus.subscribe([this] {
      const std::lock_guard lock(mutex_);
      woken_ = true;
      ready_.notify_one();
    });
    thread_ = std::thread([this] { run(); });
  }
  ~Pump() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = woken_ = true;
    }
    ready_.notify_one();
    thread_.join();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (!ending_) {
      ready_.wait(lock, [this] { return woken_; });
      woken_ = false;
      lock.unlock();
      for (const protocol::Event& event : subscription_->take()) {
        front_.handle(event);
        subscription_->acknowledge(event.sequence);
      }
      lock.lock();
    }
  }
  fuse::FuseFront& front_;
  std::unique_ptr<broker::EventBus::Subscription> subscription_;
  std::mutex mutex_;
  std::condition_variable ready_;
  bool woken_ = false, ending_ = false;
  std::thread thread_;
};

void serve_and_measure(const std::string& place, int rounds) {
  for (const char* side : {"/w", "/native"}) prepare(place + side, rounds);
  std::filesystem::create_directories(place + "/m");
  audit::AuditOptions log_options;
  log_options.directory = place + "/audit";
  log_options.quota = {1e12, 1e12, 1e15, 1e15};
  const auto log = value_of(audit::AuditLog::open(log_options));
  broker::OwnFiles own;
  own.add_directory(place + "/audit");
  broker::EventBus events;
  const auto watch = value_of(broker::HostWatch::start(events));
  policy::Export all;
  all.from = ".";
  const auto snapshot = policy::Snapshot::compile({fifty_rules(), {}, 1});
  if (!snapshot) fail("rules");
  broker::Admissions admissions(std::make_shared<const broker::View>(broker::View{
      .snapshot = *snapshot, .exports = value_of(broker::ExportTable::build({place + "/w", place, {all}, {}}))}));
  broker::SessionContext context{"bench", admissions, events, *log, own, watch.get()};
  broker::LocalFileService service(context);

  auto mount = value_of(fuse::Mount::make(place + "/m", ::geteuid(), ::getegid()));
  fuse::Options options;
  options.uid = ::geteuid();
  options.gid = ::getegid();
  if (const char* threads = std::getenv("FBROKER_BENCH_THREADS")) options.threads = static_cast<unsigned>(std::atoi(threads));
  std::vector<UniqueFd> devices;
  devices.push_back(mount.take_device());
  while (devices.size() < options.threads) devices.push_back(fuse::clone_device(devices.front().get()));
  const auto front = value_of(fuse::FuseFront::create(service, std::move(devices), options));
  std::thread serving([&] { (void)front->run(); });
  auto pump = std::make_unique<Pump>(events, *front);

  std::map<std::string, Figures> mounted, native;
  std::vector<std::string> order;
  for (int round = 0; round < rounds; ++round) {
    run_child(place + "/m", round, mounted, &order);
    run_child(place + "/native", round, native, nullptr);
  }
  std::printf("%-24s %9s %9s %7s | %9s %9s   (microseconds; %d rounds)\n", "operation", "mount", "native", "ratio",
              "own cpu", "broker", rounds);
  for (const std::string& name : order) {
    const auto us = [](const std::vector<std::int64_t>& all_of) { return static_cast<double>(middle(all_of)) / 1000; };
    const double here = us(mounted[name].median), there = us(native[name].median);
    std::printf("%-24s %9.2f %9.2f %7.2f | %9.2f %9.2f\n", name.c_str(), here, there, here / there,
                us(mounted[name].own), us(mounted[name].broker));
  }
  pump.reset();
  { const auto gone = std::move(mount); }
  front->stop();
  serving.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "--work") == 0) {
    Worker(argv[2], std::atoi(argv[3])).work();
    return 0;
  }
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 5;
  std::string place = std::string(argc > 2 ? argv[2] : "/tmp") + "/fbroker-front-bench-XXXXXX";
  if (::mkdtemp(place.data()) == nullptr) fail(place);
  serve_and_measure(place, rounds);
  std::filesystem::remove_all(place);
}
