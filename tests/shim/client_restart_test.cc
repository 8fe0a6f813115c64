// What a client sees when its broker goes away and another one comes.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "shim/client/remote_file_service.h"
#include "tests/broker/http_session.h"

namespace fbroker::test {
namespace {

using client::RemoteFileService;
using client::RemoteOptions;
using protocol::Caller;

RemoteOptions options_for(const HttpSession& session, std::chrono::milliseconds wait) {
  return {{.socket = session.socket(), .wait_for_broker = wait}, {}};
}

class ClientRestart : public testing::Test {
 protected:
  std::string read(protocol::HandleId handle, std::uint64_t offset = 0) {
    std::string into(4096, '\0');
    const auto got = remote.read(caller, handle, offset, std::as_writable_bytes(std::span(into)));
    if (!got) return "errno " + std::to_string(got.error().value);
    into.resize(*got);
    return into;
  }
  protocol::HandleId open(std::string_view path, int flags = O_RDONLY) {
    const auto opened = remote.open(caller, {at(path), {}, 0}, flags, 0644);
    EXPECT_TRUE(opened) << path;
    return opened ? opened->handle : 0;
  }

  HttpSession session;
  RemoteFileService remote{options_for(session, std::chrono::seconds(10))};
  Caller caller{.pid = 5};
};

TEST_F(ClientRestart, AnOpenFileIsReadOnAtTheNextBroker) {
  session.files.tree.write("w/a", "hello");
  const auto handle = open("/a");
  EXPECT_EQ(read(handle), "hello");
  session.restart();
  EXPECT_EQ(read(handle), "hello");
  EXPECT_EQ(session.files.service->open_handles(), 1u);
}

TEST_F(ClientRestart, AFileThatWasReplacedMeanwhileIsStaleAndNeverRead) {
  session.files.tree.write("w/a", "hello");
  const auto handle = open("/a");
  session.stop();
  session.files.tree.write("w/other", "secret");
  std::filesystem::rename(session.host() + "/other", session.host() + "/a");
  session.restart();
  EXPECT_EQ(read(handle), "errno " + std::to_string(ESTALE));
}

TEST_F(ClientRestart, ReopeningDoesNotCreateOrTruncateAgain) {
  const auto handle = open("/new", O_RDWR | O_CREAT | O_TRUNC | O_EXCL);
  ASSERT_TRUE(remote.write(caller, handle, {0, false}, std::as_bytes(std::span("data", 4))));
  session.restart();
  EXPECT_EQ(read(handle), "data");
  session.stop();
  std::filesystem::remove(session.host() + "/new");
  session.restart();
  EXPECT_EQ(read(handle), "errno " + std::to_string(ESTALE));
  EXPECT_FALSE(session.files.tree.exists("w/new"));
}

TEST_F(ClientRestart, OpenFilesFollowOurOwnRenames) {
  session.files.tree.mkdir("w/d");
  session.files.tree.write("w/d/a", "hello");
  const auto handle = open("/d/a");
  ASSERT_TRUE(remote.rename(caller, at("/d"), at("/e"), 0));
  session.restart();
  EXPECT_EQ(read(handle), "hello");
}

TEST_F(ClientRestart, AnUnlinkedFileIsReadUntilTheBrokerGoesAndLostAfterwards) {
  session.files.tree.write("w/a", "hello");
  const auto handle = open("/a");
  ASSERT_TRUE(remote.unlink(caller, at("/a")));
  EXPECT_EQ(read(handle), "hello");
  session.files.tree.write("w/a", "another");
  session.restart();
  EXPECT_EQ(read(handle), "errno " + std::to_string(ESTALE));
}

TEST_F(ClientRestart, AListingGoesOnAfterARestart) {
  for (int i = 0; i < 20; ++i) session.files.tree.write("w/f" + std::to_string(10 + i), "");
  const auto opened = remote.open_directory(caller, {at("/"), {}, 0});
  ASSERT_TRUE(opened);
  const auto first = remote.read_directory(caller, opened->handle, 0, 8);
  ASSERT_TRUE(first);
  session.restart();
  std::set<std::string> names;
  for (const auto& entry : first->entries) names.insert(entry.name);
  for (auto position = first->next;;) {
    const auto page = remote.read_directory(caller, opened->handle, position, 8);
    ASSERT_TRUE(page);
    for (const auto& entry : page->entries) names.insert(entry.name);
    if (page->end) break;
    position = page->next;
  }
  EXPECT_EQ(names.size(), 20u);
}

TEST_F(ClientRestart, AReaderSeesAPauseAndNoErrorOverManyRestarts) {
  session.files.tree.write("w/a", "hello");
  std::atomic<bool> stop{false};
  std::atomic<int> reads{0}, wrong{0};
  std::thread reader([&] {
    const auto handle = open("/a");
    while (!stop.load()) {
      if (read(handle) != "hello") ++wrong;
      ++reads;
    }
  });
  for (int i = 0; i < 10; ++i) {
    const int before = reads.load();
    EXPECT_TRUE(eventually([&] { return reads.load() > before + 5; }));
    session.restart();
  }
  stop.store(true);
  reader.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_F(ClientRestart, WritesAtAnOffsetLandOverRestarts) {
  const auto handle = open("/out", O_WRONLY | O_CREAT);
  std::atomic<std::uint64_t> done{0};
  std::atomic<int> failed{0};
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < 400; ++i) {
      if (!remote.write(caller, handle, {i, false}, std::as_bytes(std::span("x", 1)))) ++failed;
      ++done;
    }
  });
  for (int i = 0; i < 4; ++i) {
    const std::uint64_t goal = static_cast<std::uint64_t>(i) * 90;
    EXPECT_TRUE(eventually([&] { return done.load() > goal; }));
    session.restart();
  }
  writer.join();
  EXPECT_EQ(failed.load(), 0);
  EXPECT_EQ(session.files.tree.read("w/out"), std::string(400, 'x'));
}

TEST_F(ClientRestart, ACallWaitsForTheBrokerAndThenFailsWithEio) {
  RemoteFileService impatient(options_for(session, std::chrono::milliseconds(50)));
  session.stop();
  const auto found = impatient.lookup(caller, at("/a"));
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().value, EIO);
}

TEST_F(ClientRestart, AHandleNumberOfAnotherInstanceIsNeverUsed) {
  session.files.tree.write("w/a", "first");
  session.files.tree.write("w/b", "second");
  const auto a = open("/a");
  session.restart();
  // The new broker's first handle is b's; a's old number may be the same.
  const auto b = open("/b");
  EXPECT_EQ(read(b), "second");
  EXPECT_EQ(read(a), "first");
}

}  // namespace
}  // namespace fbroker::test
