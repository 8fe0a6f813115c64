// A container's first process that lies about its device, or keeps a copy of it
// and reads the kernel's requests from there.
//
// This program is also that process: started with FBROKER_TEST_HOSTILE set to
// the data socket, it becomes the first of a PID namespace of its own, with
// mounts of its own, and does what it is told on its standard input.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/close_range.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <iostream>
#include <sstream>

#include "broker/grants/changes.h"
#include "broker/protocol/device_offer.h"
#include "tests/broker/session_broker.h"
#include "tests/support/process.h"

namespace fbroker::test {
namespace {

// ---- the hostile process -------------------------------------------------

// In mounts of its own, where no socket and nothing else of the test's is.
constexpr const char* kPlace = "/var/tmp";
constexpr const char* kMount = "/var/tmp/mount";
constexpr const char* kOther = "/var/tmp/other";
constexpr const char* kSilent = "/var/tmp/silent";
constexpr std::size_t kRequestBytes = 2 << 20;

[[noreturn]] void give_up(const char* what) {
  std::cout << "cannot: " << what << ": " << std::strerror(errno) << std::endl;
  ::_exit(1);
}

void write_text(const char* file, const std::string& text) {
  const int fd = ::open(file, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || ::write(fd, text.data(), text.size()) < 0) give_up(file);
  ::close(fd);
}

// Goes on as the first process of a PID namespace. Ends with the test, whatever it is doing.
void enter_namespaces() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::string uid = std::to_string(::geteuid()), gid = std::to_string(::getegid());
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID) != 0) give_up("unshare");
  write_text("/proc/self/setgroups", "deny");
  write_text("/proc/self/uid_map", "0 " + uid + " 1");
  write_text("/proc/self/gid_map", "0 " + gid + " 1");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) give_up("private mounts");
  if (::mount("tmpfs", kPlace, "tmpfs", 0, nullptr) != 0) give_up("tmpfs");
  for (const char* place : {kMount, kOther, kSilent}) ::mkdir(place, 0755);
  const pid_t first = ::fork();
  if (first < 0) give_up("fork");
  if (first == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    return;
  }
  int status = 0;
  while (::waitpid(first, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

int open_device() { return ::open("/dev/fuse", O_RDWR | O_CLOEXEC); }

int mounted_device(const char* place) {
  const int device = open_device();
  const std::string data = "fd=" + std::to_string(device) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
  if (device < 0 || ::mount("fbroker", place, "fuse.fbroker", MS_NOSUID | MS_NODEV, data.c_str()) != 0) give_up("mount");
  return device;
}

int cloned(int device) {
  const int clone = open_device();
  auto source = static_cast<std::uint32_t>(device);
  if (::ioctl(clone, FUSE_DEV_IOC_CLONE, &source) != 0) give_up("clone");
  return clone;
}

// A child holds no copy of any device: one that hangs would keep it for ever.
template <class Work>
pid_t start_child(Work work, int keep = -1) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  if (keep > 3) ::syscall(SYS_close_range, 3u, static_cast<unsigned>(keep - 1), 0u);
  ::syscall(SYS_close_range, static_cast<unsigned>(std::max(keep + 1, 3)), ~0u, 0u);
  work();
  ::_exit(0);
}

struct Request {
  fuse_in_header header;
  std::string body;
};

// False: there is none now, or never.
bool take_request(int device, Request& request) {
  static std::string buffer(kRequestBytes, '\0');
  const ssize_t got = ::read(device, buffer.data(), buffer.size());
  if (got < static_cast<ssize_t>(sizeof request.header)) return false;
  std::memcpy(&request.header, buffer.data(), sizeof request.header);
  request.body.assign(buffer, sizeof request.header, static_cast<std::size_t>(got) - sizeof request.header);
  return true;
}

bool answer(int device, std::uint64_t unique, int error, const void* body = nullptr, std::size_t size = 0) {
  std::string reply(sizeof(fuse_out_header) + size, '\0');
  const fuse_out_header header{static_cast<std::uint32_t>(reply.size()), error, unique};
  std::memcpy(reply.data(), &header, sizeof header);
  if (size > 0) std::memcpy(reply.data() + sizeof header, body, size);
  return ::write(device, reply.data(), reply.size()) == static_cast<ssize_t>(reply.size());
}

// A file system with one file, which can be opened and never looked at or closed.
void serve_silently(int device) {
  const auto attributes = [](std::uint64_t node) {
    fuse_attr attr{};
    attr.ino = node;
    attr.mode = node == 1 ? S_IFDIR | 0755u : S_IFREG | 0644u;
    attr.nlink = 1;
    return attr;
  };
  for (Request request;;) {
    if (!take_request(device, request)) {
      if (errno == ENODEV) return;
      continue;
    }
    const auto unique = request.header.unique;
    if (request.header.opcode == FUSE_INIT) {
      fuse_init_out out{};
      out.major = FUSE_KERNEL_VERSION;
      out.minor = FUSE_KERNEL_MINOR_VERSION;
      out.max_write = 4096;
      answer(device, unique, 0, &out, sizeof out);
    } else if (request.header.opcode == FUSE_LOOKUP) {
      fuse_entry_out out{};
      out.nodeid = 2;
      out.attr = attributes(2);
      answer(device, unique, 0, &out, sizeof out);
    } else if (request.header.opcode == FUSE_OPEN) {
      const fuse_open_out out{};
      answer(device, unique, 0, &out, sizeof out);
    } else if (request.header.opcode == FUSE_GETATTR && request.header.nodeid == 1) {
      fuse_attr_out out{};
      out.attr = attributes(1);
      answer(device, unique, 0, &out, sizeof out);
    } else if (request.header.opcode != FUSE_GETATTR && request.header.opcode != FUSE_FLUSH) {
      answer(device, unique, -ENOSYS);
    }
  }
}

int silent_file() {
  const int device = mounted_device(kSilent);
  start_child([&] { serve_silently(device); }, device);
  ::close(device);
  const int fd = ::open((std::string(kSilent) + "/f").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) give_up("silent file");
  return fd;
}

int connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) give_up("connect");
  return fd;
}

void send_with(int socket, const std::string& bytes, const std::vector<int>& descriptors) {
  std::string data = bytes;
  iovec part{data.data(), data.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(head), descriptors.data(), descriptors.size() * sizeof(int));
  }
  (void)::sendmsg(socket, &message, MSG_NOSIGNAL);
}

// What comes until the other side ends, or nothing more does.
std::string words_from(int socket, const char* until) {
  std::string words;
  char bytes[4096];
  pollfd wait{.fd = socket, .events = POLLIN, .revents = 0};
  while (words.find(until) == words.npos && ::poll(&wait, 1, 60'000) > 0) {
    const ssize_t got = ::recv(socket, bytes, sizeof bytes, 0);
    if (got <= 0) break;
    words.append(bytes, static_cast<std::size_t>(got));
  }
  return words;
}

constexpr const char* kAsk = "GET /v1/device HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: fbroker-device\r\n\r\n";

std::string one_line(std::string words) {
  for (char& c : words)
    if (c == '\n' || c == '\r') c = ' ';
  return words;
}

struct Hostile {
  std::string socket;
  int device = -1;                      // our copy
  std::vector<std::uint64_t> held{};    // requests that nobody answers

  // Asks to be taken, and sends what `kind` says.
  std::string offer(const std::string& kind) {
    const int connection = connect_to(socket);
    send_with(connection, kAsk, {});
    const std::string first = words_from(connection, "\r\n\r\n");
    if (!first.starts_with("HTTP/1.1 101 ")) return one_line(first + words_from(connection, "}"));
    protocol::DeviceOffer offer{.devices = 1};
    std::vector<int> sent = descriptors_for(kind);
    offer.devices = static_cast<std::uint32_t>(sent.size());
    if (kind == "version") offer.version = 2;
    if (kind == "count") offer.devices = 2;
    std::string bytes(reinterpret_cast<const char*>(&offer), sizeof offer);
    if (kind == "short") bytes.pop_back();
    if (kind == "long") bytes.push_back('x');
    if (kind != "nothing") send_with(connection, bytes, sent);
    std::string said = words_from(connection, "\n");
    for (const int fd : sent)
      if (fd != device && kind != "silent") ::close(fd);   // closing that one would hang
    ::close(connection);
    return one_line(said);
  }
  std::vector<int> descriptors_for(const std::string& kind) {
    int ends[2];
    if (kind == "file") return {::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
    if (kind == "null") return {::open("/dev/null", O_RDWR | O_CLOEXEC)};
    if (kind == "fifo") return ::pipe2(ends, O_CLOEXEC) == 0 ? std::vector{ends[0]} : std::vector<int>();
    if (kind == "socket") return {connect_to(socket)};
    if (kind == "silent") return {silent_file()};
    if (kind == "none") return {};
    if (kind == "unmounted") return {open_device()};
    if (device < 0) device = mounted_device(kMount);
    if (kind == "others") return {device, mounted_device(kOther)};
    if (kind == "file-beside") return {device, ::open("/dev/null", O_RDWR | O_CLOEXEC)};
    if (kind == "five") return {device, cloned(device), cloned(device), cloned(device), cloned(device)};
    if (kind == "forty") return std::vector<int>(40, device);
    if (kind == "clones") return {device, cloned(device), cloned(device), cloned(device)};
    return {device};
  }
  // All at once: nothing may come before the answer.
  std::string early() {
    const int connection = connect_to(socket);
    const protocol::DeviceOffer offer{.devices = 1};
    send_with(connection, kAsk + std::string(reinterpret_cast<const char*>(&offer), sizeof offer), descriptors_for("device"));
    return one_line(words_from(connection, "}"));
  }
  // Somebody else asks, in our place.
  std::string by_child() {
    const pid_t child = start_child([&] { std::cout << offer("unmounted") << std::endl; });
    ::waitpid(child, nullptr, 0);
    return "";
  }

  // Takes a request away for which the kernel holds a directory's lock.
  std::string steal() {
    start_child([] {
      struct stat info{};
      for (int i = 0;; ++i) ::stat((std::string(kMount) + "/absent-" + std::to_string(i)).c_str(), &info);
    });
    for (Request request;;) {
      if (!take_request(device, request)) {
        if (errno == ENODEV) return "the connection is gone";
        ::sched_yield();
        continue;
      }
      if (request.header.opcode == FUSE_FORGET || request.header.opcode == FUSE_BATCH_FORGET) continue;
      held.push_back(request.header.unique);
      if (request.header.opcode == FUSE_LOOKUP) return "stolen";
    }
  }
  std::string give_back() {
    for (const auto unique : held) answer(device, unique, -ENOENT);
    held.clear();
    return "given back";
  }

  std::string read(const std::string& name) const {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) give_up("pipe");
    const int out = ends[1];
    const pid_t child = start_child([&] {
      char bytes[256] = "errno ";
      const int fd = ::open((std::string(kMount) + "/" + name).c_str(), O_RDONLY | O_CLOEXEC);
      ssize_t got = fd < 0 ? -1 : ::read(fd, bytes, sizeof bytes);
      if (got < 0) got = std::snprintf(bytes, sizeof bytes, "errno %d", errno);
      (void)::write(out, bytes, static_cast<std::size_t>(got));
    }, out);
    ::close(out);
    std::string text;
    char bytes[256];
    for (ssize_t got; (got = ::read(ends[0], bytes, sizeof bytes)) > 0;) text.append(bytes, static_cast<std::size_t>(got));
    ::close(ends[0]);
    ::waitpid(child, nullptr, 0);
    return text;
  }

  // What the kernel must refuse to take for an answer or a notification.
  std::string garbage() const {
    unsigned seed = 4711;
    int accepted = 0;
    for (int i = 0; i < 2000; ++i) {
      std::string bytes(16 + static_cast<std::size_t>(rand_r(&seed)) % 200, '\0');
      for (char& c : bytes) c = static_cast<char>(rand_r(&seed));
      fuse_out_header header{static_cast<std::uint32_t>(bytes.size()), -(rand_r(&seed) % 600), 0};
      header.unique = static_cast<std::uint64_t>(rand_r(&seed)) << (i % 2 * 32) | 1u << 31;
      if (i % 4 == 1) header.unique = 0, header.error = 100 + rand_r(&seed) % 1000;   // no such notification
      if (i % 4 != 0) std::memcpy(bytes.data(), &header, sizeof header);
      accepted += ::write(device, bytes.data(), bytes.size()) > 0 ? 1 : 0;
    }
    return std::to_string(accepted);
  }

  std::string run(const std::string& line) {
    std::istringstream words(line);
    std::string command, what;
    words >> command >> what;
    if (command == "offer") return offer(what);
    if (command == "early") return early();
    if (command == "child") return by_child();
    if (command == "steal") return steal();
    if (command == "give-back") return give_back();
    if (command == "read") return read(what);
    if (command == "garbage") return garbage();
    return "unknown";
  }
};

[[gnu::constructor]] void perhaps_be_hostile() {
  const char* socket = std::getenv("FBROKER_TEST_HOSTILE");
  if (socket == nullptr) return;
  static const std::ios_base::Init streams;   // before main
  ::signal(SIGPIPE, SIG_IGN);
  enter_namespaces();
  Hostile hostile{.socket = socket};
  std::cout << "ready." << std::endl;
  for (std::string line; std::getline(std::cin, line);) std::cout << hostile.run(line) << "." << std::endl;
  ::_exit(0);
}

// ---- the tests -----------------------------------------------------------

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class Client {
 public:
  explicit Client(const broker::Session& session)
      : process_([&] {
          As as;
          as.environment["FBROKER_TEST_HOSTILE"] = session.socket();
          return Process::start({"/proc/self/exe"}, as);
        }()) {
    ready_ = process_.read_until("ready.\n").has_value();
  }
  bool ready() const { return ready_; }
  std::string why() const { return process_.rest() + process_.errors(); }
  std::string operator()(const std::string& command) {
    process_.write_line(command);
    const auto answer = process_.read_until(".\n", 200s);
    return answer ? *answer : "(no answer) " + process_.rest() + process_.errors();
  }
  // While a device is still being looked at, none other is taken.
  std::string offer(const std::string& kind, const broker::Session& session) {
    std::string said;
    wait_until([&] {
      said = (*this)("offer " + kind);
      return session.mount() != nullptr || !has(said, "there is one already");
    });
    return said;
  }
  bool was_killed() { return process_.wait() == 128 + SIGKILL; }

 private:
  Process process_;
  bool ready_ = false;
};

// Children of ours that tell kernels what to forget.
int notifiers() {
  int count = 0;
  DIR* all = ::opendir("/proc/self/task");
  for (const dirent* thread; (thread = ::readdir(all)) != nullptr;) {
    std::ifstream children(std::string("/proc/self/task/") + thread->d_name + "/children");
    for (std::string child; children >> child;) {
      std::string pid, name, state;
      std::ifstream("/proc/" + child + "/stat") >> pid >> name >> state;
      count += name == "(fbroker-notify)" && state != "Z" ? 1 : 0;
    }
  }
  ::closedir(all);
  return count;
}

class DeviceHostile : public testing::Test {
 protected:
  void SetUp() override {
    broker.write("project/f", "content");
    session = broker.session();
    client.emplace(*session);
    if (!client->ready()) {
      if (has(client->why(), "cannot: unshare")) GTEST_SKIP() << client->why();
      FAIL() << client->why();
    }
  }
  void TearDown() override {
    // Whatever still hangs in the kernel ends with its connection.
    if (session && broker.registry->find("s")) broker.registry->end("s");
  }
  void be_adopted(const std::string& kind = "device") {
    ASSERT_EQ(client->offer(kind, *session), "adopted ");
    ASSERT_TRUE(wait_until([&] { return session->mount() != nullptr; }));
    ASSERT_EQ((*client)("read f"), "content");
  }
  // While a lock is held that the kernel needs for it.
  void change_what_cannot_be_told() {
    broker::EventBus& events = session->events();
    const std::uint64_t before = events.last_sequence();
    broker.write("project/f", "changed");
    ASSERT_TRUE(wait_until([&] { return events.last_sequence() > before; }));
    EXPECT_FALSE(events.wait_acknowledged(events.last_sequence(), 3000ms)) << "the kernel cannot have forgotten";
  }
  // Finality of a revoke that must come back by itself.
  broker::Finality revoke(broker::Session& of, const std::string& path) {
    auto outcome = std::async(std::launch::async, [&] { return broker::revoke_places(of.take_turn(), {ws(path)}).finality; });
    EXPECT_EQ(outcome.wait_for(kPatience), std::future_status::ready) << "the revoke hangs";
    return outcome.get();
  }

  SessionBroker broker;
  std::shared_ptr<broker::Session> session;
  std::optional<Client> client;
};

TEST_F(DeviceHostile, WhatIsNoMountsDeviceIsRefusedAndTheNextOneIsTaken) {
  for (const char* kind : {"file", "null", "fifo", "socket", "none", "unmounted", "others", "file-beside", "five", "forty",
                           "version", "count", "short", "long", "nothing"}) {
    const std::string said = client->offer(kind, *session);
    EXPECT_TRUE(has(said, "device")) << kind << ": " << said;
    EXPECT_FALSE(has(said, "adopted")) << kind << ": " << said;
    EXPECT_EQ(session->mount(), nullptr) << kind;
  }
  EXPECT_TRUE(has((*client)("early"), "nothing may follow")) << "data before the answer";
  EXPECT_EQ(opens(*session, "/f", O_RDONLY), 0) << "the broker works on";
  be_adopted();
}

// A descriptor that cannot even be looked at: the broker does not wait for it.
TEST_F(DeviceHostile, WhatHangsWhenItIsLookedAtIsRefused) {
  const std::string said = client->offer("silent", *session);
  EXPECT_TRUE(has(said, "device")) << said;
  EXPECT_FALSE(has(said, "adopted")) << said;
  EXPECT_EQ(session->mount(), nullptr);
  EXPECT_EQ(opens(*session, "/f", O_RDONLY), 0) << "the broker works on";
}

TEST_F(DeviceHostile, ADeviceIsTakenWithItsClones) { be_adopted("clones"); }

TEST_F(DeviceHostile, OnlyTheFirstProcessGivesADeviceAwayAndOneOnly) {
  EXPECT_TRUE(has((*client)("child"), "only the first process of a container"));
  be_adopted();
  EXPECT_TRUE(has((*client)("child"), "there is one already"));
  EXPECT_TRUE(has((*client)("offer unmounted"), "there is one already"));
  EXPECT_EQ((*client)("read f"), "content");
  EXPECT_EQ(session->sandbox() != nullptr, true) << "who gave it is the sandbox";
}

TEST_F(DeviceHostile, TheSandboxThatTheLauncherNamedIsTheOneThatMayGiveIt) {
  Process other = Process::start({"/bin/sleep", "1000"});
  ASSERT_TRUE(broker.registry->register_sandbox(*session, other.pid()));
  EXPECT_TRUE(has((*client)("offer device"), "not the sandbox's first process"));
  EXPECT_EQ(session->mount(), nullptr);
}

// ATTACK: take a request for which the kernel holds a directory's lock, and
//   never answer: whoever tells the kernel to forget hangs, beyond SIGKILL.
TEST_F(DeviceHostile, ARevokeEndsThoughARequestIsHeldAndItsHolderIsDead) {
  broker::WantedSession wanted{"t", (broker.dir / "project").string(), {}, {}, ""};
  auto other = broker.registry->create(wanted, broker::Registry::OldGrants::keep);
  ASSERT_TRUE(other);
  be_adopted();
  ASSERT_EQ((*client)("steal"), "stolen");

  const auto finality = revoke(*session, "/f");
  EXPECT_FALSE(finality.acknowledged);
  EXPECT_TRUE(finality.sandbox_killed);
  EXPECT_TRUE(finality.drained);
  EXPECT_TRUE(finality.is_final());
  EXPECT_FALSE(session->sandbox()->alive()) << "dead when the person is answered";
  EXPECT_TRUE(client->was_killed());

  EXPECT_TRUE(revoke(**other, "/f").acknowledged) << "nobody else is concerned";
  EXPECT_EQ(broker.call("GET", "/v1/status").status, 200);
  EXPECT_TRUE(revoke(*session, "/").is_final()) << "and the next one need not wait for the dead";
}

TEST_F(DeviceHostile, ThePersonIsToldThatTheSandboxWasKilled) {
  be_adopted();
  ASSERT_EQ((*client)("steal"), "stolen");
  const auto answer = broker.revoke("f");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body.value("sandbox_killed", false), true) << answer.body.dump();
  EXPECT_EQ(answer.body.value("acknowledged", true), false) << answer.body.dump();
}

TEST_F(DeviceHostile, ARevokeThatIsHeardInTimeKillsNobody) {
  be_adopted();
  const auto finality = revoke(*session, "/f");
  EXPECT_TRUE(finality.acknowledged);
  EXPECT_FALSE(finality.sandbox_killed);
  EXPECT_EQ((*client)("read f"), "errno 2");
  EXPECT_TRUE(session->sandbox()->alive());
}

// Also an earlier mistake: such a change was never told at all.
TEST_F(DeviceHostile, AChangeThatCouldNotBeToldInTimeIsToldLater) {
  be_adopted();
  ASSERT_EQ((*client)("steal"), "stolen");
  change_what_cannot_be_told();
  ASSERT_EQ((*client)("give-back"), "given back");
  EXPECT_TRUE(session->events().wait_acknowledged(session->events().last_sequence(), kPatience));
  EXPECT_TRUE(wait_until([&] { return (*client)("read f") == "changed"; }));
  broker.write("project/f", "changed again");
  EXPECT_TRUE(wait_until([&] { return (*client)("read f") == "changed again"; })) << "and the next one as ever";
}

TEST_F(DeviceHostile, ASessionsEndLeavesNothingHanging) {
  be_adopted();
  EXPECT_EQ(notifiers(), 1);
  ASSERT_EQ((*client)("steal"), "stolen");
  change_what_cannot_be_told();
  ASSERT_TRUE(broker.registry->end("s"));
  session.reset();
  EXPECT_TRUE(wait_until([] { return notifiers() == 0; })) << "a process hangs for ever";
}

TEST_F(DeviceHostile, GarbageOnACopyOfTheDeviceHurtsNobody) {
  be_adopted();
  EXPECT_EQ((*client)("garbage"), "0");
  EXPECT_EQ((*client)("read f"), "content");
  EXPECT_TRUE(revoke(*session, "/f").acknowledged);
}

}  // namespace
}  // namespace fbroker::test
