#include "broker/sessions/maintenance.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "broker/sessions/registry.h"

namespace fbroker::broker {

using std::chrono::system_clock;

namespace {

// Editors write in several steps: a change is taken up when it has been quiet
// for this long.
constexpr int kQuietMs = 100;
constexpr int kLongestSleepMs = 60'000;   // the clock may be set
constexpr std::size_t kMaxUsed = 65536;   // no more grants than that can live

std::vector<std::shared_ptr<const HostProcess>> launchers_of(const Registry& registry) {
  std::vector<std::shared_ptr<const HostProcess>> launchers;
  for (const auto& session : registry.all())
    if (auto launcher = session->launcher()) launchers.push_back(std::move(launcher));
  return launchers;
}

}  // namespace

Result<std::unique_ptr<Maintenance>> Maintenance::start(Registry& registry) {
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return Error{"eventfd", std::strerror(errno)};
  UniqueFd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch) return Error{"inotify", std::strerror(errno)};
  std::unique_ptr<Maintenance> made(new Maintenance(registry, std::move(wake), std::move(watch)));
  made->thread_ = std::thread([self = made.get()] { self->run(); });
  return made;
}

Maintenance::Maintenance(Registry& registry, UniqueFd wake, UniqueFd watch)
    : registry_(registry), wake_(std::move(wake)), watch_(std::move(watch)) {}

Maintenance::~Maintenance() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
}

void Maintenance::wake() { ::eventfd_write(wake_.get(), 1); }

void Maintenance::used(std::string session, std::string grant) {
  {
    const std::lock_guard lock(mutex_);
    if (used_.size() < kMaxUsed) used_.emplace_back(std::move(session), std::move(grant));
  }
  wake();
}

Result<void> Maintenance::watch_policy(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == 0 ? "/" : path.substr(0, slash);
  const int watch = ::inotify_add_watch(watch_.get(), directory.c_str(),
                                        IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR);
  if (watch < 0) return Error{directory, std::string("cannot be watched: ") + std::strerror(errno)};
  const std::lock_guard lock(mutex_);
  watched_[watch].push_back(path.substr(slash + 1));
  return ok;
}

// Reads all events. Whether one was about a policy.
bool Maintenance::policies_changed() {
  alignas(inotify_event) std::array<char, 16384> buffer;
  bool changed = false;
  for (;;) {
    const ssize_t size = ::read(watch_.get(), buffer.data(), buffer.size());
    if (size <= 0) return changed;
    const std::lock_guard lock(mutex_);
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof *event + event->len);
      if ((event->mask & IN_Q_OVERFLOW) != 0) changed = true;
      const auto names = watched_.find(event->wd);
      if (names == watched_.end() || event->len == 0) continue;
      const std::string name(event->name);
      changed = changed || std::find(names->second.begin(), names->second.end(), name) != names->second.end();
    }
  }
}

int Maintenance::milliseconds_to_next() const {
  int wait = kLongestSleepMs;
  const auto now = system_clock::now();
  for (const auto& session : registry_.all()) {
    const auto next = registry_.grants().next_expiry(session->name());
    if (!next) continue;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - now).count();
    wait = static_cast<int>(std::clamp<std::int64_t>(left, 0, wait));
  }
  return wait;
}

void Maintenance::end_what_is_over() {
  std::vector<std::pair<std::string, std::string>> used;
  {
    const std::lock_guard lock(mutex_);
    used.swap(used_);
  }
  for (const auto& [name, grant] : used)
    if (const auto session = registry_.find(name)) end_used(session->take_turn(), grant);
  for (const auto& session : registry_.all()) {
    const auto next = registry_.grants().next_expiry(session->name());
    if (!next || *next > system_clock::now()) continue;
    const RevokeOutcome outcome = expire(session->take_turn());
    const std::string unrecorded = outcome.recorded ? "" : ", not recorded: " + outcome.not_recorded;
    for (const LiveDomain& live : outcome.domains_ended)
      registry_.options().say("session " + session->name() + ": grant " + live.rule.id + " (" +
                              live.rule.pattern.text() + ") expired" + unrecorded);
    for (const LiveGrant& live : outcome.ended)
      registry_.options().say("session " + session->name() + ": grant " + live.grant.id + " (" +
                              live.grant.path.bytes() + ") expired" + unrecorded);
  }
}

void Maintenance::run() {
  bool reload_pending = false;
  for (;;) {
    std::vector<pollfd> waiting{pollfd{wake_.get(), POLLIN, 0}, pollfd{watch_.get(), POLLIN, 0}};
    const auto launchers = launchers_of(registry_);
    for (const auto& launcher : launchers) waiting.push_back({launcher->pidfd(), POLLIN, 0});
    const int wait = milliseconds_to_next();
    const int n = ::poll(waiting.data(), waiting.size(), reload_pending ? std::min(wait, kQuietMs) : wait);
    eventfd_t ignored;
    ::eventfd_read(wake_.get(), &ignored);
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return;
    }
    end_what_is_over();
    registry_.end_abandoned();
    const bool changed = policies_changed();
    if (reload_pending && !changed && n == 0) {
      reload_pending = false;
      registry_.reload_all();
    }
    reload_pending = reload_pending || changed;
  }
}

}  // namespace fbroker::broker
