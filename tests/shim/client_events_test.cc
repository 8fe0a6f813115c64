// The event stream from publish to acknowledgement.
#include <gtest/gtest.h>

#include <mutex>

#include "broker/http/events.h"
#include "shim/client/event_stream.h"
#include "tests/broker/http_session.h"

namespace fbroker::test {
namespace {

using protocol::Event;
using protocol::EventKind;

class Recorder final : public protocol::EventSink {
 public:
  void handle(const Event& event) override {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
  }
  std::vector<Event> events() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  std::size_t count(EventKind kind) const {
    const auto all = events();
    return static_cast<std::size_t>(
        std::count_if(all.begin(), all.end(), [&](const Event& e) { return e.kind == kind; }));
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Event> events_;
};

constexpr auto kBound = std::chrono::seconds(10);

class ClientEvents : public testing::Test {
 protected:
  HttpSession session;
  Recorder recorder;
};

TEST_F(ClientEvents, AnEventIsHandledAndAcknowledged) {
  client::EventStream stream({session.socket()}, recorder);
  ASSERT_TRUE(stream.wait_listening(kBound));
  const auto sequence =
      session.files.events.publish(EventKind::forget, at("/d\xff"), {1, 2, -3});
  ASSERT_TRUE(session.files.events.wait_acknowledged(sequence, kBound));
  const auto events = recorder.events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].path, at("/d\xff"));
  EXPECT_EQ(events[0].identity, (protocol::FileIdentity{1, 2, -3}));
  EXPECT_EQ(events[0].sequence, sequence);
}

TEST_F(ClientEvents, ManyEventsComeInOrder) {
  client::EventStream stream({session.socket()}, recorder);
  ASSERT_TRUE(stream.wait_listening(kBound));
  std::uint64_t last = 0;
  for (int i = 0; i < 3000; ++i)
    last = session.files.events.publish(EventKind::forget, at("/f" + std::to_string(i)));
  ASSERT_TRUE(session.files.events.wait_acknowledged(last, kBound));
  std::uint64_t before = 0;
  for (const Event& event : recorder.events()) {
    EXPECT_GT(event.sequence, before);
    before = event.sequence;
  }
}

TEST_F(ClientEvents, ALostStreamForgetsEverythingBeforeAndAfter) {
  client::EventStream stream({session.socket()}, recorder);
  ASSERT_TRUE(stream.wait_listening(kBound));
  session.stop();
  ASSERT_TRUE(eventually([&] { return !stream.listening(); }));
  EXPECT_TRUE(eventually([&] { return recorder.count(EventKind::forget_all) == 1; }));
  session.restart();
  ASSERT_TRUE(stream.wait_listening(kBound));
  EXPECT_EQ(recorder.count(EventKind::forget_all), 2u);
}

// All the streams that one process may have.
std::vector<std::unique_ptr<RawClient>> take_streams(const HttpSession& session) {
  std::vector<std::unique_ptr<RawClient>> taken;
  for (;;) {
    auto raw = std::make_unique<RawClient>(session.socket());
    raw->send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
    if (!eventually([&] { return raw->have().size() > 20 || raw->more(); }) || status_of(raw->have()) != 200) return taken;
    taken.push_back(std::move(raw));
  }
}

TEST_F(ClientEvents, OneProcessGetsAFewStreamsAndTheFileSystemAlwaysOne) {
  const auto taken = take_streams(session);
  EXPECT_EQ(taken.size(), broker::EventStreams::kMaxOfOneProcess);
  session.we_are_file_service = true;
  client::EventStream stream({session.socket()}, recorder);
  EXPECT_TRUE(stream.wait_listening(kBound));
}

TEST_F(ClientEvents, AClientThatGetsNoStreamDropsWhatItReadMeanwhileUntilItHasOne) {
  auto taken = take_streams(session);
  client::EventStream stream({session.socket()}, recorder);
  EXPECT_TRUE(eventually([&] { return recorder.count(EventKind::forget_all) >= 3; }));
  EXPECT_FALSE(stream.listening());
  taken.clear();
  ASSERT_TRUE(stream.wait_listening(kBound));
  const auto before = recorder.count(EventKind::forget_all);
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  EXPECT_EQ(recorder.count(EventKind::forget_all), before) << "while it listens it keeps what it has";
}

TEST_F(ClientEvents, AClientThatIsCutDuringItsTurnHasNotAcknowledged) {
  RawClient raw(session.socket());
  raw.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return session.files.events.subscribers() == 1; }));
  const auto sequence = session.files.events.publish(EventKind::forget, at("/a"));
  session.front->abort_all();
  EXPECT_FALSE(session.files.events.wait_acknowledged(sequence, std::chrono::milliseconds(100)));
}

TEST_F(ClientEvents, ChangesOfHiddenNamesAreNotTold) {
  session.files.set_rules({allow("write", {"/**"}), deny("all", {"**/.env"})});
  client::EventStream stream({session.socket()}, recorder);
  ASSERT_TRUE(stream.wait_listening(kBound));
  session.files.events.publish(EventKind::entry, at("/.env"));
  const auto last = session.files.events.publish(EventKind::entry, at("/visible"));
  ASSERT_TRUE(session.files.events.wait_acknowledged(last, kBound));
  ASSERT_EQ(recorder.events().size(), 1u);
  EXPECT_EQ(recorder.events()[0].path, at("/visible"));
}

TEST_F(ClientEvents, NobodyAcknowledgesForAnotherOrInAdvance) {
  RawClient stream(session.socket());
  stream.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return stream.more() && stream.have().find("hello") != std::string::npos; }));
  const std::string key = "\"subscription\":\"";
  const std::size_t begin = stream.have().find(key) + key.size();
  const std::string token = stream.have().substr(begin, 32);
  RawClient other(session.socket());
  const auto ack = [&](const std::string& subscription, std::uint64_t sequence) {
    return status_of(other.post("/v1/events/ack", "{\"subscription\":\"" + subscription +
                                                      "\",\"sequence\":" + std::to_string(sequence) + "}"));
  };
  EXPECT_EQ(ack(token, 1'000'000), 409u) << "acknowledged what was never sent";
  EXPECT_EQ(ack(std::string(32, '0'), 0), 409u) << "guessed subscription";
  const auto sequence = session.files.events.publish(EventKind::forget, at("/a"));
  ASSERT_TRUE(eventually([&] { return stream.more() && stream.have().find("\"forget\"") != std::string::npos; }));
  EXPECT_FALSE(session.files.events.wait_acknowledged(sequence, std::chrono::milliseconds(0)));
  EXPECT_EQ(ack(token, sequence), 204u);
  EXPECT_TRUE(session.files.events.wait_acknowledged(sequence, std::chrono::milliseconds(0)));
}

}  // namespace
}  // namespace fbroker::test
