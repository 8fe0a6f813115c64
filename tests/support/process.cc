#include "tests/support/process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace fbroker::test {

std::string programs_directory() {
  const char* stage = ::getenv("FBROKER_TEST_STAGE");
  return stage == nullptr ? FBROKER_BIN_DIR : std::string(stage) + "/bin";
}

std::string examples_directory() {
  const char* stage = ::getenv("FBROKER_TEST_STAGE");
  return (stage == nullptr ? FBROKER_SOURCE_DIR : std::string(stage)) + "/examples";
}
namespace {

[[noreturn]] void child(const std::vector<std::string>& argv, const As& as, int in, int out, int err) {
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
  ::close_range(3, ~0U, 0);
  ::setpgid(0, 0);
  if (!as.user.empty()) {
    const passwd* user = ::getpwnam(as.user.c_str());
    if (user == nullptr || ::initgroups(user->pw_name, user->pw_gid) != 0 ||
        ::setresgid(user->pw_gid, user->pw_gid, user->pw_gid) != 0 ||
        ::setresuid(user->pw_uid, user->pw_uid, user->pw_uid) != 0) {
      std::perror("become the user");
      std::_Exit(99);
    }
  }
  if (!as.directory.empty() && ::chdir(as.directory.c_str()) != 0) std::_Exit(98);
  std::map<std::string, std::string> environment{
      {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, {"LANG", "C.UTF-8"}};
  for (const char* kept : {"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"})
    if (const char* value = std::getenv(kept)) environment[kept] = value;
  for (const auto& [name, value] : as.environment) environment[name] = value;
  std::vector<std::string> lines;
  for (const auto& [name, value] : environment) lines.push_back(name + "=" + value);
  std::vector<char*> envp, args;
  for (std::string& line : lines) envp.push_back(line.data());
  envp.push_back(nullptr);
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  ::execvpe(args[0], args.data(), envp.data());
  std::perror(args[0]);
  std::_Exit(127);
}

int status_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

std::string text_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

struct Pipe {
  UniqueFd reader, writer;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    reader = UniqueFd(ends[0]);
    writer = UniqueFd(ends[1]);
  }
};

}  // namespace

bool wait_until(const std::function<bool()>& condition, std::chrono::milliseconds bound) {
  const auto until = std::chrono::steady_clock::now() + bound;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    ::poll(nullptr, 0, 5);
  }
  return true;
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), status_(other.status_), input_(std::move(other.input_)),
      output_(std::move(other.output_)), pending_(std::move(other.pending_)),
      error_file_(std::exchange(other.error_file_, "")) {}

Process Process::start(const std::vector<std::string>& argv, const As& as) {
  ::signal(SIGPIPE, SIG_IGN);
  Process process;
  Pipe in, out;
  process.error_file_ = "/tmp/fbroker-test-stderr-XXXXXX";
  const UniqueFd err(::mkostemp(process.error_file_.data(), O_CLOEXEC));
  process.pid_ = ::fork();
  if (process.pid_ == 0) child(argv, as, in.reader.get(), out.writer.get(), err.get());
  process.input_ = std::move(in.writer);
  process.output_ = std::move(out.reader);
  return process;
}

Process::~Process() {
  if (pid_ > 0 && !status_) {
    ::kill(-pid_, SIGTERM);
    if (!wait_until([&] { return wait(0s) >= 0; }, 5s)) {
      ::kill(-pid_, SIGKILL);
      wait();
    }
  }
  if (!error_file_.empty()) ::unlink(error_file_.c_str());
}

void Process::write_line(const std::string& line) {
  const std::string text = line + "\n";
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t written = ::write(input_.get(), text.data() + at, text.size() - at);
    if (written < 0) return;
    at += static_cast<std::size_t>(written);
  }
}

void Process::close_input() { input_ = UniqueFd(); }

std::optional<std::string> Process::read_until(const std::string& text, std::chrono::seconds bound) {
  const auto until = std::chrono::steady_clock::now() + bound;
  for (;;) {
    if (const auto at = pending_.find(text); at != pending_.npos) {
      std::string before = pending_.substr(0, at);
      pending_.erase(0, at + text.size());
      return before;
    }
    pollfd ready{output_.get(), POLLIN, 0};
    if (std::chrono::steady_clock::now() > until) return std::nullopt;
    if (::poll(&ready, 1, 100) <= 0) continue;
    char buffer[65536];
    const ssize_t got = ::read(output_.get(), buffer, sizeof buffer);
    if (got <= 0) return std::nullopt;
    pending_.append(buffer, static_cast<std::size_t>(got));
  }
}

std::string Process::errors() const { return text_of(error_file_); }

void Process::signal(int number) { ::kill(pid_, number); }

int Process::wait(std::chrono::seconds bound) {
  const bool ended = status_ || wait_until([&] {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
    status_ = status_of(status);
    return true;
  }, bound);
  return ended ? *status_ : -1;
}

Output run(const std::vector<std::string>& argv, const As& as, std::chrono::seconds bound,
           const std::string& input) {
  Process process = Process::start(argv, as);
  if (!input.empty()) process.write_line(input);
  process.close_input();
  Output output;
  const auto until = std::chrono::steady_clock::now() + bound;
  // A NUL marks nothing that we wait for: this reads to the end of the output.
  process.read_until(std::string("\0end of output\0", 15), bound);
  if (std::chrono::steady_clock::now() > until) process.signal(SIGKILL);
  output.status = process.wait();
  output.out = process.rest();
  output.err = process.errors();
  return output;
}

}  // namespace fbroker::test
