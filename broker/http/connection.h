// Connection: one client of the data socket, from its first byte to its last.
//
// Internal to broker/http. A small machine: each step either goes on at once
// (true) or has started one asynchronous operation that comes back to run().
// Steps run on the connection's strand, so never two at a time; cut() and the
// questions for the sweeper may be called from any thread.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/strand.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "broker/egress/tunnel.h"
#include "broker/http/events.h"
#include "broker/http/file_calls.h"
#include "broker/http/http_front.h"
#include "broker/http/request_parser.h"
#include "broker/http/router.h"

namespace fbroker::broker {

class Connection;

// What the connections of a front share. Outlives them.
struct FrontState {
  FrontState(HttpOptions chosen, HttpServices given)
      : options(std::move(chosen)), services(std::move(given)),
        calls(services.files, options.instance), streams(services.events) {}

  HttpOptions options;
  HttpServices services;
  FileCalls calls;
  EventStreams streams;
  std::atomic<bool> stopping{false};
  std::function<void(const std::shared_ptr<Connection>&)> ended;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Strand = Tunnel::Strand;
  using Socket = Tunnel::Client;
  using Clock = std::chrono::steady_clock;

  Connection(Socket socket, FrontState& front, std::uint32_t peer_pid);

  void start();

  // Any thread:
  // Ends it: the operation under way fails, and the rest follows.
  void cut() noexcept;
  bool expired(Clock::time_point now) const noexcept;
  // When it began to wait for a request; none while it works on one.
  std::optional<Clock::time_point> idle_since() const noexcept;
  bool holds_older_than(const View& current) const noexcept;
  void heartbeat();  // for an event stream; nothing for others

 private:
  using Step = bool (Connection::*)();

  // The machine.
  void run();
  void resume();                  // run(), later, so that others have their turn
  void end();
  bool go(Step step) { return step_ = step, true; }

  // Steps.
  bool begin_request();
  bool read_head();
  bool enter_route();
  bool read_piece();              // of the body, into piece_
  bool run_json();
  bool write_piece();             // of a body, into the file
  bool first_piece_out();         // of a file
  bool piece_out();
  bool list_page();
  bool flush();                   // what reply() queued
  bool event_lines();

  // Routes.
  bool enter_handle_read();
  bool enter_handle_write();
  bool enter_file_read();
  bool enter_file_write();
  bool enter_list();
  bool enter_events();
  bool enter_device();
  bool give_to_adoption();
  bool enter_connect();
  bool enter_forward(std::string_view raw_head);
  bool tell_session();
  void run_acknowledgement();

  // Parts of them.
  Result<WorkspacePath, Problem> take_path();
  bool want_body(Step then);
  bool fill_from_input();
  bool receive_input();
  bool receive_piece(std::size_t want);
  std::size_t piece_missing() const;
  bool end_of_write(std::optional<Errno> failed);
  bool watch_for_goodbye();

  struct PieceOut {
    std::span<const std::byte> bytes;
    bool last = false;
  };
  Result<PieceOut, Errno> next_piece();
  bool send_part(std::span<const std::byte> bytes, bool last, Step more);
  void close_own_handle();
  bool enter_tunnel(std::string_view asked, std::uint16_t port, std::optional<ForwardedRequest> forward);
  Result<ForwardedRequest::Body> forwarded_body(std::string_view bytes);

  // Replies. Each queues the reply and goes to flush().
  bool reply(unsigned status, std::string_view content_type, std::string_view body);
  bool refuse(const Problem& problem);
  bool refuse_and_close(const Problem& problem);
  bool refuse_and_close(const EgressRefusal& refusal);
  bool refuse_egress(const EgressRefusal& refusal);   // on the record
  void record_unreadable(std::string_view head, const Problem& why);
  bool refuse(Errno error, policy::OperationSet operations);
  void start_head(unsigned status);
  void field(std::string_view name, std::string_view value);
  void end_head(std::optional<std::uint64_t> length);  // none: chunked
  void chunk_size(std::size_t bytes);
  void queue(std::span<const std::byte> bytes);
  void queue(std::string_view text);

  // The gate.
  void admit();
  void leave() noexcept;

  void set_deadline(std::chrono::milliseconds bound) noexcept;
  std::byte* piece_buffer(std::size_t bytes);

  FrontState& front_;
  Socket socket_;
  std::mutex closing_;            // guards socket_'s descriptor against cut() while it is closed
  bool closed_ = false;           // guarded by closing_
  std::shared_ptr<Tunnel> tunnel_;   // guarded by closing_; none: it speaks to us alone

  std::atomic<Clock::rep> deadline_{0};    // since the clock's epoch; 0 = none
  std::atomic<Clock::rep> idle_since_{0};  // 0 = busy
  std::atomic<const View*> held_view_{nullptr};
  std::optional<Admission> admission_;

  Step step_ = &Connection::begin_request;
  Step after_flush_ = nullptr;

  // Input: what was read and not yet used lies at in_[in_begin_, in_end_).
  static constexpr std::size_t kInputBytes = 32 << 10;
  std::unique_ptr<char[]> in_ = std::make_unique_for_overwrite<char[]>(kInputBytes);
  std::size_t in_begin_ = 0, in_end_ = 0;
  std::string_view input() const { return {in_.get() + in_begin_, in_end_ - in_begin_}; }

  // The request.
  RequestParser parser_;
  RequestHead head_;
  Route route_;
  protocol::Caller caller_;
  WorkspacePath path_;            // of /v1/files and /v1/list
  std::string asked_;             // the same before links were followed
  bool has_path_ = false;
  bool keep_alive_ = true;

  // Its body. A piece is complete when it is full or the body ended.
  std::uint64_t body_left_ = 0;   // Framing::length
  bool body_done_ = true;
  std::unique_ptr<std::byte[]> piece_;
  std::size_t piece_capacity_ = 0, piece_size_ = 0, piece_limit_ = 0;
  Step after_body_ = nullptr;

  // Bytes of a file on their way in or out.
  protocol::HandleId handle_ = 0;
  bool close_handle_ = false;     // we opened it for this request
  std::uint64_t offset_ = 0;
  bool append_ = false;
  bool truncate_ = false;         // before the first piece
  std::uint64_t transferred_ = 0;
  std::uint64_t left_ = 0;        // still to be sent
  bool chunked_out_ = false;
  std::optional<ByteRange> range_;
  std::uint64_t file_size_ = 0;   // with range_
  std::uint64_t position_ = 0;    // of a listing
  bool first_entry_ = true;

  // The reply. Buffers are kept from request to request.
  std::string out_head_, out_body_;
  std::array<boost::asio::const_buffer, 4> out_;
  std::size_t out_count_ = 0;

  // The event stream.
  std::shared_ptr<Listener> listener_;
  std::atomic<bool> beat_due_{false};
  std::atomic<bool> streaming_{false};
  bool flushing_ = false;
};

}  // namespace fbroker::broker
