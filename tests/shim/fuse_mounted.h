// FuseMounted: a real mount of a real session's files in this very process,
// as the broker will later serve an adopted device.
//
// A test that maps a file must do so in a child process: a page fault waits
// for the threads here with this process's address space locked.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "broker/fuse/device.h"
#include "broker/fuse/front.h"
#include "tests/broker/files_session.h"
#include "tests/support/process.h"

namespace fbroker::test {

// Passes everything on and counts it, by call and by call and path.
class CountingService final : public protocol::FileService {
  using Caller = protocol::Caller;
  using FileRef = protocol::FileRef;
  using HandleId = protocol::HandleId;

 public:
  explicit CountingService(protocol::FileService& behind) : behind_(behind) {}

  int total() const {
    const std::lock_guard lock(mutex_);
    int sum = 0;
    for (const auto& [call, count] : calls_)
      if (call.find(' ') == call.npos) sum += count;
    return sum;
  }
  // "lookup" or "lookup /src"; release is sent some time after close(2).
  int of(const std::string& call) const {
    const std::lock_guard lock(mutex_);
    const auto found = calls_.find(call);
    return found == calls_.end() ? 0 : found->second;
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    std::string all;
    for (const auto& [call, count] : calls_) all += call + "=" + std::to_string(count) + " ";
    return all;
  }
  void reset() {
    const std::lock_guard lock(mutex_);
    calls_.clear();
  }
  // Calls `then`, with no lock held, when the service has answered a look-up.
  void after_lookup(std::function<void(const WorkspacePath&)> then) {
    const std::lock_guard lock(mutex_);
    after_lookup_ = std::move(then);
  }

  Result<protocol::Lookup, Errno> lookup(const Caller& c, const WorkspacePath& p) override {
    count("lookup", p);
    auto found = behind_.lookup(c, p);
    std::function<void(const WorkspacePath&)> then;
    {
      const std::lock_guard lock(mutex_);
      then = after_lookup_;
    }
    if (then) then(p);
    return found;
  }
  Result<protocol::Attributes, Errno> stat(const Caller& c, const FileRef& r) override {
    return count("stat", r.path), behind_.stat(c, r);
  }
  Result<std::string, Errno> readlink(const Caller& c, const FileRef& r) override {
    return count("readlink", r.path), behind_.readlink(c, r);
  }
  Result<protocol::Opened, Errno> open(const Caller& c, const FileRef& r, int flags,
                                       std::uint32_t mode) override {
    return count("open", r.path), behind_.open(c, r, flags, mode);
  }
  Result<std::size_t, Errno> read(const Caller& c, HandleId h, std::uint64_t o,
                                  std::span<std::byte> into) override {
    return count("read"), behind_.read(c, h, o, into);
  }
  Result<std::size_t, Errno> write(const Caller& c, HandleId h, protocol::WriteAt at,
                                   std::span<const std::byte> data) override {
    return count("write"), behind_.write(c, h, at, data);
  }
  Result<void, Errno> fsync(const Caller& c, HandleId h, bool d) override {
    return count("fsync"), behind_.fsync(c, h, d);
  }
  Result<protocol::Opened, Errno> open_directory(const Caller& c, const FileRef& r) override {
    return count("open_directory", r.path), behind_.open_directory(c, r);
  }
  Result<protocol::DirectoryPage, Errno> read_directory(const Caller& c, HandleId h,
                                                        std::uint64_t at,
                                                        std::size_t max) override {
    return count("read_directory"), behind_.read_directory(c, h, at, max);
  }
  void close(const Caller& c, HandleId h) override { count("close"), behind_.close(c, h); }
  Result<protocol::Lookup, Errno> mkdir(const Caller& c, const WorkspacePath& p,
                                        std::uint32_t m) override {
    return count("mkdir", p), behind_.mkdir(c, p, m);
  }
  Result<protocol::Lookup, Errno> symlink(const Caller& c, std::string_view t,
                                          const WorkspacePath& p) override {
    return count("symlink", p), behind_.symlink(c, t, p);
  }
  Result<protocol::Lookup, Errno> link(const Caller& c, const FileRef& r,
                                       const WorkspacePath& p) override {
    return count("link", p), behind_.link(c, r, p);
  }
  Result<void, Errno> unlink(const Caller& c, const WorkspacePath& p) override {
    return count("unlink", p), behind_.unlink(c, p);
  }
  Result<void, Errno> rmdir(const Caller& c, const WorkspacePath& p) override {
    return count("rmdir", p), behind_.rmdir(c, p);
  }
  Result<void, Errno> rename(const Caller& c, const WorkspacePath& a, const WorkspacePath& b,
                             unsigned f) override {
    return count("rename", a), behind_.rename(c, a, b, f);
  }
  Result<protocol::Attributes, Errno> truncate(const Caller& c, const FileRef& r,
                                               std::uint64_t s) override {
    return count("truncate", r.path), behind_.truncate(c, r, s);
  }
  Result<protocol::Attributes, Errno> chmod(const Caller& c, const FileRef& r,
                                            std::uint32_t m) override {
    return count("chmod", r.path), behind_.chmod(c, r, m);
  }
  Result<protocol::Attributes, Errno> utimens(const Caller& c, const FileRef& r,
                                              const protocol::SetTimes& t) override {
    return count("utimens", r.path), behind_.utimens(c, r, t);
  }
  Result<protocol::FileSystemStatus, Errno> statfs(const Caller& c,
                                                   const WorkspacePath& p) override {
    return count("statfs", p), behind_.statfs(c, p);
  }

 private:
  void count(const std::string& call) {
    const std::lock_guard lock(mutex_);
    ++calls_[call];
  }
  void count(const std::string& call, const WorkspacePath& path) {
    const std::lock_guard lock(mutex_);
    ++calls_[call];
    ++calls_[call + " " + path.bytes()];
  }

  protocol::FileService& behind_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, int> calls_;
  std::function<void(const WorkspacePath&)> after_lookup_;
};

// Takes a session's events to a front, as the shim's event stream does.
class EventPump {
 public:
  EventPump(broker::EventBus& bus, protocol::EventSink& sink) : bus_(bus), sink_(sink) {
    subscription_ = bus.subscribe([this] { wake(); });
    thread_ = std::thread([this] { run(); });
  }
  ~EventPump() {
    ending_ = true;
    wake();
    thread_.join();
  }
  // Publishes and returns when the kernel has forgotten.
  bool publish(protocol::EventKind kind, const WorkspacePath& path,
               const protocol::FileIdentity& identity = {}) {
    return bus_.wait_acknowledged(bus_.publish(kind, path, identity), std::chrono::seconds(20));
  }

 private:
  void wake() {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    ready_.notify_one();
  }
  void run() {
    while (!ending_) {
      {
        std::unique_lock lock(mutex_);
        ready_.wait(lock, [this] { return woken_; });
        woken_ = false;
      }
      for (const protocol::Event& event : subscription_->take()) {
        sink_.handle(event);
        subscription_->acknowledge(event.sequence);
      }
    }
  }

  broker::EventBus& bus_;
  protocol::EventSink& sink_;
  std::unique_ptr<broker::EventBus::Subscription> subscription_;
  std::mutex mutex_;
  std::condition_variable ready_;
  bool woken_ = false;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

// An allow-all session unless rules are given; tree/w is what the mount shows.
class FuseMounted {
 public:
  explicit FuseMounted(std::vector<policy::Rule> rules = {allow("write", {"/**"})},
                       fuse::Options options = {}, bool watched = true)
      : session(std::move(rules), {}, watched), counting(*session.service) {
    place_.mkdir("m");
    auto mount = fuse::Mount::make(place_.path("m"), ::geteuid(), ::getegid());
    if (!mount) fail(mount.error());
    mount_.emplace(std::move(*mount));
    std::vector<UniqueFd> devices;
    devices.push_back(mount_->take_device());
    while (devices.size() < options.threads)
      devices.push_back(fuse::clone_device(devices.front().get()));
    options.uid = ::geteuid();
    options.gid = ::getegid();
    auto front_made = fuse::FuseFront::create(counting, std::move(devices), options);
    if (!front_made) fail(front_made.error());
    front = std::move(*front_made);
    serving_ = std::thread([this] { result_ = front->run(); });
    pump.emplace(session.events, *front);
  }
  ~FuseMounted() { unmount(); }

  // False: run() ended with an error.
  bool unmount() {
    if (!serving_.joinable()) return true;
    pump.reset();
    mount_.reset();
    front->stop();
    serving_.join();
    return result_.has_value();
  }

  std::string inside(const std::string& name = "") const { return place_.path("m") + "/" + name; }
  std::string host(const std::string& name) const { return session.tree.path("w/" + name); }
  void write_host(const std::string& name, std::string_view text) const {
    session.tree.write("w/" + name, text);
  }

  FilesSession session;
  CountingService counting;
  std::unique_ptr<fuse::FuseFront> front;
  std::optional<EventPump> pump;

 private:
  [[noreturn]] static void fail(const Error& error) {
    std::fprintf(stderr, "%s\n", error.text().c_str());
    std::abort();
  }
  TempTree place_;
  std::optional<fuse::Mount> mount_;
  std::thread serving_;
  Result<void> result_;
};

// --- What an agent's program does. Errors come as "errno N", or as the number.

inline std::string slurp(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return "errno " + std::to_string(errno);
  std::string all;
  char part[65536];
  for (ssize_t n; (n = ::read(fd.get(), part, sizeof part)) != 0;) {
    if (n < 0) return "errno " + std::to_string(errno);
    all.append(part, static_cast<std::size_t>(n));
  }
  return all;
}
inline int spill(const std::string& path, std::string_view text,
                 int flags = O_WRONLY | O_CREAT | O_TRUNC) {
  const UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, 0644));
  if (!fd) return errno;
  return ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : errno;
}
inline int stat_error(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 ? 0 : errno;
}
inline std::vector<std::string> listed(const std::string& path) {
  std::vector<std::string> names;
  DIR* directory = ::opendir(path.c_str());
  if (!directory) return {"errno " + std::to_string(errno)};
  while (const dirent* entry = ::readdir(directory))
    if (std::string_view(entry->d_name) != "." && std::string_view(entry->d_name) != "..")
      names.push_back(entry->d_name);
  ::closedir(directory);
  std::sort(names.begin(), names.end());
  return names;
}
// Runs it in a child of its own; its exit status.
inline int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace fbroker::test
