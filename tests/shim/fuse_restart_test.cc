// A mount whose server is killed (SIGKILL) over and over: who uses it sees
// pauses and nothing else. The server is a process of its own; this one holds
// what a keeper holds, starts it and kills it.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "tests/shim/fuse_mounted.h"
#include "tests/shim/fuse_restart_keeper.h"

extern char** environ;

namespace fbroker::test {
namespace {

class RestartedMount {
 public:
  RestartedMount() {
    place_.mkdir("w");
    place_.mkdir("m");
    auto mount = fuse::Mount::make(place_.path("m"), ::geteuid(), ::getegid());
    if (!mount) std::abort();
    mount_.emplace(std::move(*mount));
    devices_.push_back(mount_->take_device());
    for (int i = 0; i < 3; ++i) devices_.push_back(fuse::clone_device(devices_.front().get()));
  }
  ~RestartedMount() { end(); }

  // The thread that starts a server must outlive it: it dies with that thread.
  void start() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) std::abort();
    const UniqueFd theirs(pair[1]);
    keeper_socket_ = UniqueFd(pair[0]);
    keeping_ = std::thread([this, socket = pair[0]] { keeper.serve(socket); });

    std::vector<std::string> words{FBROKER_BIN_DIR "/fuse_restart_server", place_.path("w"), place_.path("state"),
                                   started_++ == 0 ? "first" : "again"};
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    // Numbers that no descriptor here has.
    int number = 500;
    const auto give = [&](int fd) {
      ::posix_spawn_file_actions_adddup2(&actions, fd, number);
      words.push_back(std::to_string(number++));
    };
    give(theirs.get());
    for (const UniqueFd& device : devices_) give(device.get());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (::posix_spawn(&server_, arguments[0], &actions, nullptr, arguments.data(), environ) != 0) std::abort();
    ::posix_spawn_file_actions_destroy(&actions);
  }

  // The status it ended with; SIGKILL unless it ended before.
  int kill() {
    if (server_ <= 0) return 0;
    ::kill(server_, SIGKILL);
    int status = 0;
    ::waitpid(server_, &status, 0);
    server_ = -1;
    keeping_.join();
    return status;
  }
  // Killed, and the next one started. False: it had ended by itself.
  bool restart() {
    const int status = kill();
    start();
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }
  void end() {
    mount_.reset();
    kill();
  }

  std::string inside(const std::string& name = "") const { return place_.path("m") + "/" + name; }
  std::string host(const std::string& name = "") const { return place_.path("w") + "/" + name; }
  std::string state(const std::string& ending) const { return place_.path("state") + ending; }

  RestartKeeper keeper;

 private:
  TempTree place_;
  std::optional<fuse::Mount> mount_;
  std::vector<UniqueFd> devices_;
  UniqueFd keeper_socket_;
  std::thread keeping_;
  pid_t server_ = -1;
  int started_ = 0;
};

// What went wrong for those who use the mount; at most a few of it.
class Complaints {
 public:
  void add(const std::string& what) {
    const std::lock_guard lock(mutex_);
    ++count_;
    if (text_.size() < 4000) text_ += what + "\n";
  }
  // True: it worked. Says what did not.
  bool check(bool worked, const std::string& what) {
    if (!worked) add(what + ": " + std::strerror(errno));
    return worked;
  }
  int count() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  int count_ = 0;
  std::string text_;
};

std::string read_all(int fd, off_t from = 0) {
  std::string all;
  char part[65536];
  for (ssize_t n; (n = ::pread(fd, part, sizeof part, from)) > 0; from += n) all.append(part, static_cast<std::size_t>(n));
  return all;
}

bool write_all(int fd, std::string_view text) {
  return ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

std::string content_of(int number) {
  std::string text;
  while (text.size() < 9000) text += "content " + std::to_string(number) + "\n";
  return text;
}

struct Load {
  const RestartedMount& mount;
  Complaints complaints;
  std::atomic<bool> over{false};
  std::atomic<int> rounds{0};

  std::string in(const std::string& name) const { return mount.inside(name); }
};

// Files replaced atomically, as editors and git do.
void write_files(Load& load, std::map<std::string, std::string>& expected) {
  auto& c = load.complaints;
  for (int i = 0; !load.over; ++i, ++load.rounds) {
    const std::string part = load.in("files/part-" + std::to_string(i)), whole = "files/f" + std::to_string(i % 40);
    const std::string text = content_of(i);
    const UniqueFd fd(::open(part.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!c.check(fd.get() >= 0, "create " + part)) return;
    c.check(write_all(fd.get(), std::string_view(text).substr(0, 4000)), "write " + part);
    c.check(write_all(fd.get(), std::string_view(text).substr(4000)), "write more " + part);
    if (i % 5 == 0) c.check(::fsync(fd.get()) == 0, "fsync " + part);
    if (read_all(fd.get()) != text) c.add("read back " + part);
    c.check(::rename(part.c_str(), load.in(whole).c_str()) == 0, "rename " + part);
    expected[whole] = text;
    if (slurp(load.in(whole)) != text) c.add("read again " + whole);
    if (stat_error(part) != ENOENT) c.add("still there: " + part);
  }
}

void append_lines(Load& load, const std::string& name, const std::string& tag, int& lines) {
  auto& c = load.complaints;
  const UniqueFd log(::open(load.in(name).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!c.check(log.get() >= 0, "open " + name)) return;
  for (lines = 0; !load.over; ++lines)
    if (!c.check(write_all(log.get(), tag + " " + std::to_string(lines) + "\n"), "append " + name)) return;
}

void change_directories(Load& load, std::set<std::string>& expected) {
  auto& c = load.complaints;
  for (int i = 0; !load.over; ++i) {
    const std::string name = "dirs/d" + std::to_string(i), moved = name + ".moved";
    c.check(::mkdir(load.in(name).c_str(), 0755) == 0, "mkdir " + name);
    if (::mkdir(load.in(name).c_str(), 0755) == 0 || errno != EEXIST) c.add("made twice: " + name);
    c.check(spill(load.in(name + "/a"), "a") == 0, "file in " + name);
    c.check(::rename(load.in(name).c_str(), load.in(moved).c_str()) == 0, "rename " + name);
    if (slurp(load.in(moved + "/a")) != "a") c.add("read below " + moved);
    if (i % 3 == 0) {
      expected.insert(moved);
      continue;
    }
    c.check(::unlink(load.in(moved + "/a").c_str()) == 0, "unlink in " + moved);
    c.check(::rmdir(load.in(moved).c_str()) == 0, "rmdir " + moved);
    if (::rmdir(load.in(moved).c_str()) == 0 || errno != ENOENT) c.add("removed twice: " + moved);
  }
}

void make_links(Load& load) {
  auto& c = load.complaints;
  c.check(spill(load.in("links/file"), "linked") == 0, "links/file");
  for (int i = 0; !load.over; ++i) {
    const std::string soft = load.in("links/s" + std::to_string(i)), hard = load.in("links/h" + std::to_string(i));
    c.check(::symlink("file", soft.c_str()) == 0, "symlink");
    char target[16]{};
    if (::readlink(soft.c_str(), target, sizeof target) != 4 || std::string_view(target) != "file") c.add("readlink " + soft);
    c.check(::link(load.in("links/file").c_str(), hard.c_str()) == 0, "link");
    if (slurp(hard) != "linked") c.add("read " + hard);
    if (::link(load.in("links/file").c_str(), hard.c_str()) == 0 || errno != EEXIST) c.add("linked twice: " + hard);
    c.check(::chmod(hard.c_str(), i % 2 == 0 ? 0600 : 0644) == 0, "chmod");
    c.check(::unlink(soft.c_str()) == 0, "unlink " + soft);
    c.check(::unlink(hard.c_str()) == 0, "unlink " + hard);
  }
}

// A lock file has one holder at a time, whatever became of the requests.
void take_locks(Load& load, std::atomic<int>& holders) {
  auto& c = load.complaints;
  const std::string name = load.in("lock");
  while (!load.over) {
    const UniqueFd lock(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (lock.get() < 0) {
      if (errno != EEXIST) c.add(std::string("lock: ") + std::strerror(errno));
      continue;
    }
    if (++holders != 1) c.add("two hold the lock");
    --holders;
    c.check(::unlink(name.c_str()) == 0, "unlock");
  }
}

void read_files(Load& load, const std::string& big) {
  auto& c = load.complaints;
  const UniqueFd held(::open(load.in("big").c_str(), O_RDONLY | O_CLOEXEC));
  c.check(held.get() >= 0, "open big");
  DIR* directory = ::opendir(load.in("many").c_str());
  c.check(directory != nullptr, "opendir");
  for (int i = 0; !load.over; ++i) {
    if (read_all(held.get()) != big) c.add("read of an open file");
    if (i % 4 == 0 && slurp(load.in("big")) != big) c.add("read of a file");
    std::set<std::string> names;
    std::size_t entries = 0;
    ::rewinddir(directory);
    while (const dirent* entry = ::readdir(directory)) names.insert(entry->d_name), ++entries;
    if (names.size() != 302 || entries != 302) c.add("listing of " + std::to_string(entries));
    struct stat st{};
    c.check(::fstat(held.get(), &st) == 0 && st.st_size == static_cast<off_t>(big.size()), "fstat");
  }
  ::closedir(directory);
}

// A program of its own that uses a mapping until it is told to end.
class MappingUser {
 public:
  explicit MappingUser(const std::string& file) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    const UniqueFd theirs(ends[0]);
    input_ = UniqueFd(ends[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDIN_FILENO);
    std::string program = FBROKER_BIN_DIR "/fuse_restart_server", word = "map", name = file;
    char* arguments[] = {program.data(), word.data(), name.data(), nullptr};
    if (::posix_spawn(&program_, program.c_str(), &actions, nullptr, arguments, environ) != 0) std::abort();
    ::posix_spawn_file_actions_destroy(&actions);
  }
  // 0: every store was there.
  int end() {
    input_ = UniqueFd();
    int status = 0;
    ::waitpid(program_, &status, 0);
    return status;
  }

 private:
  UniqueFd input_;
  pid_t program_ = -1;
};

// Open files that no name leads to, or no permission.
void use_unnamed(Load& load) {
  auto& c = load.complaints;
  const UniqueFd gone(::open(load.in("gone").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  c.check(gone.get() >= 0 && ::unlink(load.in("gone").c_str()) == 0, "gone");
  std::string all;
  for (int i = 0; !load.over; ++i) {
    const std::string line = "unnamed " + std::to_string(i) + "\n";
    c.check(::pwrite(gone.get(), line.data(), line.size(), static_cast<off_t>(all.size())) ==
                static_cast<ssize_t>(line.size()), "write to a file without a name");
    all += line;
    if (i % 16 == 0 && read_all(gone.get()) != all) c.add("read of a file without a name");
    // As git makes its objects.
    const std::string object = load.in("objects/o" + std::to_string(i));
    const UniqueFd fd(::open(object.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
    if (!c.check(fd.get() >= 0, "create " + object)) continue;
    c.check(write_all(fd.get(), "object"), "write " + object);
    c.check(write_all(fd.get(), " end"), "write " + object);
    if (slurp(object) != "object end") c.add("read " + object);
    c.check(::unlink(object.c_str()) == 0, "unlink " + object);
  }
  if (read_all(gone.get()) != all) c.add("the file without a name, at the end");
}

TEST(FuseRestart, WhoUsesTheMountSeesPausesAndNothingElse) {
  RestartedMount mount;
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::string big;
  for (int i = 0; i < 300'000; ++i) big += static_cast<char>('a' + random() % 26);
  for (const char* name : {"files", "dirs", "links", "many", "objects"}) std::filesystem::create_directory(mount.host(name));
  for (int i = 0; i < 300; ++i) spill(mount.host("many/entry-" + std::to_string(i)), "x");
  ASSERT_EQ(spill(mount.host("big"), big), 0);

  mount.start();
  Load load{mount, {}, {}, {}};
  std::map<std::string, std::string> files;
  std::set<std::string> directories;
  int own = 0, first = 0, second = 0;
  std::atomic<int> holders{0};
  std::vector<std::thread> users;
  MappingUser mapping(mount.inside("mapped"));
  users.emplace_back([&] { write_files(load, files); });
  users.emplace_back([&] { append_lines(load, "own.log", "own", own); });
  users.emplace_back([&] { append_lines(load, "shared.log", "first", first); });
  users.emplace_back([&] { append_lines(load, "shared.log", "second", second); });
  users.emplace_back([&] { change_directories(load, directories); });
  users.emplace_back([&] { make_links(load); });
  users.emplace_back([&] { take_locks(load, holders); });
  users.emplace_back([&] { take_locks(load, holders); });
  users.emplace_back([&] { read_files(load, big); });
  users.emplace_back([&] { use_unnamed(load); });
  for (int i = 0; i < 25 && load.complaints.count() == 0; ++i) {
    // At any point of a server's life, also before it serves.
    const int rounds = load.rounds;
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (i % 4 != 3 && load.rounds == rounds && std::chrono::steady_clock::now() < patience)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 40'000));
    EXPECT_TRUE(mount.restart()) << "the server ended by itself";
  }
  load.over = true;
  for (std::thread& user : users) user.join();
  EXPECT_EQ(mapping.end(), 0) << "a mapping lost a store";
  EXPECT_EQ(load.complaints.count(), 0) << load.complaints.text();

  // What the host has is what they did.
  EXPECT_GT(files.size(), 0u);
  for (const auto& [name, text] : files) EXPECT_EQ(slurp(mount.host(name)), text) << name;
  std::set<std::string> found;
  for (const std::string& name : listed(mount.host("dirs"))) found.insert("dirs/" + name);
  EXPECT_EQ(found, directories);
  for (const std::string& name : directories) EXPECT_EQ(slurp(mount.host(name + "/a")), "a");
  EXPECT_EQ(listed(mount.host("links")), std::vector<std::string>{"file"});
  EXPECT_EQ(listed(mount.host("objects")), std::vector<std::string>{});
  for (const std::string& name : listed(mount.host("files"))) EXPECT_TRUE(files.contains("files/" + name)) << name;

  std::string expected;
  for (int i = 0; i < own; ++i) expected += "own " + std::to_string(i) + "\n";
  EXPECT_EQ(slurp(mount.host("own.log")), expected) << "lines lost or written twice";
  int next_first = 0, next_second = 0, wrong = 0;
  std::istringstream shared(slurp(mount.host("shared.log")));
  for (std::string line; std::getline(shared, line);) {
    int& next = line.starts_with("first") ? next_first : next_second;
    const std::string tag = line.starts_with("first") ? "first " : "second ";
    wrong += line == tag + std::to_string(next++) ? 0 : 1;
  }
  EXPECT_EQ(wrong, 0) << "lines lost, torn or written twice";
  EXPECT_EQ(next_first, first);
  EXPECT_EQ(next_second, second);
}

// Who holds open files and stands in directories, without load.
TEST(FuseRestart, OpenFilesAndDirectoriesGoOn) {
  RestartedMount mount;
  std::filesystem::create_directories(mount.host("d/e"));
  spill(mount.host("d/e/f"), "before");
  mount.start();
  const UniqueFd directory(::open(mount.inside("d/e").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const UniqueFd file(::openat(directory.get(), "f", O_RDWR | O_CLOEXEC));
  ASSERT_GE(file.get(), 0);
  struct stat before{};
  ASSERT_EQ(::fstat(file.get(), &before), 0);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(mount.restart());
    EXPECT_EQ(read_all(file.get()), "before");
    struct stat now{};
    EXPECT_EQ(::fstatat(directory.get(), "f", &now, 0), 0) << std::strerror(errno);
    EXPECT_EQ(now.st_ino, before.st_ino);
  }
  // The host changed it while nobody served: nobody sees what was cached.
  mount.kill();
  spill(mount.host("d/e/f"), "after and longer");
  mount.start();
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (slurp(mount.inside("d/e/f")) != "after and longer" && std::chrono::steady_clock::now() < patience)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(slurp(mount.inside("d/e/f")), "after and longer");
  EXPECT_EQ(read_all(file.get()), "after and longer");
}

// The refused twin: another file under the name is not the one that was open.
TEST(FuseRestart, AFileThatTheHostReplacedMeanwhileIsStale) {
  RestartedMount mount;
  spill(mount.host("f"), "before");
  mount.start();
  const UniqueFd file(::open(mount.inside("f").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_GE(file.get(), 0);
  mount.kill();
  spill(mount.host("new"), "another");
  std::filesystem::rename(mount.host("new"), mount.host("f"));
  mount.start();
  EXPECT_EQ(::pwrite(file.get(), "x", 1, 0), -1);
  EXPECT_EQ(errno, ESTALE);
  EXPECT_EQ(slurp(mount.host("f")), "another");
  EXPECT_EQ(slurp(mount.inside("f")), "another");
}

// What is kept is given back: nothing piles up at the keeper.
TEST(FuseRestart, TheKeeperHoldsWhatIsOpenAndNoMore) {
  RestartedMount mount;
  mount.start();
  {
    const UniqueFd gone(::open(mount.inside("gone").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    ASSERT_GE(gone.get(), 0);
    EXPECT_EQ(mount.keeper.size(), 0u) << "it has a name";
    ASSERT_EQ(::unlink(mount.inside("gone").c_str()), 0);
    EXPECT_EQ(mount.keeper.size(), 1u);
    EXPECT_TRUE(write_all(gone.get(), "some"));
    EXPECT_TRUE(mount.restart());
    EXPECT_EQ(read_all(gone.get()), "some");
    EXPECT_EQ(mount.keeper.size(), 1u);
  }
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (mount.keeper.size() != 0 && std::chrono::steady_clock::now() < patience)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(mount.keeper.size(), 0u) << "release is sent some time after close";
}

// A damaged file: everything old is stale, and everything is found anew.
TEST(FuseRestart, WithoutItsTablesEverythingIsLookedUpAnew) {
  for (const char* ending : {".nodes", ".handles", ".intents"}) {
    SCOPED_TRACE(ending);
    RestartedMount mount;
    std::filesystem::create_directories(mount.host("d"));
    spill(mount.host("d/f"), "text");
    mount.start();
    EXPECT_EQ(slurp(mount.inside("d/f")), "text");
    const UniqueFd file(::open(mount.inside("d/f").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_GE(file.get(), 0);
    mount.kill();
    ASSERT_EQ(::truncate(mount.state(ending).c_str(), 100), 0);
    mount.start();
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (slurp(mount.inside("d/f")) != "text" && std::chrono::steady_clock::now() < patience)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(slurp(mount.inside("d/f")), "text");
    if (ending == std::string_view(".intents")) {
      EXPECT_TRUE(write_all(file.get(), "x"));
    } else {
      EXPECT_FALSE(write_all(file.get(), "x"));
      EXPECT_EQ(slurp(mount.host("d/f")), "text");
    }
    EXPECT_EQ(spill(mount.inside("d/g"), "new"), 0);
    EXPECT_TRUE(mount.restart());
    EXPECT_EQ(slurp(mount.inside("d/g")), "new");
  }
}

}  // namespace
}  // namespace fbroker::test
