#include "container/broker_session.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <cstring>
#include <filesystem>

#include "broker/sessions/runtime_dir.h"

namespace fbroker::container {
namespace {

constexpr int kStartMs = 15'000;
constexpr int kStopMs = 10'000;
constexpr std::size_t kMostSocketPath = 4096;
constexpr int kMostNames = 10'000;
constexpr std::chrono::seconds kShortLife{2};
constexpr int kMostShortLives = 20;
constexpr int kMostStarts = 5;

Error failed(const char* what) { return Error{what, std::strerror(errno)}; }

Error of(const control::Failure& failure) { return Error{"", failure.what}; }

[[noreturn]] void become_broker(const std::string& self, const std::string& name, int ready, bool again) {
  ::setsid();  // the terminal's Ctrl-C is for the agent
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
  ::fcntl(ready, F_SETFD, 0);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);  // start-up lines are for people who run `serve`
  const std::string fd = std::to_string(ready);
  ::execl(self.c_str(), self.c_str(), "serve", "--embedded", "--session", name.c_str(), "--ready-fd",
          fd.c_str(), again ? "--again" : nullptr, nullptr);
  ::dprintf(STDERR_FILENO, "fbroker: %s: %s\n", self.c_str(), std::strerror(errno));
  ::_exit(125);
}

// The control socket's path, which the broker writes when it can be called.
Result<std::string> wait_ready(int ready) {
  std::string line;
  pollfd wait{.fd = ready, .events = POLLIN, .revents = 0};
  while (line.size() < kMostSocketPath && !line.ends_with('\n')) {
    if (::poll(&wait, 1, kStartMs) <= 0) return Error{"broker", "did not start within 15 s"};
    char byte;
    if (::read(ready, &byte, 1) != 1) return Error{"broker", "could not start (its own message is above)"};
    line.push_back(byte);
  }
  line.pop_back();
  return line;
}

bool in_use(const std::string& name) {
  std::error_code error;
  return std::filesystem::exists(broker::session_directory_path(name) + "/broker.sock", error);
}

}  // namespace

std::string name_for(const std::string& root) {
  std::string base;
  for (const char byte : std::filesystem::path(root).filename().string())
    base += std::isalnum(static_cast<unsigned char>(byte)) != 0 || byte == '_' ? byte : '-';
  base.resize(std::min<std::size_t>(base.size(), 48));
  while (base.starts_with('-')) base.erase(0, 1);
  if (base.empty()) base = "session";
  for (int number = 1; number < kMostNames; ++number)
    if (std::string name = base + "-" + std::to_string(number); !in_use(name)) return name;
  return base + "-" + std::to_string(::getpid());
}

void BrokerSession::Embedded::stop() noexcept {
  if (!child_) return;
  child_.signal(SIGTERM);
  pollfd ended{.fd = child_.pidfd(), .events = POLLIN, .revents = 0};
  if (::poll(&ended, 1, kStopMs) <= 0) child_.signal(SIGKILL);
  ::waitpid(child_.pid(), nullptr, 0);
  child_ = Child();
}

// Its control socket's path beside it.
Result<std::pair<BrokerSession::Embedded, std::string>> BrokerSession::start_broker(const std::string& self,
                                                                                    const std::string& name,
                                                                                    bool again) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return failed("pipe");
  UniqueFd ready(ends[0]), tell(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return failed("fork");
  if (pid == 0) become_broker(self, name, tell.get(), again);
  tell = UniqueFd();
  Embedded broker(Child(pid, UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u)))));
  FBROKER_TRY(std::string control, wait_ready(ready.get()));
  return std::pair(std::move(broker), std::move(control));
}

Result<void> BrokerSession::restart_broker() {
  const auto now = std::chrono::steady_clock::now();
  short_lives_ = now - started_ < kShortLife ? short_lives_ + 1 : 0;
  if (short_lives_ > kMostShortLives) return Error{"broker", "ends again and again as soon as it is started"};
  started_ = now;
  broker_.stop();   // reaps it
  // One that is killed as it starts is no reason to give up.
  for (int left = kMostStarts;; --left) {
    auto started = start_broker(self_, broker_name_, true);
    if (!started && left > 1) continue;
    if (!started) return started.error();
    broker_ = std::move(started->first);
    return ok;
  }
}

Result<BrokerSession> BrokerSession::open(const SessionRequest& request) {
  const std::string name = request.name.empty() ? name_for(request.root) : request.name;
  auto serving = control::ControlClient::find_serving();
  std::optional<BrokerSession> opened;
  if (serving) {
    opened.emplace(BrokerSession(std::move(*serving), Embedded()));
    opened->serving_broker_ = opened->client_.name();
  } else {
    FBROKER_TRY(auto started, start_broker(request.self, name, false));
    opened.emplace(BrokerSession(control::ControlClient(std::move(started.second)), std::move(started.first)));
    opened->self_ = request.self;
    opened->broker_name_ = name;
    opened->started_ = std::chrono::steady_clock::now();
  }
  auto session = opened->client_.create_session(
      {.name = name, .root = request.root, .policy = request.policy, .peer_uid = request.peer_uid,
       .ends_with_caller = true, .hosts = request.hosts, .aliases = request.aliases, .offline = request.offline});
  if (!session) return of(session.error());
  opened->session_ = std::move(*session);
  return std::move(*opened);
}

BrokerSession::~BrokerSession() {
  if (!session_.name.empty()) (void)client_.end_session(session_.name);
}

Result<void> BrokerSession::register_sandbox(pid_t first) const {
  if (auto done = client_.register_sandbox(session_.name, first); !done) return of(done.error());
  return ok;
}

Result<control::Report> BrokerSession::end() {
  auto report = client_.end_session(std::exchange(session_.name, ""));
  broker_.stop();
  if (!report) return of(report.error());
  return std::move(*report);
}

}  // namespace fbroker::container
