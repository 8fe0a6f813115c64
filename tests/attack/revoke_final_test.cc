// A revoke is final when it returns: thousands of rounds against readers and
// writers; clients that do not read, and clients that do not forget.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>

#include "broker/control/exchange.h"
#include "broker/grants/changes.h"
#include "shim/client/event_stream.h"
#include "shim/client/remote_file_service.h"
#include "tests/broker/session_broker.h"
#include "tests/support/process.h"

namespace fbroker::test {
namespace {

constexpr const char* kNothing = R"({"version":1,"exports":[{"at":"/","from":"."}],"rules":[]})";

#ifdef __SANITIZE_ADDRESS__
constexpr int kRounds = 200;    // each takes twenty times as long
#else
constexpr int kRounds = 1000;
#endif

class RevokeFinal : public testing::Test {
 protected:
  RevokeFinal() {
    broker.write("project/f", std::string(1 << 16, 'f'));
    session = broker.session(kNothing);
  }
  broker::LiveGrant grant() {
    broker::LiveGrant wanted;
    wanted.grant.path = ws("/f");
    wanted.grant.operations = *policy::level_of(policy::Effect::allow, "write");
    auto live = broker::grant(session->take_turn(), wanted);
    EXPECT_TRUE(live) << (live ? "" : live.error().what);
    return *live;
  }

  // The person's side: `rounds` times granted, worked at by others, revoked.
  // `revoked` is odd exactly from a revoke's return to the next grant's begin.
  void rounds(int count) {
    for (int round = 0; round < count; ++round) {
      grant();
      const long before = successes.load();
      while (successes.load() == before) std::this_thread::yield();
      const auto outcome = broker::revoke_places(session->take_turn(), {ws("/f")});
      EXPECT_TRUE(outcome.finality.is_final());
      revoked.fetch_add(1);
      const long refusals = refused.load();
      while (refused.load() < refusals + 2) std::this_thread::yield();
      revoked.fetch_add(1);
    }
    stop = true;
  }

  // The agent's side: opens and keeps, reads and writes, as fast as it can.
  void work(protocol::FileService& files, int flags) {
    std::array<std::byte, 512> bytes{};
    protocol::HandleId handle = 0;
    while (!stop) {
      const unsigned before = revoked.load();
      bool worked = false;
      if (handle == 0) {
        auto opened = files.open({}, {ws("/f"), {}, 0}, flags, 0);
        if (opened) worked = true, handle = opened->handle;
      } else {
        const auto done = flags == O_RDONLY ? files.read({}, handle, 0, bytes)
                                            : files.write({}, handle, {}, bytes);
        worked = done && *done > 0;
        if (!worked) files.close({}, std::exchange(handle, 0));
      }
      // It began after a revoke returned and ended before the next grant began.
      if (worked && before % 2 == 1 && revoked.load() == before) leaks.fetch_add(1);
      (worked ? successes : refused).fetch_add(1);
      if (!worked) std::this_thread::yield();
    }
    if (handle != 0) files.close({}, handle);
  }

  SessionBroker broker{"/dev/shm"};
  std::shared_ptr<broker::Session> session;
  std::atomic<unsigned> revoked{0};
  std::atomic<long> successes{0}, refused{0}, leaks{0};
  std::atomic<bool> stop{false};
};

TEST_F(RevokeFinal, NothingThatStartsAfterwardsSucceedsOnTheFilesThemselves) {
  std::thread reader([&] { work(session->files(), O_RDONLY); });
  std::thread writer([&] { work(session->files(), O_RDWR); });
  rounds(kRounds);
  reader.join();
  writer.join();
  EXPECT_EQ(leaks.load(), 0);
  EXPECT_GE(successes.load(), kRounds);
}

TEST_F(RevokeFinal, NothingThatStartsAfterwardsSucceedsOverHttp) {
  client::RemoteOptions options;
  options.http.socket = session->socket();
  client::RemoteFileService one(options), two(options);
  std::thread reader([&] { work(one, O_RDONLY); });
  std::thread writer([&] { work(two, O_RDWR); });
  rounds(kRounds);
  reader.join();
  writer.join();
  EXPECT_EQ(leaks.load(), 0);
  EXPECT_GE(successes.load(), kRounds);
}

UniqueFd connected(const std::string& socket, const std::string& request) {
  auto fd = control::connect_to(socket);
  EXPECT_TRUE(fd);
  ::fcntl(fd->get(), F_SETFL, 0);  // reads wait
  EXPECT_EQ(::send(fd->get(), request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  return std::move(*fd);
}

TEST_F(RevokeFinal, AClientThatDoesNotReadItsReplyIsCutAndHoldsNothingUp) {
  broker.write("project/f", std::string(64 << 20, 'f'));
  grant();
  const UniqueFd slow = connected(session->socket(), "GET /v1/files?path=/f HTTP/1.1\r\nHost: x\r\n\r\n");
  char first;
  ASSERT_EQ(::recv(slow.get(), &first, 1, 0), 1);   // the reply has begun, and nobody reads on
  const auto outcome = broker::revoke_places(session->take_turn(), {ws("/f")});
  EXPECT_TRUE(outcome.finality.drained);
  EXPECT_EQ(outcome.finality.connections_cut, 1u);
  // What is in the socket already may come; then the connection ends, early.
  std::vector<char> buffer(1 << 20);
  std::size_t received = 1;
  for (ssize_t n; (n = ::recv(slow.get(), buffer.data(), buffer.size(), 0)) > 0;) received += static_cast<std::size_t>(n);
  EXPECT_LT(received, std::size_t{64} << 20);
}

// A sandbox: a child that sleeps until it is killed, or the test has ended.
pid_t sandbox() {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  return pid;
}

TEST_F(RevokeFinal, AClientThatNeverAcknowledgesIsCutAndItsSandboxKilled) {
  grant();
  const pid_t pid = sandbox();
  ASSERT_TRUE(broker.registry->register_sandbox(*session, pid));
  const UniqueFd deaf = connected(session->socket(), "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(wait_until([&] { return session->events().subscribers() == 1; }, 10s));
  const auto outcome = broker::revoke_places(session->take_turn(), {ws("/f")});
  EXPECT_FALSE(outcome.finality.acknowledged);
  EXPECT_TRUE(outcome.finality.sandbox_killed);
  EXPECT_TRUE(outcome.finality.is_final());
  EXPECT_GE(outcome.finality.connections_cut, 1u);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, WNOHANG), pid) << "dead when the person is answered";
  EXPECT_TRUE(WIFSIGNALED(status));
}

TEST_F(RevokeFinal, AClientThatForgetsInTimeLives) {
  struct Sink : protocol::EventSink {
    void handle(const protocol::Event& event) override { forgets += event.kind != protocol::EventKind::entry; }
    std::atomic<int> forgets{0};
  } sink;
  client::EventStream stream({.socket = session->socket()}, sink);
  ASSERT_TRUE(stream.wait_listening(10s));
  grant();
  const pid_t pid = sandbox();
  ASSERT_TRUE(broker.registry->register_sandbox(*session, pid));
  const int before = sink.forgets;
  const auto outcome = broker::revoke_places(session->take_turn(), {ws("/f")});
  EXPECT_TRUE(outcome.finality.acknowledged);
  EXPECT_FALSE(outcome.finality.sandbox_killed);
  EXPECT_GT(sink.forgets, before);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, WNOHANG), 0);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, &status, 0);
}

// A sandbox as fbroker-init's: its first process has a child that answers for
// the workspace and does `work`.
template <class Work>
pid_t sandbox_with_file_service(Work work) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::fork() == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    work();
  }
  for (;;) ::pause();
}

struct Forgetful : protocol::EventSink {
  void handle(const protocol::Event&) override {}
};

TEST_F(RevokeFinal, ASandboxWhoseFileSystemDoesNotListenIsKilledWhoeverElseDoes) {
  Forgetful sink;
  client::EventStream agents({.socket = session->socket()}, sink);
  ASSERT_TRUE(agents.wait_listening(10s));
  grant();
  const pid_t pid = sandbox_with_file_service([] {});
  ASSERT_TRUE(broker.registry->register_sandbox(*session, pid));
  ASSERT_TRUE(wait_until([&] { return session->sandbox()->has_file_service(); }, 10s));
  const auto outcome = broker::revoke_places(session->take_turn(), {ws("/f")});
  EXPECT_FALSE(outcome.finality.acknowledged) << "nobody told the kernel that may hold its pages";
  EXPECT_TRUE(outcome.finality.sandbox_killed);
  EXPECT_TRUE(outcome.finality.is_final());
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), pid) << "dead when the person is answered";
  ::kill(pid, SIGKILL);
}

TEST_F(RevokeFinal, AFileSystemThatComesBackInTimeIsToldAndItsSandboxLives) {
  grant();
  const pid_t pid = sandbox_with_file_service([&] {
    std::this_thread::sleep_for(500ms);
    Forgetful sink;
    client::EventStream stream({.socket = session->socket()}, sink);
    for (;;) ::pause();
  });
  ASSERT_TRUE(broker.registry->register_sandbox(*session, pid));
  ASSERT_TRUE(wait_until([&] { return session->sandbox()->has_file_service(); }, 10s));
  ASSERT_EQ(session->events().subscribers(), 0u);
  const auto outcome = broker::revoke_places(session->take_turn(), {ws("/f")});
  EXPECT_EQ(session->events().subscribers(), 1u);
  EXPECT_TRUE(outcome.finality.acknowledged);
  EXPECT_FALSE(outcome.finality.sandbox_killed);
  const auto next = broker::revoke_places(session->take_turn(), {ws("/")});
  EXPECT_TRUE(next.finality.acknowledged) << "and without waiting when it listens";
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), 0);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

TEST_F(RevokeFinal, WritingThatIsTakenAwayWhileReadingStaysRetiresTheNode) {
  std::atomic<int> retired{0};
  auto listener = session->events().subscribe([] {});
  broker::LiveGrant reading;
  reading.grant.path = ws("/f");
  reading.grant.operations = *policy::level_of(policy::Effect::allow, "read");
  ASSERT_TRUE(broker::grant(session->take_turn(), reading));
  const auto writing = grant();
  listener->acknowledge((listener->take(), session->events().last_sequence()));
  std::thread client([&] {
    wait_until([&] {
      for (const auto& event : listener->take()) retired += event.kind == protocol::EventKind::retire;
      listener->acknowledge(session->events().last_sequence());
      return retired > 0;
    }, 10s);
    for (const auto& event : listener->take()) retired += event.kind == protocol::EventKind::retire;
    listener->acknowledge(session->events().last_sequence());
  });
  const auto outcome = broker::revoke_id(session->take_turn(), writing.grant.id);
  client.join();
  EXPECT_EQ(retired.load(), 1);
  EXPECT_EQ(opens(*session, "/f", O_RDONLY), 0);
  EXPECT_EQ(opens(*session, "/f", O_RDWR), EACCES);
}

}  // namespace
}  // namespace fbroker::test
