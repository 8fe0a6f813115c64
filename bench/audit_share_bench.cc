// What the record of every access costs: the same work through two mounts of
// the same kind, one whose records go to a real audit log and one whose
// records go nowhere, in rounds that take turns.
//
// Nobody can switch the log off; this program leaves it out by giving the file
// service another AuditSink, and that is the only way there is.
//
// It mounts, so it must be root:
//   audit_share_bench [--rounds N] [--files N] [--dir DIRECTORY] [--log DIRECTORY] [--json]
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
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
using Clock = std::chrono::steady_clock;

struct Options {
  unsigned rounds = 9;
  unsigned files = 2000;
  std::string directory = "/tmp";   // of the files
  std::string log = "/tmp";         // of the audit log, on a disk where there is one
  bool as_json = false;
};

volatile std::sig_atomic_t interrupted = 0;   // ends the rounds, so that everything is unmounted

// Thrown, so that what is mounted is unmounted.
[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }
template <class T>
T must(Result<T> made) {
  if (!made) fail(made.error().text());
  return std::move(*made);
}

class NoRecord final : public audit::AuditSink {
 public:
  Result<void, Errno> append(const audit::Record&) override { return ok; }
  Result<void, Errno> wait_durable() override { return ok; }
};

policy::Rule rule(policy::Effect effect, std::string_view level, std::string path, std::size_t number) {
  policy::Rule made;
  made.id = "policy:" + std::to_string(number);
  made.effect = effect;
  made.operations = policy::level_of(effect, level).value();
  made.paths = {std::move(path)};
  return made;
}

// 50, as a person's policy has them.
std::vector<policy::Rule> rules() {
  std::vector<policy::Rule> made{rule(policy::Effect::allow, "write", "/**", 0)};
  while (made.size() < 50) {
    const std::string number = std::to_string(made.size());
    const bool denies = made.size() % 2 == 0;
    made.push_back(rule(denies ? policy::Effect::deny : policy::Effect::ask, denies ? "all" : "write",
                        denies ? "**/*.secret" + number : "/guarded/part" + number + "/**", made.size()));
  }
  return made;
}

// A session's files, mounted. Everything is as in the broker but the sink.
class Mounted {
 public:
  // `log`: where its audit log lies; "" = none.
  Mounted(const std::string& at, const std::string& log) : files_(at + "/files"), mounted_(at + "/mounted") {
    for (const std::string& directory : {files_, mounted_}) std::filesystem::create_directories(directory);
    if (!log.empty()) {
      audit::AuditOptions options;
      options.directory = log + "/audit";
      auto opened = audit::AuditLog::open(options);
      if (!opened) fail(opened.error().text());
      log_ = std::move(*opened);
    }
    auto table = broker::ExportTable::build({files_, at, {{.at = *WorkspacePath::parse("/"), .from = ".", .submounts = false}}, {}});
    if (!table) fail(table.error().text());
    auto snapshot = policy::Snapshot::compile({rules(), {}, 1});
    if (!snapshot) fail(snapshot.error().text());
    admissions_.emplace(std::make_shared<const broker::View>(
        broker::View{*snapshot, *table, policy::Durability::normal,
                     std::make_shared<policy::NetworkRules>(std::vector<policy::HostRule>{}, true),
                     broker::git_guard_of(rules()).value()}));
    watch_ = std::move(broker::HostWatch::start(events_)).value();
    audit::AuditSink& sink = log_ ? static_cast<audit::AuditSink&>(*log_) : none_;
    context_.emplace(broker::SessionContext{"bench", *admissions_, events_, sink, own_, watch_.get()});
    service_ = std::make_unique<broker::LocalFileService>(*context_);
    serve();
  }
  ~Mounted() {
    mount_.reset();
    front_->stop();
    serving_.join();
  }

  std::string path(const std::string& name) const { return mounted_ + "/" + name; }
  const std::string& files() const { return files_; }
  void settle() const {
    if (log_ && !log_->sync(std::chrono::seconds(30))) fail("the audit log was not written within 30 s");
  }

 private:
  void serve() {
    mount_.emplace(must(fuse::Mount::make(mounted_, ::geteuid(), ::getegid())));
    fuse::Options options;
    options.uid = ::geteuid();
    options.gid = ::getegid();
    std::vector<UniqueFd> devices;
    devices.push_back(mount_->take_device());
    while (devices.size() < options.threads) devices.push_back(fuse::clone_device(devices.front().get()));
    front_ = must(fuse::FuseFront::create(*service_, std::move(devices), options));
    serving_ = std::thread([this] {
      if (auto ended = front_->run(); !ended) std::fprintf(stderr, "audit_share_bench: %s\n", ended.error().text().c_str());
    });
  }

  std::string files_, mounted_;
  NoRecord none_;
  std::unique_ptr<audit::AuditLog> log_;
  broker::OwnFiles own_;
  broker::EventBus events_;
  std::optional<broker::Admissions> admissions_;
  std::unique_ptr<broker::HostWatch> watch_;
  std::optional<broker::SessionContext> context_;
  std::unique_ptr<broker::LocalFileService> service_;
  std::optional<fuse::Mount> mount_;
  std::unique_ptr<fuse::FuseFront> front_;
  std::thread serving_;
};

// --- The work. Runs in a child process of its own, so nothing but system calls.

using Work = bool (*)(const char* directory, unsigned files);

void name_of(std::span<char> into, const char* directory, unsigned number, const char* ending) {
  std::snprintf(into.data(), into.size(), "%s/f%u%s", directory, number, ending);
}

bool open_read_close(const char* directory, unsigned files) {
  char path[4096], block[4096];
  for (unsigned i = 0; i < files; ++i) {
    name_of(path, directory, i, "");
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ::read(fd, block, sizeof block) < 0) return false;
    ::close(fd);
  }
  return true;
}

bool create_write_rename_unlink(const char* directory, unsigned files) {
  char path[4096], renamed[4096];
  const char text[1000] = {};
  for (unsigned i = 0; i < files; ++i) {
    name_of(path, directory, i, ".new");
    name_of(renamed, directory, i, ".renamed");
    const int fd = ::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || ::write(fd, text, sizeof text) != sizeof text) return false;
    ::close(fd);
    if (::rename(path, renamed) < 0 || ::unlink(renamed) < 0) return false;
  }
  return true;
}

struct Cost {
  double wall = 0;   // microseconds a file, as the program that works sees it
  double cpu = 0;    // microseconds a file of this process, the log's writing included
};

double seconds_of(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }
double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return seconds_of(used.ru_utime) + seconds_of(used.ru_stime);
}

double seconds_in_child(Work work, const std::string& directory, unsigned files) {
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) < 0) fail("pipe2");
  const UniqueFd reading(pipe[0]);
  UniqueFd writing(pipe[1]);
  const pid_t child = ::fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    timespec begin{}, end{};
    ::clock_gettime(CLOCK_MONOTONIC, &begin);
    const bool worked = work(directory.c_str(), files);
    ::clock_gettime(CLOCK_MONOTONIC, &end);
    const double seconds = static_cast<double>(end.tv_sec - begin.tv_sec) + static_cast<double>(end.tv_nsec - begin.tv_nsec) / 1e9;
    ::_exit(worked && ::write(pipe[1], &seconds, sizeof seconds) == sizeof seconds ? 0 : 1);
  }
  writing = UniqueFd();
  double seconds = 0;
  const bool told = ::read(reading.get(), &seconds, sizeof seconds) == sizeof seconds;
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!told || status != 0) fail("the work failed on " + directory);
  return seconds;
}

Cost measure(const Mounted& mounted, Work work, unsigned files) {
  mounted.settle();
  const double before = cpu_seconds();
  Cost cost;
  cost.wall = seconds_in_child(work, mounted.path("work"), files) * 1e6 / files;
  mounted.settle();   // what it put off is its cost, too
  cost.cpu = (cpu_seconds() - before) * 1e6 / files;
  return cost;
}

double median(const std::vector<Cost>& all, double Cost::*part) {
  std::vector<double> values;
  for (const Cost& cost : all) values.push_back(cost.*part);
  std::sort(values.begin(), values.end());
  return values.size() % 2 ? values[values.size() / 2] : (values[values.size() / 2 - 1] + values[values.size() / 2]) / 2;
}

void print(const char* name, const std::vector<Cost>& on, const std::vector<Cost>& off, const Options& options, bool last) {
  const double wall_on = median(on, &Cost::wall), wall_off = median(off, &Cost::wall);
  const double cpu_on = median(on, &Cost::cpu), cpu_off = median(off, &Cost::cpu);
  if (options.as_json)
    std::printf("  \"%s\": {\"audit_us\": %.3f, \"none_us\": %.3f, \"audit_cpu_us\": %.3f, \"none_cpu_us\": %.3f}%s\n",
                name, wall_on, wall_off, cpu_on, cpu_off, last ? "" : ",");
  else
    std::printf("%-34s %9.2f us %9.2f us %7.3fx %11.2f us %9.2f us\n", name, wall_on, wall_off, wall_on / wall_off, cpu_on, cpu_off);
}

unsigned number_after(char** word, unsigned least) {
  const unsigned long value = word[1] != nullptr ? std::strtoul(word[1], nullptr, 10) : 0;
  if (value < least || value > 1'000'000) fail(std::string(word[0]) + " wants a number of at least " + std::to_string(least));
  return static_cast<unsigned>(value);
}

Options parse(char** words) {
  Options options;
  for (char** word = words + 1; *word != nullptr; ++word) {
    const std::string_view name = *word;
    if (name == "--json") {
      options.as_json = true;
    } else if (name == "--rounds") {
      options.rounds = number_after(word++, 1);
    } else if (name == "--files") {
      options.files = number_after(word++, 10);
    } else if (name == "--dir" && word[1] != nullptr) {
      options.directory = *++word;
    } else if (name == "--log" && word[1] != nullptr) {
      options.log = *++word;
    } else {
      std::fprintf(stderr, "usage: audit_share_bench [--rounds N] [--files N] [--dir DIRECTORY] [--log DIRECTORY] [--json]\n");
      std::exit(name == "--help" ? 0 : 2);
    }
  }
  return options;
}

void compare(const std::string& at, const std::string& log, const Options& options) {
  const Mounted audited(at + "/audited", log), bare(at + "/bare", "");
  for (const Mounted* side : {&audited, &bare}) {
    std::filesystem::create_directories(side->files() + "/work");
    for (unsigned i = 0; i < options.files; ++i)
      std::ofstream(side->files() + "/work/f" + std::to_string(i)) << std::string(1000 + i % 3000, 'x');
  }
  const struct { const char* name; Work work; } all[] = {{"open+read+close", open_read_close},
                                                         {"create+write+rename+unlink", create_write_rename_unlink}};
  if (!options.as_json)
    std::printf("%-34s %12s %12s %8s %14s %12s\n", "a file, median", "audit", "no record", "ratio", "CPU, audit", "CPU, none");
  else
    std::printf("{\n");
  for (const auto& each : all) {
    std::vector<Cost> on, off;
    for (unsigned round = 0; round <= options.rounds && !interrupted; ++round) {
      // Who is first takes turns; the first round only warms up.
      Cost with, without;
      if (round % 2 == 0) with = measure(audited, each.work, options.files);
      without = measure(bare, each.work, options.files);
      if (round % 2 != 0) with = measure(audited, each.work, options.files);
      if (round > 0) on.push_back(with), off.push_back(without);
    }
    if (interrupted) return;
    print(each.name, on, off, options, &each == &all[std::size(all) - 1]);
  }
  if (options.as_json) std::printf("}\n");
}

class Temporary {
 public:
  explicit Temporary(const std::string& in) : path_(in + "/fbroker-audit-share-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) fail("cannot make a directory in " + in + ": " + std::strerror(errno));
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

int run(const Options& options) {
  if (::geteuid() != 0) fail("it mounts, which only root may: run it with sudo");
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, [](int) { interrupted = 1; });
  const Temporary at(options.directory), log(options.log);
  compare(at.path(), log.path(), options);
  return interrupted ? 130 : 0;
}

}  // namespace

int main(int, char** words) {
  try {
    return run(parse(words));
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "audit_share_bench: %s\n", problem.what());
    return 1;
  }
}
