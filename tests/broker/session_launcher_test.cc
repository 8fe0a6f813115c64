// A session that was made for a launcher ends with it, and only with it; what
// is left on the disk afterwards is nothing.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/close_range.h>

#include "broker/control/control_client.h"
#include "broker/sessions/leftovers.h"
#include "tests/broker/session_broker.h"
#include "tests/support/process.h"
#include "tests/support/temp_tree.h"

namespace fbroker::test {
namespace {

namespace fs = std::filesystem;

// A process that waits, or one that first asks the broker for a session.
class Child {
 public:
  explicit Child(std::function<bool()> first = [] { return true; }) {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("pipe");
    pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(ends[1], 3);
      ::close_range(4, ~0u, 0);  // the broker's sockets and locks are not ours
      const char said = first() ? 'y' : 'n';
      (void)!::write(3, &said, 1);
      for (;;) ::pause();
    }
    char said = 'n';
    ready = ::read(ends[0], &said, 1) == 1 && said == 'y';
    ::close(ends[0]);
    ::close(ends[1]);
  }
  ~Child() { kill(); }
  void kill() {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    ::waitpid(std::exchange(pid, 0), nullptr, 0);
  }
  bool alive() const { return ::waitpid(pid, nullptr, WNOHANG) == 0; }
  pid_t pid = 0;
  bool ready = false;
};

class SessionLauncher : public testing::Test {
 protected:
  std::function<bool()> asks_for(const std::string& name, bool with_caller = true) {
    return [this, name, with_caller] {
      return static_cast<bool>(control::ControlClient(broker::runtime_path() + "/control/test.sock")
                                   .create_session({name, (broker.dir / "project").string(), {}, {}, with_caller}));
    };
  }
  // Everything in the runtime directory that speaks of `name`.
  std::vector<std::string> left_of(const std::string& name) const {
    std::vector<std::string> left;
    for (const std::string& below : names_below(broker::runtime_path())) {
      const std::string path = "/" + below;
      if (path.find("/" + name) != path.npos || path.find("%" + name) != path.npos) left.push_back(path);
    }
    return left;
  }
  std::size_t records(const std::string& operation, const std::string& detail) {
    (void)broker.registry->audit().sync(std::chrono::seconds(10));
    std::size_t count = 0;
    for (const auto& file : fs::directory_iterator(broker.dir / "state/audit")) {
      std::ifstream lines(file.path());
      for (std::string line; std::getline(lines, line);) {
        const json record = json::parse(line, nullptr, false);
        count += record.is_object() && record.value("operation", "") == operation && record.value("detail", "") == detail;
      }
    }
    return count;
  }
  SessionBroker broker;
};

TEST_F(SessionLauncher, AKilledLaunchersSessionIsEndedRecordedAndLeavesNothing) {
  Child launcher(asks_for("gone")), sandbox, other(asks_for("stays"));
  ASSERT_TRUE(launcher.ready && other.ready);
  ASSERT_EQ(broker.call("POST", "/v1/sessions/gone/sandbox", {{"pid", sandbox.pid}}).status, 200);
  ASSERT_EQ(broker.grant("a", {{"session", "gone"}}).status, 200);
  ASSERT_FALSE(left_of("gone").empty());
  launcher.kill();
  EXPECT_TRUE(wait_until([&] { return broker.registry->find("gone") == nullptr && left_of("gone").empty(); }));
  EXPECT_FALSE(sandbox.alive());
  EXPECT_TRUE(wait_until([&] { return records("session-end", "launcher gone") == 1; }));
  EXPECT_TRUE(broker.registry->grants().of("gone").empty());
  EXPECT_TRUE(broker.registry->find("stays")) << "its launcher lives";
}

TEST_F(SessionLauncher, ASandboxsDeathEndsNothingTheReportIsStillToBeRead) {
  Child launcher(asks_for("s1")), sandbox;
  ASSERT_EQ(broker.call("POST", "/v1/sessions/s1/sandbox", {{"pid", sandbox.pid}}).status, 200);
  sandbox.kill();
  Child next(asks_for("s2"));  // the broker's clock thread looks at every launcher
  next.kill();
  EXPECT_TRUE(wait_until([&] { return broker.registry->find("s2") == nullptr; }));
  const auto report = broker.call("POST", "/v1/sessions/s1/end");
  EXPECT_EQ(report.status, 200);
  EXPECT_TRUE(report.body.contains("refused"));
  EXPECT_TRUE(left_of("s1").empty());
  EXPECT_TRUE(launcher.alive());
}

TEST_F(SessionLauncher, ASessionThatWasMadeWithoutALauncherOutlivesItsMaker) {
  Child maker(asks_for("free", false)), launcher(asks_for("s1"));
  maker.kill();
  launcher.kill();
  EXPECT_TRUE(wait_until([&] { return broker.registry->find("s1") == nullptr; }));
  EXPECT_TRUE(broker.registry->find("free"));
}

TEST_F(SessionLauncher, WithoutACallerThatCanBeSeenItIsRefused) {
  const json wanted{{"name", "s1"}, {"root", (broker.dir / "project").string()}, {"ends_with_caller", true}};
  EXPECT_EQ(broker.call("POST", "/v1/sessions", wanted).status, 422);
  EXPECT_EQ(broker.registry->find("s1"), nullptr);
  // ATTACK: the connection of a caller that is gone: its number may be another's.
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  EXPECT_TRUE(broker::HostProcess::at_other_end(ends[0]));
  ::close(ends[1]);
  EXPECT_FALSE(broker::HostProcess::at_other_end(ends[0]));
  ::close(ends[0]);
}

TEST_F(SessionLauncher, TheSameNumberAtAnotherTimeIsAnotherProcess) {
  Child child;
  const auto process = broker::HostProcess::open(child.pid);
  ASSERT_TRUE(process);
  EXPECT_TRUE(broker::HostProcess::open(child.pid, process->started()));
  EXPECT_FALSE(broker::HostProcess::open(child.pid, process->started() + 1));
  const pid_t pid = child.pid;
  child.kill();
  EXPECT_FALSE(process->alive());
  EXPECT_FALSE(broker::HostProcess::open(pid, process->started()));
}

TEST_F(SessionLauncher, ABrokerThatStartsAgainKeepsTheLivingAndForgetsTheDead) {
  Child dead(asks_for("dead")), sandbox, living(asks_for("living"));
  ASSERT_EQ(broker.call("POST", "/v1/sessions/dead/sandbox", {{"pid", sandbox.pid}}).status, 200);
  broker.stop();
  EXPECT_FALSE(left_of("dead").empty());
  dead.kill();
  broker.start();
  EXPECT_TRUE(left_of("dead").empty());
  EXPECT_FALSE(sandbox.alive());
  broker.registry->restore("");
  EXPECT_EQ(broker.registry->find("dead"), nullptr);
  EXPECT_EQ(records("session-end", "launcher gone"), 1u);
  ASSERT_TRUE(broker.registry->find("living"));
  living.kill();  // known to the successor, too
  EXPECT_TRUE(wait_until([&] { return left_of("living").empty(); }));
}

TEST_F(SessionLauncher, AnyBrokersStartRemovesWhatHasNeitherOwnerNorBroker) {
  const auto place = [&](const std::string& name, pid_t owner) {
    const std::string directory = broker::session_directory_path(name);
    EXPECT_TRUE(broker::private_directory(directory, broker::Access::anybody_may_enter));
    const std::string path = directory + "/broker.sock";
    auto listener = broker::bind_unix_socket(directory, "broker.sock", 0666, broker::lock_path_of(path));
    if (owner != 0) (void)broker::write_owner(listener->lock.get(), *broker::HostProcess::open(owner), path);
    return std::move(*listener);
  };
  Child gone, lives;
  const auto served = place("served", gone.pid);
  for (const auto& [name, owner] : {std::pair("orphan", gone.pid), {"owned", lives.pid}, {"restartable", 0}})
    (void)place(name, owner);  // and let go of at once, as a killed broker does
  gone.kill();
  broker::remove_orphaned_sockets();
  EXPECT_TRUE(left_of("orphan").empty());
  for (const char* name : {"served", "owned", "restartable"}) EXPECT_EQ(left_of(name).size(), 3u) << name;
}

}  // namespace
}  // namespace fbroker::test
