// fbroker-fuse itself: static, alone in its root directory, over the real
// protocol.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <filesystem>

#include "tests/broker/http_session.h"
#include "tests/support/process.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

std::string slurp_inside(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return "errno " + std::to_string(errno);
  char text[256];
  const ssize_t size = ::read(fd.get(), text, sizeof text);
  return size < 0 ? "errno " + std::to_string(errno) : std::string(text, static_cast<std::size_t>(size));
}

// A root directory with the program, the socket's directory, the device and
// nothing else; its mounts are its own and go with it.
class AloneInItsRoot {
 public:
  AloneInItsRoot(const std::string& socket, std::vector<std::string> options) {
    for (const char* name : {"sock", "dev", "workspace"}) root_.mkdir(name);
    fs::copy_file(fs::path(programs_directory()) / "fbroker-fuse", root_.path("fbroker-fuse"));
    ::mknod(root_.path("dev/fuse").c_str(), S_IFCHR | 0666, makedev(10, 229));
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[0]);
      become(socket, ends[1], std::move(options));
    }
    ::close(ends[1]);
    char word[8] = {};
    ready_ = ::read(ends[0], word, sizeof word - 1) > 0 && std::string_view(word) == "ready\n";
    ::close(ends[0]);
  }
  ~AloneInItsRoot() {
    if (pid_ > 0) end(SIGKILL);
  }

  bool ready() const { return ready_; }
  std::string inside(const std::string& name) const {
    return "/proc/" + std::to_string(pid_) + "/root/workspace/" + name;
  }
  pid_t pid() const { return pid_; }
  int end(int number) {
    ::kill(pid_, number);
    return wait_end();
  }
  // Its exit status.
  int wait_end() {
    int status = 0;
    const bool ended = wait_until([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; });
    if (!ended) return -1;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  [[noreturn]] void become(const std::string& socket, int ready, std::vector<std::string> options) {
    const fs::path at(socket);
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount(at.parent_path().c_str(), root_.path("sock").c_str(), nullptr, MS_BIND, nullptr) != 0 ||
        ::chroot(root_.path().c_str()) != 0 || ::chdir("/") != 0)
      ::_exit(70);
    std::vector<std::string> words{"fbroker-fuse", "--socket", "/sock/" + at.filename().string(),
                                   "--mount", "/workspace", "--foreground", "--ready-fd",
                                   std::to_string(ready)};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv("/fbroker-fuse", argv.data());
    ::_exit(71);
  }

  TempTree root_;
  pid_t pid_ = -1;
  bool ready_ = false;
};

struct FuseProgram : testing::Test {
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  }
};

TEST_F(FuseProgram, ServesFilesWithNothingElseInItsRoot) {
  HttpSession session;
  session.files.tree.write("w/d/a", "text");
  AloneInItsRoot fuse(session.socket(), {});
  ASSERT_TRUE(fuse.ready());
  EXPECT_EQ(slurp_inside(fuse.inside("d/a")), "text");
  const UniqueFd fd(::open(fuse.inside("d/new").c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
  ASSERT_TRUE(fd);
  EXPECT_EQ(::write(fd.get(), "made", 4), 4);
  EXPECT_EQ(session.files.tree.read("w/d/new"), "made");
}

TEST_F(FuseProgram, ARevokeOverTheProtocolReachesAnOpenDescriptor) {
  HttpSession session;
  session.files.tree.write("w/a", "secret");
  AloneInItsRoot fuse(session.socket(), {});
  ASSERT_TRUE(fuse.ready());
  const UniqueFd fd(::open(fuse.inside("a").c_str(), O_RDONLY));
  char text[8];
  ASSERT_EQ(::pread(fd.get(), text, sizeof text, 0), 6);
  ASSERT_TRUE(wait_until([&] { return session.files.events.subscribers() == 1; }));
  session.files.set_rules({allow("write", {"/**"}), deny("all", {"/a"})});
  session.files.service->close_refused_handles(at("/a"));
  const auto told = session.files.events.publish(protocol::EventKind::forget, at("/a"));
  ASSERT_TRUE(session.files.events.wait_acknowledged(told, std::chrono::seconds(10)));
  EXPECT_EQ(::pread(fd.get(), text, sizeof text, 0), -1);
  EXPECT_EQ(slurp_inside(fuse.inside("a")), "errno " + std::to_string(ENOENT));
}

TEST_F(FuseProgram, EndsCleanlyOnSIGTERM) {
  HttpSession session;
  AloneInItsRoot fuse(session.socket(), {});
  ASSERT_TRUE(fuse.ready());
  EXPECT_EQ(fuse.end(SIGTERM), 0);
}

TEST_F(FuseProgram, EndsWhenItIsUnmounted) {
  HttpSession session;
  AloneInItsRoot fuse(session.socket(), {});
  ASSERT_TRUE(fuse.ready());
  // From within its namespace: a child that joins it.
  const std::string space = "/proc/" + std::to_string(fuse.pid()) + "/ns/mnt";
  const pid_t child = ::fork();
  if (child == 0) {
    const int fd = ::open(space.c_str(), O_RDONLY);
    const int root = ::open(("/proc/" + std::to_string(fuse.pid()) + "/root").c_str(), O_RDONLY);
    if (::setns(fd, CLONE_NEWNS) != 0 || ::fchdir(root) != 0) ::_exit(1);
    ::_exit(::umount2("workspace", MNT_DETACH) == 0 ? 0 : 2);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(fuse.wait_end(), 0);
}

TEST_F(FuseProgram, SaysSoWhenNoBrokerAnswers) {
  const Output output = run({programs_directory() + "/fbroker-fuse", "--socket", "/nowhere/s",
                             "--mount", "/nowhere/m", "--foreground", "--wait", "0"});
  EXPECT_EQ(output.status, 1);
  EXPECT_NE(output.err.find("/nowhere/s: no broker answered"), std::string::npos) << output.err;
}

TEST_F(FuseProgram, ACallWaitsForTheBrokerAndThenFails) {
  HttpSession session;
  session.files.tree.write("w/a", "text");
  AloneInItsRoot fuse(session.socket(), {"--wait", "1"});
  ASSERT_TRUE(fuse.ready());
  ASSERT_EQ(slurp_inside(fuse.inside("a")), "text");
  session.stop();
  EXPECT_EQ(slurp_inside(fuse.inside("a")), "errno " + std::to_string(EIO));
  session.restart();
  EXPECT_EQ(slurp_inside(fuse.inside("a")), "text");
}

}  // namespace
}  // namespace fbroker::test
