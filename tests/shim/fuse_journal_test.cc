// The journals of the FUSE tables: what a killed process leaves is what it
// had, and what is damaged is refused.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <array>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "broker/fuse/handle_table.h"
#include "broker/fuse/inode_table.h"
#include "broker/fuse/intents.h"
#include "broker/fuse/journal.h"
#include "tests/support/temp_tree.h"

namespace fbroker::fuse {
namespace {

using protocol::Attributes;
using protocol::FileType;
using protocol::Lifetime;

Attributes thing(std::uint64_t inode, FileType type = FileType::regular) {
  Attributes a;
  a.identity = {1, inode, 5};
  a.type = type;
  return a;
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// Random operations as a kernel makes them, and what must be left of them.
class Operations {
 public:
  Operations(InodeTable& nodes, HandleTable& handles, std::uint64_t seed) : nodes_(nodes), handles_(handles), random_(seed) {
    directories_.push_back(kRootNode);
  }

  // Names, of few so that they meet again.
  std::string name() { return std::string(1 + random_() % 12, static_cast<char>('a' + random_() % 4)); }
  NodeId directory() { return directories_[random_() % directories_.size()]; }
  NodeId node() { return known_.empty() ? kRootNode : known_[random_() % known_.size()]; }

  void step() {
    switch (random_() % 12) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const bool is_directory = random_() % 5 == 0;
        const auto made = nodes_.remember(directory(), name(), thing(2 + random_() % 400, is_directory ? FileType::directory : FileType::regular),
                                          Lifetime::until_told);
        if (!made) break;
        known_.push_back(*made);
        if (is_directory) directories_.push_back(*made);
        break;
      }
      case 4:
      case 5: nodes_.forget(node(), 1 + random_() % 3); break;
      case 6: nodes_.drop_name(directory(), name()); break;
      case 7: nodes_.moved(directory(), name(), directory(), name()); break;
      case 8: nodes_.disown(node(), directory(), name()); break;
      case 9:
        if (const auto opened = handles_.add({7, node(), false, nullptr, static_cast<int>(random_() % 3)})) open_.push_back(*opened);
        break;
      case 10:
        if (!open_.empty()) {
          const std::size_t which = random_() % open_.size();
          for (const NodeId one : known_)
            if (handles_.remove(open_[which], one, false)) break;
          open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(which));
        }
        break;
      default:
        if (random_() % 16 == 0) nodes_.below(WorkspacePath().child(name()).value(), {}, true);
        else nodes_.note_cached(node());
    }
  }

  const std::vector<NodeId>& known() const { return known_; }
  const std::vector<std::uint64_t>& open() const { return open_; }
  std::uint64_t random() { return random_(); }

 private:
  InodeTable& nodes_;
  HandleTable& handles_;
  std::mt19937_64 random_;
  std::vector<NodeId> directories_, known_;
  std::vector<std::uint64_t> open_;
};

// All that can be seen of a node.
std::string seen(const InodeTable& table, NodeId id) {
  const auto view = table.view(id);
  if (!view) return "errno " + std::to_string(view.error().value);
  std::set<std::string> names;
  for (const NodeName& name : view->names) names.insert(std::to_string(name.parent) + ":" + name.path.bytes());
  std::string text = std::to_string(view->identity.inode) + " " + std::to_string(static_cast<int>(view->type));
  for (const std::string& name : names) text += " " + name;
  return text;
}

struct FuseJournal : testing::Test {
  std::string path(const std::string& name) const { return place.path(name); }
  test::TempTree place;
};

TEST_F(FuseJournal, ATableComesBackAsItWas) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  for (int round = 0; round < 6; ++round) {
    InodeTable nodes(100'000);
    HandleTable handles(1000);
    ASSERT_TRUE(nodes.keep_in(path("nodes")));
    ASSERT_TRUE(handles.keep_in(path("handles")));
    Operations operations(nodes, handles, seed + static_cast<unsigned>(round));
    for (int i = 0; i < 4000; ++i) {
      operations.step();
      if (operations.random() % 400 != 0) continue;
      // Killed here: the file is what there is.
      write_bytes(path("nodes.copy"), bytes_of(path("nodes")));
      write_bytes(path("handles.copy"), bytes_of(path("handles")));
      InodeTable again(100'000);
      HandleTable again_handles(1000);
      const auto loaded = again.resume(path("nodes.copy"));
      ASSERT_TRUE(loaded) << loaded.error().text();
      const auto loaded_handles = again_handles.resume(path("handles.copy"));
      ASSERT_TRUE(loaded_handles) << loaded_handles.error().text();
      ASSERT_EQ(again.size(), nodes.size());
      ASSERT_EQ(again_handles.size(), handles.size());
      for (const NodeId id : operations.known()) ASSERT_EQ(seen(again, id), seen(nodes, id)) << id;
      for (const NodeId id : operations.known()) {
        ASSERT_EQ(again.usable(id), nodes.usable(id));
        std::set<std::uint64_t> before, after;
        for (const auto& open : handles.all_of(id)) before.insert(open.id);
        for (const auto& open : again_handles.all_of(id)) {
          after.insert(open.id);
          EXPECT_EQ(open.handle.service, 0u);
        }
        ASSERT_EQ(before, after);
      }
      // Nothing that was given out is given out again.
      const auto fresh = again.remember(kRootNode, "fresh", thing(99'999), Lifetime::none);
      ASSERT_TRUE(fresh);
      ASSERT_EQ(std::count(operations.known().begin(), operations.known().end(), *fresh), 0);
    }
  }
}

// Counts decide when a node may be let go of: never before the kernel has.
TEST_F(FuseJournal, LookUpsAreCountedBeforeTheyAreTold) {
  InodeTable nodes(100);
  ASSERT_TRUE(nodes.keep_in(path("nodes")));
  const NodeId a = nodes.remember(kRootNode, "a", thing(2), Lifetime::none).value();
  nodes.remember(kRootNode, "a", thing(2), Lifetime::none).value();
  nodes.remember(kRootNode, "b", thing(2), Lifetime::none).value();
  nodes.forget(a, 1);
  InodeTable again(100);
  ASSERT_TRUE(again.resume(path("nodes")));
  again.forget(a, 1);
  EXPECT_TRUE(again.usable(a));
  again.forget(a, 1);
  EXPECT_FALSE(again.usable(a));
}

TEST_F(FuseJournal, IdsAndHandlesAreNotUsedAgainAfterManyLives) {
  std::set<std::uint64_t> ids, numbers;
  for (int life = 0; life < 30; ++life) {
    InodeTable nodes(100);
    HandleTable handles(100);
    ASSERT_TRUE(life == 0 ? nodes.keep_in(path("nodes")) : nodes.resume(path("nodes")));
    ASSERT_TRUE(life == 0 ? handles.keep_in(path("handles")) : handles.resume(path("handles")));
    for (std::uint64_t i = 0; i < 50; ++i) {
      const NodeId id = nodes.remember(kRootNode, "a", thing(2 + i), Lifetime::none).value();
      ASSERT_TRUE(ids.insert(id).second) << "life " << life;
      if (i % 7 != 0) nodes.forget(id, 1);
      const std::uint64_t number = handles.add({1, id, false, nullptr, 0}).value();
      ASSERT_TRUE(numbers.insert(number).second) << "life " << life;
      ASSERT_TRUE(handles.remove(number, id, false));
    }
    for (const NodeId id : ids) nodes.forget(id, 9);
  }
}

// A real process, killed at any moment of its work, over and over. What it had
// told before it died (in memory that is shared) is what its successor knows.
TEST_F(FuseJournal, AKilledProcessLeavesWhatItHadTold) {
  struct Told {
    std::atomic<std::uint64_t> count;
    std::array<std::atomic<std::uint64_t>, 1 << 16> ids;   // each has one look-up more than it forgot
  };
  void* shared = ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* told = new (shared) Told{};
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  std::set<NodeId> all;
  for (int life = 0; life < 25; ++life) {
    told->count = 0;
    const pid_t child = ::fork();
    if (child == 0) {
      InodeTable nodes(1'000'000);
      if (!(life == 0 ? nodes.keep_in(path("nodes")) : nodes.resume(path("nodes")))) ::_exit(1);
      for (std::uint64_t i = 0; i < told->ids.size(); ++i) {
        const std::uint64_t inode = static_cast<std::uint64_t>(life) * 1'000'000 + i + 2;
        const auto id = nodes.remember(kRootNode, "name-" + std::to_string(inode), thing(inode), Lifetime::none);
        if (!id) ::_exit(2);
        for (int k = 0; k < 4; ++k) {   // grows the file, so that it is compacted
          nodes.remember(kRootNode, "name-" + std::to_string(inode), thing(inode), Lifetime::none).value();
          nodes.forget(*id, 1);
        }
        told->ids[i] = *id;
        told->count = i + 1;
      }
      ::pause();
    }
    while (told->count < 20 && ::waitpid(child, nullptr, WNOHANG) == 0) ::usleep(100);
    ::usleep(static_cast<useconds_t>(random() % 8000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "life " << life << " seed " << seed << " status " << status;
    for (std::uint64_t i = 0; i < told->count; ++i) ASSERT_TRUE(all.insert(told->ids[i]).second) << "an id came back";

    write_bytes(path("copy"), bytes_of(path("nodes")));
    InodeTable after(1'000'000);
    const auto loaded = after.resume(path("copy"));
    ASSERT_TRUE(loaded) << loaded.error().text() << " life " << life << " seed " << seed;
    for (const NodeId id : all) ASSERT_TRUE(after.usable(id)) << "life " << life << " seed " << seed;
    for (const NodeId id : all) {
      const auto view = after.view(id);
      ASSERT_EQ(view->names.size(), 1u);
      ASSERT_EQ(view->names.front().name, "name-" + std::to_string(view->identity.inode));
    }
    // The one that was being made, and nothing else.
    ASSERT_LE(after.size(), all.size() + 1 + static_cast<std::size_t>(life + 1));
  }
  ::munmap(shared, sizeof(Told));
}

TEST_F(FuseJournal, TheFileStaysWithinTwiceOfWhatIsLive) {
  InodeTable nodes(100'000);
  ASSERT_TRUE(nodes.keep_in(path("nodes")));
  std::vector<NodeId> ids;
  for (std::uint64_t i = 0; i < 5000; ++i)
    ids.push_back(nodes.remember(kRootNode, "some-name-" + std::to_string(i), thing(i + 2), Lifetime::none).value());
  for (int round = 0; round < 100; ++round)
    for (std::uint64_t i = 0; i < 5000; ++i) {
      nodes.remember(kRootNode, "some-name-" + std::to_string(i), thing(i + 2), Lifetime::none).value();
      nodes.forget(ids[i], 1);
    }
  EXPECT_LT(nodes.journal_bytes(), 5000u * 120 * 2 + 2'000'000);   // 28 MB were written
  // Renames alone let it grow as well.
  for (int i = 0; i < 200'000; ++i)
    nodes.moved(kRootNode, i % 2 == 0 ? "some-name-1" : "x", kRootNode, i % 2 == 0 ? "x" : "some-name-1");
  EXPECT_LT(nodes.journal_bytes(), 5000u * 120 * 2 + 2'000'000);
  InodeTable again(100'000);
  ASSERT_TRUE(again.resume(path("nodes")));
  EXPECT_EQ(again.size(), nodes.size());
  EXPECT_EQ(seen(again, ids[17]), seen(nodes, ids[17]));
}

TEST_F(FuseJournal, ItsFileIsForItsOwnerAlone) {
  InodeTable nodes(10);
  ASSERT_TRUE(nodes.keep_in(path("nodes")));
  struct stat st{};
  ASSERT_EQ(::stat(path("nodes").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
}

struct FuseDamagedJournal : FuseJournal {
  void SetUp() override {
    InodeTable nodes(1000);
    ASSERT_TRUE(nodes.keep_in(path("nodes")));
    for (std::uint64_t i = 0; i < 50; ++i)
      nodes.remember(kRootNode, "name" + std::to_string(i), thing(i + 2), Lifetime::none).value();
    good = bytes_of(path("nodes"));
    used = nodes.journal_bytes();
  }
  // What is said of it; "" = it was believed.
  std::string verdict(const std::string& bytes) {
    write_bytes(path("bad"), bytes);
    InodeTable table(1000);
    const auto loaded = table.resume(path("bad"));
    if (loaded) return "";
    EXPECT_EQ(table.size(), 1u) << "nothing is left of it";
    EXPECT_NE(loaded.error().text().find(path("bad")), std::string::npos);
    return loaded.error().what;
  }
  std::string good;
  std::size_t used = 0;
};

TEST_F(FuseDamagedJournal, TheGoodOneIsBelieved) { EXPECT_EQ(verdict(good), ""); }

TEST_F(FuseDamagedJournal, AnyChangedByteOfWhatIsInUseIsFound) {
  // 48 to 55: nothing is stored there; 40: the word that says it was given up.
  for (std::size_t i = 0; i < used; i += 1 + i % 3) {
    if (i >= 48 && i < 64) continue;
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x20);
    // The recorded end may be lower than it is: a process was killed just then.
    if (i >= 32 && i < 40 && verdict(bad).empty()) continue;
    ASSERT_NE(verdict(bad), "") << "byte " << i;
  }
}

TEST_F(FuseDamagedJournal, ACutFileIsRefused) {
  EXPECT_NE(verdict(""), "");
  EXPECT_NE(verdict(good.substr(0, used)), "");
  EXPECT_NE(verdict(good.substr(0, 60)), "");
  std::string zeroed = good;
  std::fill(zeroed.begin() + static_cast<std::ptrdiff_t>(used / 2 / 8 * 8), zeroed.end(), '\0');
  EXPECT_NE(verdict(zeroed).find("damaged"), std::string::npos);
}

TEST_F(FuseDamagedJournal, WhatAKillLeftBehindTheEndIsIgnored) {
  std::string torn = good;
  for (std::size_t i = used + 8; i < used + 400; ++i) torn[i] = 'x';
  EXPECT_EQ(verdict(torn), "");
  // And is not believed later, when a shorter record ends in front of it.
  InodeTable table(1000);
  write_bytes(path("torn"), torn);
  ASSERT_TRUE(table.resume(path("torn")));
  table.note_cached(kRootNode);
  EXPECT_EQ(verdict(bytes_of(path("torn"))), "");
}

TEST_F(FuseDamagedJournal, AnotherVersionIsNamed) {
  std::string other = good;
  other[12] = 9;
  EXPECT_EQ(verdict(other), "is of version 9, known is 1");
}

TEST_F(FuseDamagedJournal, AnotherTablesFileIsRefused) {
  HandleTable handles(10);
  ASSERT_TRUE(handles.keep_in(path("handles")));
  EXPECT_NE(verdict(bytes_of(path("handles"))), "");
  EXPECT_FALSE(handles.resume(path("nodes")));
}

// Sound records that no table would have written.
TEST_F(FuseJournal, RecordsThatMakeNoSenseAreRefused) {
  using namespace node_record;
  constexpr std::uint64_t kA = 2, kB = 3, kRegular = 0, kDirectory = 1;
  struct Case {
    const char* what;
    std::function<void(Journal&)> write;
  };
  const auto made = [](Journal& j, std::uint64_t id, std::uint64_t parent, std::uint64_t type, std::string_view name) {
    j.append(kMade, {id, parent, 1, id + 100, 1, type}, name);
  };
  const Case cases[] = {
      {"unknown kind", [](Journal& j) { j.append(77, {1}); }},
      {"too few words", [](Journal& j) { j.append(kMade, {kA, kRootNode}, "a"); }},
      {"no parent", [&](Journal& j) { made(j, kA, 9, kRegular, "a"); }},
      {"a file as parent", [&](Journal& j) { made(j, kA, kRootNode, kRegular, "a"), made(j, kB, kA, kRegular, "b"); }},
      {"a name twice", [&](Journal& j) { made(j, kA, kRootNode, kRegular, "a"), made(j, kB, kRootNode, kRegular, "a"); }},
      {"an id twice", [&](Journal& j) { made(j, kA, kRootNode, kRegular, "a"), made(j, kA, kRootNode, kRegular, "b"); }},
      {"the root made", [&](Journal& j) { made(j, kRootNode, kRootNode, kDirectory, "a"); }},
      {"an unknown type", [&](Journal& j) { made(j, kA, kRootNode, 3, "a"); }},
      {"a slot far away", [&](Journal& j) { made(j, 0xffffffff, kRootNode, kRegular, "a"); }},
      {"a later generation", [&](Journal& j) { made(j, kA | 5ULL << 32, kRootNode, kRegular, "a"); }},
      {"a slash", [&](Journal& j) { made(j, kA, kRootNode, kRegular, "a/b"); }},
      {"dot dot", [&](Journal& j) { made(j, kA, kRootNode, kRegular, ".."); }},
      {"a long name", [&](Journal& j) { made(j, kA, kRootNode, kRegular, std::string(256, 'a')); }},
      {"forgetting the root", [](Journal& j) { j.append(kForgot, {kRootNode, 1}); }},
      {"forgetting nothing", [](Journal& j) { j.append(kForgot, {kA, 1}); }},
      {"a directory of two names", [&](Journal& j) { made(j, kA, kRootNode, kDirectory, "a"), j.append(kNamed, {kA, kRootNode}, "b"); }},
      {"a retired directory", [&](Journal& j) { made(j, kA, kRootNode, kDirectory, "a"), j.append(kRetired, {kA}); }},
      {"a directory below itself", [&](Journal& j) {
         j.append(kNode, {kA, 1, 5, 1, 1, kDirectory}), j.append(kNode, {kB, 1, 6, 1, 1, kDirectory});
         j.append(kName, {kA, kB}, "a"), j.append(kName, {kB, kA}, "b");
       }},
      {"its own parent", [&](Journal& j) { j.append(kNode, {kA, 1, 5, 1, 1, kDirectory}), j.append(kName, {kA, kA}, "a"); }},
      {"a node without look-ups", [](Journal& j) { j.append(kNode, {kA, 1, 5, 1, 0, kRegular}); }},
      {"a move of half a name", [&](Journal& j) { made(j, kA, kRootNode, kRegular, "a"), j.append(kMoved, {kRootNode, kRootNode, 1}, "a"); }},
      {"too many nodes", [&](Journal& j) { for (std::uint64_t i = 2; i < 20; ++i) made(j, i, kRootNode, kRegular, std::to_string(i)); }},
  };
  for (const Case& c : cases) {
    {
      auto journal = Journal::create(path("nodes"), JournalOf::nodes);
      ASSERT_TRUE(journal);
      c.write(**journal);
    }
    InodeTable table(10);
    EXPECT_FALSE(table.resume(path("nodes"))) << c.what;
    EXPECT_EQ(table.size(), 1u) << c.what;
  }
  auto journal = Journal::create(path("nodes"), JournalOf::nodes);
  ASSERT_TRUE(journal);
  made(**journal, kA, kRootNode, kDirectory, "a"), made(**journal, kB, kA, kRegular, "b");
  InodeTable table(10);
  EXPECT_TRUE(table.resume(path("nodes"))) << "the twin that makes sense";
}

TEST_F(FuseJournal, TablesThatStartOverGiveOutNoIdOfBefore) {
  InodeTable before(1000), after(1000);
  std::set<NodeId> ids;
  for (std::uint64_t i = 0; i < 500; ++i) ids.insert(before.remember(kRootNode, std::to_string(i), thing(i + 2), Lifetime::none).value());
  after.start_over(1U << 30);
  ASSERT_TRUE(after.keep_in(path("nodes")));
  for (std::uint64_t i = 0; i < 500; ++i)
    EXPECT_FALSE(ids.contains(after.remember(kRootNode, std::to_string(i), thing(i + 2), Lifetime::none).value()));
  InodeTable again(1000);
  ASSERT_TRUE(again.resume(path("nodes")));
  EXPECT_FALSE(ids.contains(again.remember(kRootNode, "new", thing(9999), Lifetime::none).value())) << "nor does a successor";
}

// ---- intents

TEST_F(FuseJournal, ASlotIsFoundByItsRequest) {
  std::string answer(16, 'a');
  {
    auto intents = Intents::create(path("intents")).value();
    intents->keep_init(std::as_bytes(std::span("init")));
    IntentSlot* begun = intents->take();
    begun->begin(42, 9);
    begun->appends_at = 7;
    IntentSlot* done = intents->take();
    done->begin(44, 9);
    ASSERT_TRUE(done->finish(std::as_bytes(std::span(answer))));
    intents->take()->begin(46, 9);
    IntentSlot* over = intents->take();
    over->begin(48, 9);
    over->clear();
  }
  auto intents = Intents::load(path("intents")).value();
  EXPECT_EQ(intents->init().size(), 5u);
  EXPECT_EQ(intents->left().size(), 3u);
  const std::uint64_t asked[] = {42, 44};
  intents->drop_left_except(asked);
  EXPECT_EQ(intents->resume(46), nullptr) << "the kernel does not ask for it";
  EXPECT_EQ(intents->resume(48), nullptr) << "answered";
  IntentSlot* begun = intents->resume(42);
  ASSERT_NE(begun, nullptr);
  EXPECT_EQ(begun->state, IntentSlot::begun);
  EXPECT_EQ(begun->appends_at, 7u);
  EXPECT_EQ(intents->resume(44)->reply_bytes, 16u);
  EXPECT_EQ(intents->resume(44), nullptr) << "once";
}

TEST_F(FuseJournal, DamagedIntentsAreRefused) {
  {
    auto intents = Intents::create(path("intents")).value();
    IntentSlot* done = intents->take();
    done->begin(44, 9);
    ASSERT_TRUE(done->finish(std::as_bytes(std::span("0123456789abcdef"))));
  }
  const std::string good = bytes_of(path("intents"));
  ASSERT_TRUE(Intents::load(path("intents")));
  const std::size_t answer = good.find("0123456789abcdef");
  ASSERT_NE(answer, std::string::npos);
  for (const std::size_t at : {std::size_t{0}, std::size_t{8}, std::size_t{15}, answer}) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x40);
    write_bytes(path("intents"), bad);
    EXPECT_FALSE(Intents::load(path("intents"))) << at;
  }
  write_bytes(path("intents"), good.substr(1));
  EXPECT_FALSE(Intents::load(path("intents")));
}

TEST_F(FuseJournal, ThereIsAlwaysASlot) {
  {
    auto intents = Intents::create(path("intents")).value();
    for (std::size_t i = 0; i < Intents::kSlots; ++i) intents->take()->begin(i + 1, 9);
    EXPECT_EQ(intents->take(), nullptr) << "more threads than slots: nothing is left to take from";
  }
  auto intents = Intents::load(path("intents")).value();
  EXPECT_NE(intents->take(), nullptr);
  EXPECT_EQ(intents->resume(1), nullptr) << "the oldest gave way";
  EXPECT_NE(intents->resume(2), nullptr);
}

}  // namespace
}  // namespace fbroker::fuse
