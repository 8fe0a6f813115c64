// The keeper: what it is given outlives who gave it, and nothing that a client
// does keeps it from serving others. It is the real process.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <filesystem>

#include "broker/device/keeper.h"
#include "broker/device/keeper_messages.h"
#include "tests/support/process.h"
#include "tests/support/temp_tree.h"

namespace fbroker::test {
namespace {

using broker::Kept;
using broker::Keeper;
using broker::KeeperOptions;
using testing::ElementsAre;
using testing::IsEmpty;
namespace say = broker::say;

constexpr uid_t kNobody = 65534;

struct Pipe {
  UniqueFd reader, writer;
  explicit Pipe(int flags = O_CLOEXEC) {
    int ends[2];
    if (::pipe2(ends, flags) != 0) std::abort();
    reader = UniqueFd(ends[0]);
    writer = UniqueFd(ends[1]);
  }
  // Whether nobody can write to it any more.
  bool ended() const {
    pollfd waiting{reader.get(), POLLIN, 0};
    return ::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLHUP) != 0;
  }
};

class DeviceKeeper : public testing::Test {
 protected:
  void SetUp() override {
    tree.mkdir("state");
    directory = UniqueFd(::open(tree.path("state").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  void TearDown() override {
    for (const pid_t pid : started) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }

  // A broker's end. Without arguments the process waits for an hour.
  std::unique_ptr<Keeper> reach(std::vector<std::string> arguments = {"--grace-ms", "3600000"}) {
    auto keeper = Keeper::reach(directory.get(), {.program = programs_directory() + "/fbroker",
                                                  .arguments = std::move(arguments),
                                                  .bound = kPatience,
                                                  .start_bound = kPatience});
    if (!keeper) {
      ADD_FAILURE() << keeper.error().text();
      return nullptr;
    }
    const auto pid = (*keeper)->pid();
    EXPECT_TRUE(pid);
    if (pid && std::ranges::find(started, *pid) == started.end()) started.push_back(*pid);
    return std::move(*keeper);
  }

  UniqueFd file(const std::string& content) {
    tree.write("file", content);
    UniqueFd fd(::open(tree.path("file").c_str(), O_RDWR | O_CLOEXEC));
    ::unlink(tree.path("file").c_str());
    return fd;
  }
  static std::string content(int fd) {
    char text[64];
    const ssize_t size = ::pread(fd, text, sizeof text, 0);
    return std::string(text, size > 0 ? static_cast<std::size_t>(size) : 0);
  }

  sockaddr_un address() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = tree.path("state/keeper.sock");
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
  }
  // A connection by hand; -1: refused.
  UniqueFd connect() const {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    const sockaddr_un to = address();
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return UniqueFd();
    return socket;
  }
  static bool is_cut(int socket) {
    pollfd waiting{socket, POLLIN, 0};
    char byte;
    return ::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) == 1 &&
           ::recv(socket, &byte, 1, MSG_DONTWAIT) <= 0;
  }
  // Not by connecting to it: that keeps it alive.
  bool has_ended() {
    const pid_t pid = started.front();
    const bool ended = wait_until([&] { return ::waitpid(pid, nullptr, WNOHANG) != 0; });   // or it was reaped
    if (ended) started.erase(started.begin());
    return ended;
  }

  TempTree tree;
  UniqueFd directory;
  std::vector<pid_t> started;
};

TEST_F(DeviceKeeper, WhatAKilledBrokerHadComesBackToTheNext) {
  const auto first = reach();
  ASSERT_TRUE(first);
  const UniqueFd kept = file("unsaved work");
  const UniqueFd socket = connect();
  const Pipe told;
  const pid_t broker = ::fork();
  if (broker == 0) {   // system calls only
    char answer[256];
    if (!broker::send_message(socket.get(), say::kKeep, static_cast<std::uint8_t>(Kept::file), "s/7", kept.get()))
      ::_exit(1);
    if (::recv(socket.get(), answer, sizeof answer, 0) != 3 || answer[1] != say::kDone || answer[2] != 0) ::_exit(2);
    (void)!::write(told.writer.get(), "k", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(told.reader.get(), &byte, 1), 1);
  ::kill(broker, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(broker, &status, 0), broker);
  ASSERT_TRUE(WIFSIGNALED(status));

  const auto next = reach();
  ASSERT_TRUE(next);
  const auto taken = next->take("s/");
  ASSERT_TRUE(taken);
  ASSERT_EQ(taken->size(), 1u);
  EXPECT_EQ(taken->front().name, "s/7");
  EXPECT_EQ(taken->front().kind, Kept::file);
  EXPECT_EQ(content(taken->front().fd.get()), "unsaved work");
  EXPECT_EQ(next->pid().value_or(0), first->pid().value_or(-1)) << "another keeper, which can know nothing of it";
  EXPECT_THAT(next->list("").value(), ElementsAre("s/7")) << "taken, and kept all the same";
}

TEST_F(DeviceKeeper, KeepsWhatIsKeptWhileNobodyIsThere) {
  const std::vector<std::string> hurried{"--grace-ms", "1"};
  const UniqueFd kept = file("text");
  pid_t pid = 0;
  {
    const auto keeper = reach(hurried);
    ASSERT_TRUE(keeper && keeper->keep("f", Kept::file, kept.get()));
    pid = keeper->pid().value_or(0);
  }
  ::poll(nullptr, 0, 200);   // many times its grace
  const auto next = reach(hurried);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->pid().value_or(0), pid);
  EXPECT_THAT(next->list("").value(), ElementsAre("f"));
}

TEST_F(DeviceKeeper, EndsWhenItKeepsNothingAndNobodyIsThere) {
  const UniqueFd kept = file("text");
  {
    const auto keeper = reach({"--grace-ms", "20"});
    ASSERT_TRUE(keeper && keeper->keep("f", Kept::file, kept.get()));
    ASSERT_TRUE(keeper->drop("f"));
    ::poll(nullptr, 0, 200);
    EXPECT_THAT(keeper->list("").value(), IsEmpty()) << "it ended under a broker";
  }
  EXPECT_TRUE(has_ended());
  const auto next = reach();
  ASSERT_TRUE(next) << "none can be started where one has ended";
  EXPECT_TRUE(next->keep("g", Kept::file, kept.get()));
}

TEST_F(DeviceKeeper, GivesUpFilesThatNoDeviceAndNoBrokerGoesWith) {
  const UniqueFd kept = file("text");
  {
    const auto keeper = reach({"--grace-ms", "20", "--files-alone-ms", "100"});
    ASSERT_TRUE(keeper && keeper->keep("f", Kept::file, kept.get()));
    ::poll(nullptr, 0, 300);
    EXPECT_THAT(keeper->list("").value(), ElementsAre("f")) << "given up with a broker there";
  }
  EXPECT_TRUE(has_ended());
}

TEST_F(DeviceKeeper, OneNameKeepsOneDescriptorUntilItIsDropped) {
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  const Pipe first, second;
  Pipe third;
  ASSERT_TRUE(keeper->keep("f", Kept::file, first.writer.get()));
  ASSERT_TRUE(keeper->keep("f", Kept::file, second.writer.get()));
  ASSERT_TRUE(keeper->keep("g", Kept::file, third.writer.get()));
  third.writer = UniqueFd();
  EXPECT_THAT(keeper->list("").value(), ElementsAre("f", "g"));
  EXPECT_FALSE(third.ended());
  ASSERT_TRUE(keeper->drop("g"));
  ASSERT_TRUE(keeper->drop("nothing"));
  EXPECT_THAT(keeper->list("").value(), ElementsAre("f"));
  EXPECT_TRUE(wait_until([&] { return third.ended(); })) << "dropped, and open all the same";
  auto taken = keeper->take("f");
  ASSERT_TRUE(taken && taken->size() == 1);
  ASSERT_EQ(::write(taken->front().fd.get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(::read(second.reader.get(), &byte, 1), 1) << "the replaced one came back";
}

TEST_F(DeviceKeeper, GivesOutByPrefixAndInOrder) {
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  const UniqueFd kept = file("text");
  for (const char* name : {"s1/b", "s10/a", "s1/a", "t/a"}) ASSERT_TRUE(keeper->keep(name, Kept::file, kept.get()));
  EXPECT_THAT(keeper->list("s1/").value(), ElementsAre("s1/a", "s1/b"));
  EXPECT_THAT(keeper->list("").value(), ElementsAre("s1/a", "s1/b", "s10/a", "t/a"));
  EXPECT_THAT(keeper->list("u").value(), IsEmpty());
  const auto taken = keeper->take("t/");
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->size(), 1u);
}

TEST_F(DeviceKeeper, ThousandsComeBack) {
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  const UniqueFd kept = file("text");
  constexpr std::size_t kMany = 2000;
  for (std::size_t i = 0; i < kMany; ++i) ASSERT_TRUE(keeper->keep("f" + std::to_string(i), Kept::file, kept.get()));
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  rlimit raised{before.rlim_max, before.rlim_max};
  if (before.rlim_max < kMany + 100 || ::setrlimit(RLIMIT_NOFILE, &raised) != 0) GTEST_SKIP() << "no room for them here";
  {
    const auto taken = keeper->take("");
    ASSERT_TRUE(taken);
    EXPECT_EQ(taken->size(), kMany);
  }
  // Refused as a whole where there is no room, and the keeper serves on.
  rlimit narrow{64, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &narrow);
  const auto refused = keeper->take("");
  ::setrlimit(RLIMIT_NOFILE, &before);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().value, EMFILE);
  EXPECT_EQ(keeper->list("").value().size(), kMany);
}

TEST_F(DeviceKeeper, TakesNoMoreThanItHasRoomFor) {
  const auto keeper = reach({"--grace-ms", "3600000", "--max-kept", "2"});
  ASSERT_TRUE(keeper);
  const UniqueFd kept = file("text");
  ASSERT_TRUE(keeper->keep("a", Kept::file, kept.get()));
  ASSERT_TRUE(keeper->keep("b", Kept::file, kept.get()));
  const auto refused = keeper->keep("c", Kept::file, kept.get());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().value, EMFILE);
  EXPECT_TRUE(keeper->keep("a", Kept::file, kept.get())) << "in place of the one that was";
  ASSERT_TRUE(keeper->drop("b"));
  EXPECT_TRUE(keeper->keep("c", Kept::file, kept.get()));
  EXPECT_THAT(keeper->list("").value(), ElementsAre("a", "c"));
}

TEST_F(DeviceKeeper, RefusesNamesOfAnotherAlphabet) {
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  const UniqueFd kept = file("text");
  const std::string longest(broker::kMaxKeptName, 'a');
  EXPECT_TRUE(keeper->keep(longest, Kept::file, kept.get()));
  EXPECT_TRUE(keeper->keep("Az09._-:/", Kept::file, kept.get()));
  for (const std::string& name : {std::string(), longest + "a", std::string("a b"), std::string("a\0b", 3),
                                  std::string("a\n"), std::string("\xc3\xa4")}) {
    EXPECT_EQ(keeper->keep(name, Kept::file, kept.get()).error().value, EINVAL) << name;
    EXPECT_EQ(keeper->drop(name).error().value, EINVAL) << name;
  }
  EXPECT_EQ(keeper->keep("closed", Kept::file, -1).error().value, EBADF);
  EXPECT_EQ(keeper->list("").value().size(), 2u);
}

// What comes from a client that is none of ours: its connection ends, what it
// sent along is closed, and nobody else notices.
TEST_F(DeviceKeeper, JunkDoesNoHarm) {
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  const UniqueFd kept = file("text");
  ASSERT_TRUE(keeper->keep("f", Kept::file, kept.get()));
  const auto file_kind = static_cast<std::uint8_t>(Kept::file);
  struct Junk {
    const char* what;
    std::string bytes;
    std::size_t descriptors;
  };
  const auto message = [](int version, std::uint8_t kind, std::uint8_t detail, const std::string& name) {
    return std::string{static_cast<char>(version), static_cast<char>(kind), static_cast<char>(detail)} + name;
  };
  const std::vector<Junk> all{
      {"half a message", "\x01k", 1},
      {"an unknown question", message(1, 'x', 0, "f"), 0},
      {"another version", message(2, say::kDrop, 0, "f"), 0},
      {"too long", message(1, say::kKeep, file_kind, std::string(129, 'a')), 1},
      {"much too long", message(1, say::kKeep, file_kind, std::string(100'000, 'a')), 1},
      {"nothing to keep", message(1, say::kKeep, file_kind, "g"), 0},
      {"two to keep", message(1, say::kKeep, file_kind, "g"), 2},
      {"a hundred to keep", message(1, say::kKeep, file_kind, "g"), 100},
      {"no kind", message(1, say::kKeep, 0, "g"), 1},
      {"an unknown kind", message(1, say::kKeep, 3, "g"), 1},
      {"a bad name", message(1, say::kKeep, file_kind, "a b"), 1},
      {"a bad name to drop", message(1, say::kDrop, 0, "a b"), 0},
      {"a bad prefix", message(1, say::kTake, 0, "a b"), 0},
      {"a drop with a descriptor", message(1, say::kDrop, 0, "f"), 1},
      {"a hello with a descriptor", message(1, say::kHello, 0, ""), 1},
      {"an answer", message(1, say::kDone, 0, ""), 0},
  };
  for (const Junk& junk : all) {
    SCOPED_TRACE(junk.what);
    const UniqueFd socket = connect();
    ASSERT_TRUE(socket);
    Pipe pipe;
    const std::vector<int> sent(junk.descriptors, pipe.writer.get());
    std::vector<char> control(CMSG_SPACE(sent.size() * sizeof(int)));
    iovec data{const_cast<char*>(junk.bytes.data()), junk.bytes.size()};
    msghdr whole{};
    whole.msg_iov = &data;
    whole.msg_iovlen = 1;
    if (!sent.empty()) {
      whole.msg_control = control.data();
      whole.msg_controllen = control.size();
      cmsghdr* part = CMSG_FIRSTHDR(&whole);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sent.size() * sizeof(int));
      std::memcpy(CMSG_DATA(part), sent.data(), sent.size() * sizeof(int));
    }
    ASSERT_GT(::sendmsg(socket.get(), &whole, MSG_NOSIGNAL), 0);
    EXPECT_TRUE(is_cut(socket.get()));
    pipe.writer = UniqueFd();
    EXPECT_TRUE(wait_until([&] { return pipe.ended(); })) << "a descriptor that came with it is still open";
    EXPECT_THAT(keeper->list("").value(), ElementsAre("f"));
  }
}

TEST_F(DeviceKeeper, WhoAsksAndDoesNotReadHoldsNobodyUp) {
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  const UniqueFd kept = file("text");
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(keeper->keep("f" + std::to_string(i), Kept::file, kept.get()));
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 2; ++i) {
    silent.push_back(connect());
    for (int questions = 0; questions < 20; ++questions)
      ASSERT_TRUE(broker::send_message(silent.back().get(), say::kTake, 0, ""));
  }
  EXPECT_TRUE(keeper->keep("g", Kept::file, kept.get()));
  EXPECT_EQ(keeper->take("g").value().size(), 1u);
  EXPECT_EQ(keeper->list("").value().size(), 1001u);
}

TEST_F(DeviceKeeper, ConnectionsThatOnlyLieThereKeepNoBrokerOut) {
  const UniqueFd kept = file("text");
  const auto first = reach();
  ASSERT_TRUE(first && first->keep("f", Kept::file, kept.get()));
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 100; ++i) {
    idle.push_back(connect());
    ASSERT_TRUE(idle.back());
    ASSERT_TRUE(wait_until([&] {   // each is let in, so that all are before the next
      const auto sent = broker::send_message(idle.back().get(), say::kHello, 0, "");
      char answer[64];
      return sent && ::recv(idle.back().get(), answer, sizeof answer, 0) > 0;
    }));
  }
  const auto next = reach();
  ASSERT_TRUE(next);
  EXPECT_THAT(next->list("").value(), ElementsAre("f"));
}

TEST_F(DeviceKeeper, AnotherUserGetsNoAnswer) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  // Even where the directory would let him in.
  ASSERT_EQ(::chmod(tree.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(tree.path("state").c_str(), 0755), 0);
  ASSERT_EQ(::chmod(tree.path("state/keeper.sock").c_str(), 0777), 0);
  const sockaddr_un to = address();
  const auto bytes_answered_to = [&](uid_t uid) {
    const pid_t child = ::fork();
    if (child == 0) {   // system calls only
      if (::setresgid(uid, uid, uid) != 0 || ::setresuid(uid, uid, uid) != 0) ::_exit(100);
      const int socket = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
      if (::connect(socket, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) ::_exit(101);
      (void)!broker::send_message(socket, say::kHello, 0, "");
      char answer[64];
      const ssize_t size = ::recv(socket, answer, sizeof answer, 0);
      ::_exit(size > 0 ? static_cast<int>(size) : 0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  EXPECT_EQ(bytes_answered_to(kNobody), 0);
  const int own = bytes_answered_to(::geteuid());
  EXPECT_GT(own, 3);
  EXPECT_LT(own, 100);
}

TEST_F(DeviceKeeper, StaysWhenItIsAskedToEndAndKeepsSomething) {
  const UniqueFd kept = file("text");
  {
    const auto keeper = reach();
    ASSERT_TRUE(keeper && keeper->keep("f", Kept::file, kept.get()));
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) ::kill(started.front(), signal);
    EXPECT_THAT(keeper->list("").value(), ElementsAre("f"));
    ASSERT_TRUE(keeper->drop("f"));
    EXPECT_THAT(keeper->list("").value(), IsEmpty()) << "it ended under a broker";
  }
  EXPECT_TRUE(has_ended()) << "asked to, and kept nothing: an hour's grace is none of its business";
}

TEST_F(DeviceKeeper, IsAloneWithWhatItKeeps) {
  Pipe inherited(0);   // not close-on-exec
  const auto keeper = reach();
  ASSERT_TRUE(keeper);
  const pid_t pid = started.front();
  inherited.writer = UniqueFd();
  EXPECT_TRUE(wait_until([&] { return inherited.ended(); })) << "a descriptor of the broker's is open in it";
  EXPECT_EQ(::getsid(pid), pid) << "a terminal's end would be its own";
  std::error_code gone;
  const auto where = std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/cwd", gone);
  if (!gone) {
    EXPECT_EQ(where, "/");
  }
  // A process that cannot be debugged belongs to root in /proc.
  struct stat info{};
  ASSERT_EQ(::stat(("/proc/" + std::to_string(pid) + "/fd").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 0u);
  const auto socket_mode = [&] {
    EXPECT_EQ(::stat(tree.path("state/keeper.sock").c_str(), &info), 0);
    return info.st_mode & 0777;
  };
  EXPECT_EQ(socket_mode(), 0600u);
}

TEST_F(DeviceKeeper, OneThatIsGoneIsReported) {
  const UniqueFd kept = file("text");
  const auto keeper = reach();
  ASSERT_TRUE(keeper && keeper->keep("f", Kept::file, kept.get()));
  ::kill(started.front(), SIGKILL);
  ASSERT_TRUE(has_ended());
  EXPECT_FALSE(keeper->keep("g", Kept::file, kept.get()));
  EXPECT_EQ(keeper->keep("g", Kept::file, kept.get()).error().value, ENOTCONN);
  EXPECT_EQ(keeper->take("").error().value, ENOTCONN);
  const auto next = reach();
  ASSERT_TRUE(next);
  EXPECT_THAT(next->list("").value(), IsEmpty());
  EXPECT_TRUE(next->keep("g", Kept::file, kept.get()));
}

TEST_F(DeviceKeeper, OneThatDoesNotAnswerIsReported) {
  const UniqueFd kept = file("text");
  ASSERT_TRUE(reach());
  ::kill(started.front(), SIGSTOP);
  auto keeper = Keeper::reach(directory.get(), {.program = programs_directory() + "/fbroker",
                                                .bound = std::chrono::milliseconds(50),
                                                .start_bound = std::chrono::milliseconds(50)});
  ASSERT_TRUE(keeper);
  EXPECT_EQ((*keeper)->keep("f", Kept::file, kept.get()).error().value, ETIMEDOUT);
  EXPECT_EQ((*keeper)->keep("f", Kept::file, kept.get()).error().value, ENOTCONN);
}

TEST_F(DeviceKeeper, OneThatCannotBeStartedIsReported) {
  const auto absent = Keeper::reach(directory.get(), {.program = tree.path("absent")});
  ASSERT_FALSE(absent);
  EXPECT_THAT(absent.error().text(), testing::HasSubstr("No such file"));
  auto another = Keeper::reach(directory.get(), {.program = "/bin/false"});   // starts, and is none
  if (another) {
    EXPECT_FALSE((*another)->pid());
  }
}

TEST(DeviceKeeperVerb, IsNoPersonsVerb) {
  const std::string program = programs_directory() + "/fbroker";
  EXPECT_EQ(run({program, "keeper"}).status, 2);
  EXPECT_EQ(run({program, "keeper", "--socket-fd", "0"}).status, 2) << "that is no listening socket";
  EXPECT_THAT(run({program, "--help"}).out, testing::Not(testing::HasSubstr("keeper")));
}

// A FUSE file system whose first request nobody answers.
class FuseDevice : public DeviceKeeper {
 protected:
  void SetUp() override {
    DeviceKeeper::SetUp();
    device = UniqueFd(::open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    tree.mkdir("mounted");
    const std::string words = "fd=" + std::to_string(device.get()) + ",rootmode=40000,user_id=0,group_id=0";
    if (!device || ::mount("keeper-test", tree.path("mounted").c_str(), "fuse", MS_NOSUID | MS_NODEV, words.c_str()) != 0)
      GTEST_SKIP() << "nothing can be mounted here";
  }
  void TearDown() override {
    unmount();
    DeviceKeeper::TearDown();
  }
  void unmount() { ::umount2(tree.path("mounted").c_str(), MNT_DETACH); }

  UniqueFd device;
};

TEST_F(FuseDevice, IsKeptWhileItsConnectionLives) {
  const auto keeper = reach({"--grace-ms", "20", "--device-check-ms", "5"});
  ASSERT_TRUE(keeper);
  ASSERT_TRUE(keeper->keep("s/device", Kept::device, device.get()));
  ASSERT_TRUE(keeper->keep("s/file", Kept::file, device.get()));
  ::poll(nullptr, 0, 200);   // many looks at it
  EXPECT_THAT(keeper->list("").value(), ElementsAre("s/device", "s/file"));
  unmount();
  EXPECT_TRUE(wait_until([&] { return keeper->list("").value() == std::vector<std::string>{"s/file"}; }))
      << "what is no device is not looked at, what is one is given up";
}

TEST_F(FuseDevice, TheKeeperEndsWithTheLastOne) {
  {
    const auto keeper = reach({"--grace-ms", "20", "--device-check-ms", "5"});
    ASSERT_TRUE(keeper);
    ASSERT_TRUE(keeper->keep("s/device", Kept::device, device.get()));
  }
  ::poll(nullptr, 0, 200);
  EXPECT_TRUE(connect()) << "it ended, and with it the only way back to the device";
  unmount();
  EXPECT_TRUE(has_ended());
}

}  // namespace
}  // namespace fbroker::test
