#include "broker/http/connection.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <limits>

#include "broker/http/forward.h"
#include "broker/protocol/device_offer.h"
#include "broker/protocol/wire_json.h"

namespace fbroker::broker {

namespace asio = boost::asio;
using boost::system::error_code;
using policy::Operation;
using policy::OperationSet;
using protocol::kMaxPieceBytes;

namespace {

constexpr std::string_view kJson = "application/json";
constexpr std::string_view kBytes = "application/octet-stream";
// A client that pipelines without end gives way to others after so many steps.
constexpr int kStepsInARow = 256;
// A reply's buffer that grew larger than this is given back.
constexpr std::size_t kKeptBytes = 256 << 10;

}  // namespace

Connection::Connection(Socket socket, FrontState& front, std::uint32_t peer_pid)
    : front_(front), socket_(std::move(socket)), caller_{.peer_pid = peer_pid} {
  // Idle from birth: one that never says anything must be able to give way.
  set_deadline(front_.options.idle_bound);
  idle_since_.store(Clock::now().time_since_epoch().count());
}

void Connection::start() {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->run(); });
}

// ---- the machine ------------------------------------------------------------

void Connection::run() {
  for (int steps = 0; (this->*step_)();)
    if (++steps == kStepsInARow) return resume();
}

void Connection::resume() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->run(); });
}

void Connection::cut() noexcept {
  const std::lock_guard lock(closing_);
  if (closed_) return;
  if (tunnel_) tunnel_->cut("the connection's end");
  ::shutdown(socket_.native_handle(), SHUT_RDWR);
}

void Connection::end() {
  leave();
  listener_.reset();
  close_own_handle();
  {
    const std::lock_guard lock(closing_);
    if (closed_) return;
    closed_ = true;
    tunnel_.reset();
    error_code ignored;
    socket_.close(ignored);
  }
  front_.ended(shared_from_this());
}

// INVARIANT: what a reply tells is decided under a view that is held until its
//   last byte is in the socket; a drain waits for it (design section 7).
void Connection::admit() {
  admission_.emplace(front_.services.admissions.admit());
  held_view_.store(&admission_->view());
}

void Connection::leave() noexcept {
  held_view_.store(nullptr);
  admission_.reset();
}

bool Connection::holds_older_than(const View& current) const noexcept {
  const View* held = held_view_.load();
  return held != nullptr && held != &current;
}

void Connection::set_deadline(std::chrono::milliseconds bound) noexcept {
  deadline_.store((Clock::now() + bound).time_since_epoch().count());
}

bool Connection::expired(Clock::time_point now) const noexcept {
  const Clock::rep deadline = deadline_.load();
  return deadline != 0 && now.time_since_epoch().count() > deadline;
}

std::optional<Connection::Clock::time_point> Connection::idle_since() const noexcept {
  const Clock::rep since = idle_since_.load();
  if (since == 0) return std::nullopt;
  return Clock::time_point(Clock::duration(since));
}

// ---- reading ------------------------------------------------------------------

bool Connection::begin_request() {
  if (!keep_alive_ || front_.stopping.load()) return end(), false;
  parser_.reset();
  head_ = {};
  range_.reset();
  has_path_ = append_ = truncate_ = chunked_out_ = false;
  transferred_ = left_ = 0;
  body_done_ = true;
  piece_size_ = 0;
  set_deadline(front_.options.idle_bound);
  if (input().empty()) idle_since_.store(Clock::now().time_since_epoch().count());
  else set_deadline(front_.options.head_bound);
  return go(&Connection::read_head);
}

// One read of whatever there is, behind what is there already.
bool Connection::receive_input() {
  if (in_begin_ == in_end_) in_begin_ = in_end_ = 0;
  if (in_end_ == kInputBytes) {
    std::memmove(in_.get(), in_.get() + in_begin_, in_end_ - in_begin_);
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
  const bool starts_head = step_ == &Connection::read_head && input().empty();
  // ATTACK: descriptors sent along (SCM_RIGHTS). Asio reads without room for
  //   ancillary data, so the kernel drops them; none is ever installed here.
  socket_.async_read_some(
      asio::buffer(in_.get() + in_end_, kInputBytes - in_end_),
      [self = shared_from_this(), starts_head](const error_code& error, std::size_t bytes) {
        if (error) return self->end();
        self->in_end_ += bytes;
        self->idle_since_.store(0);
        if (starts_head) self->set_deadline(self->front_.options.head_bound);
        self->run();
      });
  return false;
}

bool Connection::read_head() {
  const auto size = input().empty() ? std::optional<std::size_t>() : [&] {
    auto found = find_head(input());
    if (found) return *found;
    record_unreadable(input(), found.error());
    refuse_and_close(found.error());
    return std::optional<std::size_t>(0);
  }();
  if (!size) return receive_input();
  if (*size == 0) return true;  // refused: flush() is next
  idle_since_.store(0);
  auto head = parser_.parse_head(input().substr(0, *size));
  if (!head) {
    record_unreadable(input().substr(0, *size), head.error());
    return refuse_and_close(head.error());
  }
  const std::string_view raw_head = input().substr(0, *size);   // good until input is read again
  in_begin_ += *size;
  head_ = std::move(*head);
  keep_alive_ = head_.keep_alive;
  caller_.pid = head_.pid;
  caller_.requested = {};
  body_left_ = head_.length;
  body_done_ = head_.framing == Framing::none || (head_.framing == Framing::length && body_left_ == 0);
  if (head_.method == Method::connect) return enter_connect();
  if (is_absolute_form(head_.target)) return enter_forward(raw_head);
  return go(&Connection::enter_route);
}

bool Connection::enter_route() {
  auto route = route_of(head_.method, head_.target);
  if (!route) {
    keep_alive_ = keep_alive_ && body_done_;
    return refuse(route.error());
  }
  route_ = std::move(*route);
  if (route_.body == Body::none && !body_done_)
    return refuse_and_close(bad_request("this route takes no body"));
  switch (route_.kind) {
    case RouteKind::session: return tell_session();
    case RouteKind::call:
    case RouteKind::event_ack: return want_body(&Connection::run_json);
    case RouteKind::handle_read: return enter_handle_read();
    case RouteKind::handle_write: return enter_handle_write();
    case RouteKind::file_read: return enter_file_read();
    case RouteKind::file_write: return enter_file_write();
    case RouteKind::list: return enter_list();
    case RouteKind::events: return enter_events();
    case RouteKind::device: return enter_device();
  }
  return refuse_and_close(bad_request("unknown route"));
}

// The body is read in pieces; after each one `then` is the next step.
bool Connection::want_body(Step then) {
  after_body_ = then;
  piece_limit_ = kMaxPieceBytes;
  if (route_.body == Body::json) {
    if (auto rest = route_.query.finish(); !rest) return refuse_and_close(rest.error());
    if (head_.framing == Framing::length && body_left_ > protocol::kMaxJsonBytes) {
      Problem problem = bad_request("more than 1 MiB of JSON");
      problem.status = 413;
      return refuse_and_close(problem);
    }
  }
  set_deadline(front_.options.body_bound);
  if (!head_.expects_continue || body_done_) return go(&Connection::read_piece);
  out_head_ = "HTTP/1.1 100 Continue\r\n\r\n";
  queue(std::string_view(out_head_));
  after_flush_ = &Connection::read_piece;
  return go(&Connection::flush);
}

std::byte* Connection::piece_buffer(std::size_t bytes) {
  if (piece_capacity_ >= bytes) return piece_.get();
  auto larger = std::make_unique_for_overwrite<std::byte[]>(bytes);
  if (piece_size_ > 0) std::memcpy(larger.get(), piece_.get(), piece_size_);
  piece_ = std::move(larger);
  piece_capacity_ = bytes;
  return piece_.get();
}

std::size_t Connection::piece_missing() const {
  const std::size_t room = piece_limit_ - piece_size_;
  if (head_.framing == Framing::chunked) return room;
  return static_cast<std::size_t>(std::min<std::uint64_t>(room, body_left_));
}

bool Connection::read_piece() {
  if (!fill_from_input()) return true;  // refused
  if (body_done_ || piece_size_ == piece_limit_) return go(after_body_);
  if (head_.framing == Framing::chunked) return receive_input();
  return receive_piece(piece_missing());
}

// Moves what is there from the input into the piece. False when it was refused.
bool Connection::fill_from_input() {
  if (body_done_ || input().empty()) return true;
  if (head_.framing == Framing::length) {
    const std::size_t size = std::min(piece_missing(), input().size());
    std::memcpy(piece_buffer(piece_size_ + piece_missing()) + piece_size_, input().data(), size);
    in_begin_ += size;
    piece_size_ += size;
    body_left_ -= size;
    body_done_ = body_left_ == 0;
    return true;
  }
  // A chunk's bytes never outnumber the input's; the buffer grows with them.
  const std::size_t room = std::min(piece_missing(), input().size());
  if (piece_capacity_ < piece_size_ + room)
    piece_buffer(std::max(piece_size_ + room, std::min(piece_capacity_ * 2, piece_limit_)));
  std::byte* to = piece_.get();
  auto parsed = parser_.parse_chunks(input(), {to + piece_size_, room});
  if (!parsed) {
    refuse_and_close(parsed.error());
    return false;
  }
  in_begin_ += parsed->used;
  piece_size_ += parsed->written;
  body_done_ = parsed->done;
  // Chunk headers and trailers are short; a full buffer that says nothing is garbage.
  if (parsed->used == 0 && input().size() == kInputBytes) {
    refuse_and_close(bad_request("chunk header too long"));
    return false;
  }
  return true;
}

// With a known length bytes go from the socket to their place, past the input buffer.
bool Connection::receive_piece(std::size_t want) {
  std::byte* to = piece_buffer(piece_size_ + want) + piece_size_;
  socket_.async_read_some(
      asio::buffer(to, want), [self = shared_from_this()](const error_code& error, std::size_t bytes) {
        if (error) return self->end();
        self->piece_size_ += bytes;
        self->body_left_ -= bytes;
        self->body_done_ = self->body_left_ == 0;
        self->run();
      });
  return false;
}

// ---- JSON -------------------------------------------------------------------------

bool Connection::run_json() {
  if (!body_done_) {
    Problem problem = bad_request("more than 1 MiB of JSON");
    problem.status = 413;
    return refuse_and_close(problem);
  }
  out_body_.clear();
  if (route_.kind == RouteKind::event_ack) return run_acknowledgement(), true;
  const std::string_view body(reinterpret_cast<const char*>(piece_.get()), piece_size_);
  admit();
  const Outcome outcome =
      front_.calls.execute(*admission_, caller_, route_.call, body, out_body_);
  start_head(outcome.status);
  if (outcome.status >= 400) {
    field("Content-Type", kProblemType);
    if (outcome.status == 404) field(protocol::kLifetimeHeader, protocol::name_of(outcome.absent));
  } else if (outcome.status != 204) {
    field("Content-Type", kJson);
  }
  if (outcome.status == 204) out_head_ += "\r\n";
  else end_head(out_body_.size());
  queue(std::string_view(out_head_));
  queue(std::string_view(out_body_));
  after_flush_ = &Connection::begin_request;
  return go(&Connection::flush);
}

void Connection::run_acknowledgement() {
  const std::string_view body(reinterpret_cast<const char*>(piece_.get()), piece_size_);
  auto given = protocol::decode_acknowledgement(body);
  if (!given) {
    Problem problem = bad_request(given.error().what);
    problem.field = given.error().field;
    refuse(problem);
    return;
  }
  if (front_.streams.acknowledge(given->subscription, given->sequence)) {
    reply(204, "", "");
    return;
  }
  Problem problem;
  problem.status = 409;
  problem.title = "Nothing to acknowledge";
  problem.detail = "no such subscription, or it was not sent that much yet";
  refuse(problem);
}

bool Connection::tell_session() {
  if (auto rest = route_.query.finish(); !rest) return refuse(rest.error());
  out_body_ = "{\"session\":";
  protocol::append_bytes(out_body_, front_.options.session);
  out_body_ += ",\"instance\":";
  protocol::append_text(out_body_, front_.options.instance);
  out_body_ += ",\"version\":";
  protocol::append_text(out_body_, FBROKER_VERSION);
  out_body_ += ",\"max_piece_bytes\":";
  protocol::append_number(out_body_, kMaxPieceBytes);
  out_body_ += '}';
  return reply(200, kJson, out_body_);
}

// ---- through the egress gate --------------------------------------------------------

// A head that cannot be read and would have asked for a host is a refusal of the gate's.
void Connection::record_unreadable(std::string_view head, const Problem& why) {
  EgressGate* gate = front_.services.egress;
  const std::string_view line = head.substr(0, head.find_first_of("\r\n"));
  const std::size_t space = std::min(line.find(' '), line.size());
  std::string asked(line.substr(std::min(space + 1, line.size())));
  asked.resize(std::min(asked.find(' '), asked.size()));
  if (gate == nullptr || (line.substr(0, space) != "CONNECT" && !is_absolute_form(asked))) return;
  std::ranges::replace_if(asked, [](char c) { return c <= ' ' || c > '~'; }, '?');
  (void)gate->refused(caller_, asked, {why.status, why.detail, "egress:request"});
}

bool Connection::enter_connect() {
  if (!body_done_ || head_.framing != Framing::none || head_.expects_continue)
    return refuse_egress({400, "CONNECT takes no body", "egress:request"});
  return enter_tunnel(head_.target, 0, std::nullopt);
}

bool Connection::enter_forward(std::string_view raw_head) {
  auto target = parse_absolute_form(head_.target);
  if (!target) return refuse_egress({400, target.error().text(), "egress:request"});
  ForwardedRequest forward;
  forward.head = forwarded_head(raw_head, *target);
  if (!body_done_) forward.body = [this](std::string_view bytes) { return forwarded_body(bytes); };
  return enter_tunnel(target->authority, policy::kHttpPort, std::move(forward));
}

bool Connection::refuse_egress(const EgressRefusal& refusal) {
  EgressGate* gate = front_.services.egress;
  return refuse_and_close(gate == nullptr ? refusal : gate->refused(caller_, head_.target, refusal));
}

// What is sent on is the body as it was framed and not a byte more: a second
// request on this connection would be for somebody else.
Result<ForwardedRequest::Body> Connection::forwarded_body(std::string_view bytes) {
  if (head_.framing == Framing::length) {
    const auto used = static_cast<std::size_t>(std::min<std::uint64_t>(body_left_, bytes.size()));
    body_left_ -= used;
    return ForwardedRequest::Body{used, body_left_ == 0};
  }
  const auto chunk = parser_.parse_chunks(bytes, {piece_buffer(bytes.size()), bytes.size()});
  if (!chunk) return Error{"body", chunk.error().detail};
  return ForwardedRequest::Body{chunk->used, chunk->done};
}

// From here on the connection is the tunnel's; it comes back refused and
// unanswered, or to its end.
bool Connection::enter_tunnel(std::string_view asked, std::uint16_t port, std::optional<ForwardedRequest> forward) {
  if (front_.services.egress == nullptr) return refuse_and_close(EgressRefusal{403, "there is no way out", "default"});
  auto opened = front_.services.egress->open(caller_, asked, port);
  if (!opened) return refuse_and_close(opened.error());
  {
    const std::lock_guard lock(closing_);
    tunnel_ = *opened;
  }
  Tunnel::Side side{socket_, std::string(input()), std::move(forward),
                    [this](std::chrono::milliseconds bound) { set_deadline(bound); }};
  in_begin_ = in_end_ = 0;
  asio::co_spawn(socket_.get_executor(), (*opened)->run(std::move(side)),
                 [self = shared_from_this()](std::exception_ptr, std::optional<EgressRefusal> refused) {
                   if (!refused) return self->end();
                   self->refuse_and_close(*refused);
                   self->run();
                 });
  return false;
}

// ---- file bytes in ------------------------------------------------------------------

bool Connection::enter_handle_write() {
  const auto handle = protocol::parse_handle(route_.handle, front_.options.instance);
  if (!handle) return refuse_and_close(problem_of(handle.error()));
  const bool has_offset = [&] {
    auto probe = route_.query;
    return probe.take("offset").has_value();
  }();
  const auto offset = route_.query.number("offset", 0);
  const auto append = route_.query.number("append", 0);
  const auto rest = route_.query.finish();
  if (!offset) return refuse_and_close(offset.error());
  if (!append) return refuse_and_close(append.error());
  if (!rest) return refuse_and_close(rest.error());
  if (*append > 1 || has_offset == (*append == 1))
    return refuse_and_close(bad_request("expected either offset=N or append=1"));
  handle_ = *handle;
  offset_ = *offset;
  append_ = *append == 1;
  return want_body(&Connection::write_piece);
}

bool Connection::enter_file_write() {
  auto path = take_path();
  const auto permissions = route_.query.take("permissions").value_or("0644");
  const auto exclusive = route_.query.number("exclusive", 0);
  const auto rest = route_.query.finish();
  if (!path) return refuse_and_close(path.error());
  if (!exclusive) return refuse_and_close(exclusive.error());
  if (!rest) return refuse_and_close(rest.error());
  std::uint32_t bits = 0;
  const char* const end = permissions.data() + permissions.size();
  if (const auto parsed = std::from_chars(permissions.data(), end, bits, 8);
      parsed.ec != std::errc() || parsed.ptr != end || bits > 0777)
    return refuse_and_close(bad_request("permissions: expected octal text up to 0777"));
  path_ = std::move(*path);
  has_path_ = true;
  const int flags = O_WRONLY | O_CREAT | (*exclusive != 0 ? O_EXCL : 0);
  admit();
  auto opened = front_.services.files.open(caller_, {path_, {}, 0}, flags, bits);
  if (!opened) {
    keep_alive_ = keep_alive_ && body_done_;
    return refuse(opened.error(), {Operation::write, Operation::create});
  }
  leave();
  handle_ = opened->handle;
  close_handle_ = true;
  offset_ = 0;
  truncate_ = *exclusive == 0;  // what is new is empty
  return want_body(&Connection::write_piece);
}

// The old content goes only when the first piece is there to follow it: a
// client that breaks off before has changed nothing.
// INVARIANT: each piece is decided anew by FileService, so a write that a
//   revoke overtakes ends with the piece before it.
bool Connection::write_piece() {
  admit();
  if (std::exchange(truncate_, false))
    if (const auto emptied = front_.services.files.truncate(caller_, {{}, {}, handle_}, 0); !emptied)
      return end_of_write(emptied.error());
  const std::span<const std::byte> piece(piece_.get(), piece_size_);
  for (std::size_t done = 0; done < piece.size();) {
    const auto written = front_.services.files.write(caller_, handle_, {offset_, append_},
                                                     piece.subspan(done));
    if (!written) return end_of_write(written.error());
    if (*written == 0) return end_of_write(Errno{EIO});
    done += *written;
    offset_ += *written;
    transferred_ += *written;
  }
  if (body_done_) return end_of_write(std::nullopt);
  leave();
  piece_size_ = 0;
  set_deadline(front_.options.body_bound);
  return go(&Connection::read_piece);
}

bool Connection::end_of_write(std::optional<Errno> failed) {
  keep_alive_ = keep_alive_ && body_done_;
  close_own_handle();
  if (failed) {
    Problem problem = front_.calls.refusal(*admission_, *failed, has_path_ ? &path_ : nullptr,
                                           {Operation::write});
    out_body_.clear();
    append_problem(out_body_, problem);
    start_head(problem.status);
    field("Content-Type", kProblemType);
    field(protocol::kWrittenHeader, std::to_string(transferred_));
    end_head(out_body_.size());
    queue(std::string_view(out_head_));
    queue(std::string_view(out_body_));
    after_flush_ = &Connection::begin_request;
    return go(&Connection::flush);
  }
  out_body_.clear();
  protocol::encode_written(out_body_, transferred_);
  return reply(200, kJson, out_body_);
}

// ---- file bytes out ------------------------------------------------------------------

Result<WorkspacePath, Problem> Connection::take_path() {
  const auto text = route_.query.take("path");
  if (!text) return bad_request("parameter path: missing");
  auto path = WorkspacePath::parse(*text);
  if (!path) return problem_of(path.error());
  asked_ = path->bytes();
  caller_.requested = asked_;
  if (!front_.services.resolve) return std::move(*path);
  auto resolved = front_.services.resolve(caller_, *path);
  if (!resolved) return problem_of(resolved.error());
  return std::move(*resolved);
}

bool Connection::enter_handle_read() {
  const auto handle = protocol::parse_handle(route_.handle, front_.options.instance);
  if (!handle) return refuse(problem_of(handle.error()));
  const auto offset = route_.query.number("offset", 0);
  const auto length = route_.query.number("length", std::numeric_limits<std::int64_t>::max());
  const auto rest = route_.query.finish();
  if (!offset) return refuse(offset.error());
  if (!length) return refuse(length.error());
  if (!rest) return refuse(rest.error());
  handle_ = *handle;
  offset_ = *offset;
  left_ = *length;
  if (!head_.range.empty()) {
    admit();
    const auto attributes = front_.services.files.stat(caller_, {{}, {}, handle_});
    if (!attributes) return refuse(problem_of(attributes.error()));
    leave();
    file_size_ = attributes->size;
    auto range = parse_range(head_.range, file_size_);
    if (!range) return refuse(range.error());
    range_ = *range;
    offset_ = range_->first;
    left_ = range_->length;
  }
  return go(&Connection::first_piece_out);
}

bool Connection::enter_file_read() {
  admit();
  auto path = take_path();
  const auto rest = route_.query.finish();
  if (!path) return refuse(path.error());
  if (!rest) return refuse(rest.error());
  path_ = std::move(*path);
  has_path_ = true;
  auto opened = front_.services.files.open(caller_, {path_, {}, 0}, O_RDONLY, 0);
  if (!opened) return refuse(opened.error(), {Operation::read});
  leave();
  handle_ = opened->handle;
  close_handle_ = true;
  offset_ = 0;
  left_ = std::numeric_limits<std::int64_t>::max();
  if (!head_.range.empty()) {
    file_size_ = opened->attributes.size;
    auto range = parse_range(head_.range, file_size_);
    if (!range) return refuse(range.error());
    range_ = *range;
    offset_ = range_->first;
    left_ = range_->length;
  }
  return go(&Connection::first_piece_out);
}

// INVARIANT: each piece is read under an Admission of its own.
// ESTALE: the file shrank below the range that was promised.
Result<Connection::PieceOut, Errno> Connection::next_piece() {
  admit();
  const auto want = static_cast<std::size_t>(std::min<std::uint64_t>(left_, kMaxPieceBytes));
  std::byte* piece = piece_buffer(want);
  FBROKER_TRY(const std::size_t read, front_.services.files.read(caller_, handle_, offset_, {piece, want}));
  if (range_ && read < want) return Errno{ESTALE};
  offset_ += read;
  left_ -= read;
  return PieceOut{{piece, read}, read < want || left_ == 0};
}

// out_head_, bytes and out_body_; then `more`, or the next request.
bool Connection::send_part(std::span<const std::byte> bytes, bool last, Step more) {
  queue(std::string_view(out_head_));
  queue(bytes);
  queue(std::string_view(out_body_));
  after_flush_ = last ? &Connection::begin_request : more;
  if (last) close_own_handle();
  return go(&Connection::flush);
}

void Connection::close_own_handle() {
  if (std::exchange(close_handle_, false)) front_.services.files.close(caller_, handle_);
}

// The first piece decides the reply's shape: all of it (one write of head and
// bytes), a range whose length was promised, or chunks until the file ends.
bool Connection::first_piece_out() {
  const auto piece = next_piece();
  if (!piece) return refuse(piece.error(), {Operation::read});
  chunked_out_ = !range_ && !piece->last;
  start_head(range_ ? 206 : 200);
  field("Content-Type", kBytes);
  if (range_)
    field("Content-Range", "bytes " + std::to_string(range_->first) + "-" +
                               std::to_string(range_->first + range_->length - 1) + "/" +
                               std::to_string(file_size_));
  if (chunked_out_) {
    end_head(std::nullopt);
    chunk_size(piece->bytes.size());
  } else {
    end_head(range_ ? range_->length : piece->bytes.size());
  }
  out_body_ = chunked_out_ ? "\r\n" : "";
  return send_part(piece->bytes, piece->last, &Connection::piece_out);
}

// INVARIANT: when a further piece is refused the reply ends unfinished, which
//   every client notices.
bool Connection::piece_out() {
  const auto piece = next_piece();
  if (!piece) return end(), false;
  out_head_.clear();
  out_body_.clear();
  if (chunked_out_) {
    if (!piece->bytes.empty()) {
      chunk_size(piece->bytes.size());
      out_body_ = "\r\n";
    }
    if (piece->last) out_body_ += "0\r\n\r\n";
  }
  return send_part(piece->bytes, piece->last, &Connection::piece_out);
}

// ---- a whole listing --------------------------------------------------------------------

bool Connection::enter_list() {
  admit();
  auto path = take_path();
  const auto rest = route_.query.finish();
  if (!path) return refuse(path.error());
  if (!rest) return refuse(rest.error());
  path_ = std::move(*path);
  has_path_ = true;
  auto opened = front_.services.files.open_directory(caller_, {path_, {}, 0});
  if (!opened) return refuse(opened.error(), {Operation::list});
  leave();
  handle_ = opened->handle;
  close_handle_ = true;
  position_ = 0;
  first_entry_ = true;
  return go(&Connection::list_page);
}

bool Connection::list_page() {
  constexpr std::size_t kPage = 512;
  admit();
  auto page = front_.services.files.read_directory(caller_, handle_, position_, kPage);
  const bool first = position_ == 0;
  if (!page && first) return refuse(page.error(), {Operation::list});
  if (!page) return end(), false;
  position_ = page->next;
  out_body_ = first ? "{\"entries\":[" : "";
  for (const auto& entry : page->entries) {
    if (!first_entry_) out_body_ += ',';
    first_entry_ = false;
    protocol::encode_entry(out_body_, entry);
  }
  const bool all = page->end || page->entries.empty();
  if (all) out_body_ += "]}";
  out_head_.clear();
  if (first) {
    start_head(200);
    field("Content-Type", kJson);
    end_head(std::nullopt);
  }
  chunk_size(out_body_.size());
  out_body_ += all ? "\r\n0\r\n\r\n" : "\r\n";
  return send_part({}, all, &Connection::list_page);
}

// ---- events ------------------------------------------------------------------------------

bool Connection::enter_events() {
  const auto after = route_.query.take("after");
  const auto instance = route_.query.take("instance");
  const auto rest = route_.query.finish();
  if (!rest) return refuse(rest.error());
  const auto& is_file_service = front_.services.is_file_service;
  const bool file_service = is_file_service && is_file_service(caller_.peer_pid);
  // The callback outlives nothing: it finds the connection only while it lives.
  listener_ = front_.streams.listen([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    asio::post(self->socket_.get_executor(), [self] {
      if (self->listener_ != nullptr && !self->flushing_) self->run();
    });
  }, caller_.peer_pid, file_service);
  if (listener_ == nullptr) {
    Problem problem;
    problem.status = 503;
    problem.title = "Too many event streams";
    return refuse(problem);
  }
  // What was published between listen() and here is queued, and told besides.
  const std::uint64_t last = front_.streams.last_sequence();
  const bool resumed = after && instance && *instance == front_.options.instance &&
                       *after == std::to_string(last);
  out_body_.clear();
  protocol::encode_line(out_body_, protocol::Hello{front_.options.instance, listener_->token(),
                                                   last, (after || instance) && !resumed});
  start_head(200);
  field("Content-Type", "application/x-ndjson");
  end_head(std::nullopt);
  chunk_size(out_body_.size());
  out_body_ += "\r\n";
  queue(std::string_view(out_head_));
  queue(std::string_view(out_body_));
  after_flush_ = &Connection::event_lines;
  streaming_.store(true);
  watch_for_goodbye();
  return go(&Connection::flush);
}

// A client of an event stream has nothing more to say: its end, or anything
// that it sends, ends the stream.
bool Connection::watch_for_goodbye() {
  socket_.async_read_some(asio::buffer(in_.get(), kInputBytes),
                          [self = shared_from_this()](const error_code&, std::size_t) {
                            self->keep_alive_ = false;
                            self->cut();
                            if (!self->flushing_) self->end();
                          });
  return false;
}

void Connection::heartbeat() {
  if (!streaming_.load() || beat_due_.exchange(true)) return;
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->listener_ != nullptr && !self->flushing_) self->run();
  });
}

// INVARIANT: a name that the session may not see is not told when it changes
//   on the host either; a directory that only leads on is kept for a second at
//   most, as from here nobody can tell it from a file that is not shown. Forgetting (forget, retire) concerns what the client
//   was shown before, and is always told.
bool Connection::event_lines() {
  if (listener_ == nullptr) return false;
  if (!keep_alive_) return end(), false;  // the client left while lines were on their way
  deadline_.store(0);
  auto events = listener_->take();
  const bool beat = beat_due_.exchange(false);
  if (events.empty() && !beat) return false;  // woken when there is something
  admit();
  out_body_.clear();
  std::uint64_t upto = listener_->last_sent(), told = 0;
  for (const protocol::Event& event : events) {
    upto = std::max(upto, event.sequence);
    const bool from_host = event.kind == protocol::EventKind::entry ||
                           event.kind == protocol::EventKind::content;
    if (from_host && admission_->view().snapshot != nullptr &&
        !admission_->snapshot().decide(event.path).allows(policy::Operation::list))
      continue;
    protocol::encode_line(out_body_, event);
    told = event.sequence;
  }
  listener_->sent(upto);
  // What was left out is owed an acknowledgement like the rest: the beat names it.
  if (beat || told != upto) protocol::encode_line(out_body_, protocol::Heartbeat{upto});
  out_head_.clear();
  chunk_size(out_body_.size());
  out_body_ += "\r\n";
  queue(std::string_view(out_head_));
  queue(std::string_view(out_body_));
  after_flush_ = &Connection::event_lines;
  return go(&Connection::flush);
}

// ---- the device ----------------------------------------------------------------------------

// ATTACK: descriptors that come before we are ready for them. What is read here
//   has no room for any; they come after the 101, and somebody else reads them.
bool Connection::enter_device() {
  if (auto rest = route_.query.finish(); !rest) return refuse_and_close(rest.error());
  if (head_.upgrade != protocol::kDeviceUpgrade)
    return refuse_and_close(bad_request("expected Upgrade: " + std::string(protocol::kDeviceUpgrade)));
  if (!input().empty()) return refuse_and_close(bad_request("nothing may follow before the answer"));
  const auto& services = front_.services;
  const Result<void> may = services.may_adopt && services.adopt ? services.may_adopt(caller_.peer_pid)
                                                                : Error{"", "no device is taken here"};
  if (!may) {
    Problem problem;
    problem.status = 409;
    problem.title = "The device is not taken";
    problem.detail = may.error().text();
    return refuse_and_close(problem);
  }
  out_head_ = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ";
  out_head_ += protocol::kDeviceUpgrade;
  out_head_ += "\r\n\r\n";
  queue(std::string_view(out_head_));
  after_flush_ = &Connection::give_to_adoption;
  return go(&Connection::flush);
}

bool Connection::give_to_adoption() {
  UniqueFd connection(::fcntl(socket_.native_handle(), F_DUPFD_CLOEXEC, 3));
  if (connection) front_.services.adopt(std::move(connection), caller_.peer_pid);
  return end(), false;   // our copy of it
}

// ---- replies --------------------------------------------------------------------------------

void Connection::start_head(unsigned status) {
  out_head_ = "HTTP/1.1 ";
  out_head_ += status_line_of(status);
  out_head_ += "\r\n";
  field(protocol::kInstanceHeader, front_.options.instance);
  if (!keep_alive_ || front_.stopping.load()) field("Connection", "close");
}

void Connection::field(std::string_view name, std::string_view value) {
  out_head_ += name;
  out_head_ += ": ";
  out_head_ += value;
  out_head_ += "\r\n";
}

void Connection::end_head(std::optional<std::uint64_t> length) {
  if (length) {
    out_head_ += "Content-Length: ";
    protocol::append_number(out_head_, *length);
    out_head_ += "\r\n\r\n";
  } else {
    out_head_ += "Transfer-Encoding: chunked\r\n\r\n";
  }
}

void Connection::chunk_size(std::size_t bytes) {
  char line[24];
  const int size = std::snprintf(line, sizeof line, "%zx\r\n", bytes);
  out_head_.append(line, static_cast<std::size_t>(size));
}

void Connection::queue(std::span<const std::byte> bytes) {
  if (!bytes.empty()) out_[out_count_++] = asio::const_buffer(bytes.data(), bytes.size());
}

void Connection::queue(std::string_view text) { queue(std::as_bytes(std::span(text))); }

bool Connection::reply(unsigned status, std::string_view content_type, std::string_view body) {
  start_head(status);
  if (status == 204) {
    out_head_ += "\r\n";
  } else {
    field("Content-Type", content_type);
    end_head(body.size());
  }
  queue(std::string_view(out_head_));
  queue(body);
  after_flush_ = &Connection::begin_request;
  return go(&Connection::flush);
}

bool Connection::refuse(const Problem& problem) {
  close_own_handle();
  out_body_.clear();
  append_problem(out_body_, problem);
  return reply(problem.status, kProblemType, out_body_);
}

bool Connection::refuse_and_close(const Problem& problem) {
  keep_alive_ = false;
  return refuse(problem);
}

bool Connection::refuse_and_close(const EgressRefusal& refusal) {
  Problem problem;
  problem.status = refusal.status;
  problem.title = refusal.status == 403 ? "Refused by the egress gate" : "Not reached";
  problem.detail = refusal.what;
  problem.rule = refusal.rule;
  return refuse_and_close(problem);
}

bool Connection::refuse(Errno error, OperationSet operations) {
  return refuse(front_.calls.refusal(*admission_, error, has_path_ ? &path_ : nullptr, operations));
}

// Mostly one sendmsg(2) for head and body; what the socket does not take at
// once is waited for.
bool Connection::flush() {
  set_deadline(front_.options.write_bound);
  std::span<asio::const_buffer> left(out_.data(), out_count_);
  while (!left.empty()) {
    error_code error;
    std::size_t sent = socket_.write_some(left, error);
    if (error == asio::error::would_block) break;
    if (error == asio::error::interrupted) continue;
    if (error) return end(), false;
    while (!left.empty() && sent >= left.front().size()) {
      sent -= left.front().size();
      left = left.subspan(1);
    }
    if (!left.empty()) left.front() += sent;
  }
  const auto sent_all = [this] {
    out_count_ = 0;
    flushing_ = false;
    leave();
    if (out_body_.capacity() > kKeptBytes) std::string().swap(out_body_);
    step_ = after_flush_;
  };
  if (left.empty()) return sent_all(), true;
  flushing_ = true;
  const std::vector<asio::const_buffer> rest(left.begin(), left.end());
  asio::async_write(socket_, rest,
                    [self = shared_from_this(), sent_all](const error_code& error, std::size_t) {
                      if (error) return self->end();
                      sent_all();
                      self->run();
                    });
  return false;
}

}  // namespace fbroker::broker
