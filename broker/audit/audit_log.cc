#include "broker/audit/audit_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include "broker/audit/encode.h"
#include "broker/audit/folds.h"
#include "broker/audit/layout.h"
#include "broker/audit/quota.h"
#include "broker/audit/read.h"
#include "broker/audit/ring.h"
#include "broker/audit/segments.h"
#include "broker/audit/signing.h"

namespace fbroker::audit {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kBatchBytes = 1u << 20;       // of lines in one write(2)
constexpr auto kRepeatTheAlarm = std::chrono::seconds(10);
constexpr auto kUnfinishedPause = std::chrono::milliseconds(1);  // for who has reserved an entry and not filled it
constexpr std::size_t kUnpaidBytes = 512;           // of a line beyond its packed bytes: names, digits
// How a checkpoint's members end in the ring, where it has its place in the
// order. No other record's do: in a text every quote is escaped.
constexpr std::string_view kCheckpointMember = R"(,"operation":"checkpoint")";

WallTime wall_time() { return std::chrono::system_clock::now(); }
WallTime wall_time(std::int64_t ns) { return WallTime(std::chrono::nanoseconds(ns)); }

// A refusal by rule. Errors of allowed operations are not folded: they are few
// or each is news.
bool is_refusal(const Record& record) {
  return !record.session.empty() && (record.decision == "deny" || record.decision == "ask");
}

void add_repeats(std::string& out, std::string_view members, std::uint64_t repeats,
                 std::int64_t first_ns, std::int64_t last_ns) {
  add_time(out, "time", wall_time(last_ns));
  add_time(out, "since", wall_time(first_ns));
  out += ',';
  out += members;
  add_number(out, "repeated", repeats);
}

// 0700 and ours: whoever can write here can write history.
Result<UniqueFd> open_directory(const std::string& path) {
  std::error_code error;
  const auto parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) return Error{path, "cannot be made: " + error.message()};
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return Error{path, std::string("cannot be made: ") + std::strerror(errno)};
  UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat st {};
  if (!directory || ::fstat(directory.get(), &st) != 0)
    return Error{path, std::string("cannot be opened: ") + std::strerror(errno)};
  if (st.st_uid != ::geteuid() || (st.st_mode & 022) != 0)
    return Error{path, "must be yours and writable by nobody else (chmod 700)"};
  return directory;
}

Result<UniqueFd> take_lock(int directory, const std::string& path) {
  UniqueFd file(::openat(directory, kLockName, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return Error{path, std::string("its lock cannot be opened: ") + std::strerror(errno)};
  struct flock whole {};
  whole.l_type = F_WRLCK;
  if (::fcntl(file.get(), F_OFD_SETLK, &whole) != 0)
    return Error{path, "another broker writes this audit log; give this one another with --audit"};
  return file;
}

}  // namespace

struct AuditLog::Impl {
  Impl(AuditOptions o, UniqueFd dir, UniqueFd lock, std::unique_ptr<Ring> r, SegmentWriter w,
       std::optional<Signer> s)
      : options(std::move(o)), directory(std::move(dir)), lock_file(std::move(lock)),
        ring(std::move(r)), signer(std::move(s)), segments(std::move(w)), quotas(options.quota),
        folds(*ring, options.fold_window, options.fold_limit) {}

  Result<void> recover();
  std::string check_signed_head(ChainHead& known);
  Result<bool> is_in_log(const ChainHead& noted);
  Result<void, Errno> append(const Record& record);
  Result<void, Errno> ready(const std::string& session);
  bool fits_a_line(const Record& record, std::size_t packed) const;
  template <class Put>
  bool take_over(std::unique_lock<std::mutex>& lock, Put&& put);
  bool must_wake_writer();
  bool push_repeats(FoldSlot& slot);
  void taken_over();
  void say_over_quota(std::unique_lock<std::mutex>& lock, const std::string& session);
  bool sync(std::chrono::milliseconds bound);
  Result<void, Errno> wait_durable();
  void stall(std::chrono::milliseconds waited);

  void run();
  std::optional<Clock::time_point> checkpoint_time() const;
  void checkpoint_if_due();
  bool add_line(ChainHead& head, Ring::Kind kind, std::string_view bytes);
  void write_head(std::unique_lock<std::mutex>& lock);
  void wait_for_work(std::unique_lock<std::mutex>& lock);
  void wait_for_company(std::unique_lock<std::mutex>& lock);
  bool write_batch(std::unique_lock<std::mutex>& lock);
  void broken(const Error& error);
  void mended();

  const AuditOptions options;
  const UniqueFd directory;
  const UniqueFd lock_file;
  const std::unique_ptr<Ring> ring;
  const std::optional<Signer> signer;   // none: no checkpoints

  // The writer's alone once it runs.
  SegmentWriter segments;
  Hasher hasher;
  std::string lines;
  std::vector<std::pair<std::string, std::size_t>> owed;  // by sessions, for the batch
  bool ends_in_checkpoint = false;    // the log
  ChainHead signed_head;              // the last checkpoint
  bool head_is_old = false;           // the file does not say so yet
  Clock::time_point last_sync{};
  Clock::time_point last_alarm{};

  std::atomic<bool> writing{true};              // state.writing, for ready()
  std::atomic<bool> somebody_over_quota{false};  // ready() has to look closer

  // Guards all that follows, every call on quotas and folds, and those on the ring
  // that need it (ring.h). No other lock is taken while it is held, no file is
  // touched, and no record encoded.
  mutable std::mutex mutex;
  std::condition_variable work;       // for the writer
  std::condition_variable progress;   // for those who wait for room or for the disk
  Quotas quotas;
  Folds folds;
  AuditStatus state;
  bool stopping = false;
  // Whom a record wakes: who has nothing to do. Who waits for more to write at
  // once looks at the clock itself: a wake-up costs more than a record.
  enum class Sleep { no, until_work, until_time } writer_sleeps = Sleep::no;
  std::size_t awaiting_disk = 0;      // callers of wait_durable()
  bool hurry = false;                 // sync(): end all windows now
  std::uint64_t hurries_done = 0;
  std::uint64_t hurried_to = 0;       // the last record that sync() waits for
  std::uint64_t refused_at_break = 0;
  bool stalled = false;               // somebody has waited too long for the disk; until it does something
  std::uint64_t checkpoint_at = 0;    // number of the last checkpoint that was taken over
  Clock::time_point unsigned_since{};  // when the first record after it was

  std::thread writer;
};

// ---- taking records over -------------------------------------------------

Result<void, Errno> AuditLog::Impl::append(const Record& record) {
  thread_local std::string members;
  const WallTime when = wall_time();
  const bool refusal = is_refusal(record);
  if (refusal) {
    members.clear();
    add_members(members, record, Members::all_but_who);
    const std::lock_guard lock(mutex);
    if (!state.writing) return ++state.refused, Errno{EIO};
    if (folds.count(members, when)) return ok;
  }

  const std::size_t size = packed_size(record);
  const bool fits = fits_a_line(record, size);
  const auto now = Clock::now();
  std::optional<Ring::Slot> slot;
  bool wake = false;
  {
    std::unique_lock lock(mutex);
    if (!state.writing || !fits) return ++state.refused, Errno{EIO};
    if (!record.session.empty()) {
      const auto answer = quotas.take(record.session, size, now, refusal ? Quotas::Reserve::keep : Quotas::Reserve::use);
      if (answer != Quotas::Answer::yes) somebody_over_quota = true;
      if (answer == Quotas::Answer::no_and_say_so) say_over_quota(lock, record.session);
      if (!Quotas::taken(answer)) return ++state.over_quota, Errno{EIO};
    }
    const auto reserve = [&] { return (slot = ring->reserve(state.appended + 1, Ring::Kind::packed, size)).has_value(); };
    if (!take_over(lock, reserve)) return ++state.refused, Errno{EIO};
    if (refusal) folds.remember(members, now);
    wake = must_wake_writer();
  }
  // INVARIANT: nothing can fail from here on; the writer waits for this entry.
  pack(record, when, slot->bytes);
  Ring::commit(*slot);
  if (wake) work.notify_one();
  return ok;
}

// A line is longer than what is packed: six bytes for one at the worst.
bool AuditLog::Impl::fits_a_line(const Record& record, std::size_t packed) const {
  if (packed > ring->max_bytes()) return false;
  if (packed < kMaxLineBytes / 8) return true;
  std::string members;
  add_members(members, record, Members::all);
  return members.size() < kMaxLineBytes - kUnpaidBytes;
}

// No mutex while all is well: this runs once per read(2) of the agent.
Result<void, Errno> AuditLog::Impl::ready(const std::string& session) {
  if (!writing) return Errno{EIO};
  if (session.empty() || !somebody_over_quota) return ok;
  const std::lock_guard lock(mutex);
  if (quotas.within(session, Clock::now())) return ok;
  return ++state.over_quota, Errno{EIO};
}

// Waits for room; false when the log broke meanwhile. `put`: whether there was room.
template <class Put>
bool AuditLog::Impl::take_over(std::unique_lock<std::mutex>& lock, Put&& put) {
  while (!put()) {
    if (!state.writing || stopping || stalled) return false;
    work.notify_one();
    if (progress.wait_for(lock, options.full_ring_bound) == std::cv_status::timeout)
      stall(options.full_ring_bound);
  }
  taken_over();
  return true;
}

// Once for each of its sleeps: then the caller wakes it.
bool AuditLog::Impl::must_wake_writer() {
  const bool wake = writer_sleeps == Sleep::until_work ||
                    (writer_sleeps == Sleep::until_time && ring->used() > ring->capacity() / 2);
  if (wake) writer_sleeps = Sleep::no;
  return wake;
}

bool AuditLog::Impl::push_repeats(FoldSlot& slot) {
  thread_local std::string fields;
  fields.clear();
  add_repeats(fields, slot.text(), slot.repeats.load(), slot.first_ns, slot.last_ns.load());
  // INVARIANT: killed at any point between these stores, the successor finds
  //   the repeats in the slot, or in the record of this number, never in both.
  slot.written_as.store(state.appended + 1);
  if (!ring->push(state.appended + 1, fields)) {
    slot.written_as.store(0);
    return false;
  }
  taken_over();
  slot.repeats.store(0);
  slot.written_as.store(0);
  return true;
}

void AuditLog::Impl::taken_over() {
  ++state.appended;
  if (state.appended == checkpoint_at + 1) unsigned_since = Clock::now();
}

void AuditLog::Impl::say_over_quota(std::unique_lock<std::mutex>& lock, const std::string& session) {
  Record record;
  record.session = session;
  record.operation = "audit-quota";
  record.decision = "deny";
  record.error = EIO;
  record.detail = "this session writes more records than its quota; its work is refused until it slows down";
  std::string fields;
  add_time(fields, "time", wall_time());
  add_members(fields, record, Members::all);
  (void)take_over(lock, [&] { return ring->push(state.appended + 1, fields); });
  if (must_wake_writer()) work.notify_one();
}

// ---- the writer ------------------------------------------------------------

void AuditLog::Impl::run() {
  std::unique_lock lock(mutex);
  for (;;) {
    wait_for_work(lock);
    const bool last_round = stopping;
    const auto now = stopping || hurry ? Clock::time_point::max() : Clock::now();
    const bool all_folded = folds.end_windows(now, [&](FoldSlot& slot) { return push_repeats(slot); });
    if (hurry && all_folded) {
      hurry = false;
      ++hurries_done;
      hurried_to = state.appended;
      progress.notify_all();
    }
    checkpoint_if_due();
    const bool written = ring->used() == 0 || write_batch(lock);
    if (written && head_is_old) write_head(lock);
    if (!written) {
      if (stopping) return;   // it stays in the ring
      work.wait_for(lock, options.retry, [&] { return stopping; });
    } else if (last_round && all_folded && ring->used() == 0) {
      return;
    }
  }
}

void AuditLog::Impl::wait_for_work(std::unique_lock<std::mutex>& lock) {
  auto due = folds.due();
  if (const auto sign = checkpoint_time(); sign && (!due || *sign < *due)) due = sign;
  const auto something = [&] { return stopping || hurry || ring->used() > 0; };
  if (!something()) {
    writer_sleeps = Sleep::until_work;
    if (due) work.wait_until(lock, *due, something);
    else work.wait(lock, something);
    writer_sleeps = Sleep::no;
  }
  wait_for_company(lock);
}

// Group commit: those who come within the pace share one fdatasync(2); and
// records that nobody waits for let more come, so that a steady stream of calls
// costs few turns of this thread.
void AuditLog::Impl::wait_for_company(std::unique_lock<std::mutex>& lock) {
  const auto came = Clock::now();
  const auto urgent = [&] {
    return stopping || hurry || state.durable < hurried_to || ring->used() > ring->capacity() / 2;
  };
  while (!urgent()) {
    auto until = last_sync + options.pace;
    if (awaiting_disk == 0) until = std::max(until, came + options.linger);
    if (Clock::now() >= until) break;
    writer_sleeps = Sleep::until_time;
    work.wait_until(lock, until);
  }
  writer_sleeps = Sleep::no;
}

// Entries between head and the tail that was seen are the writer's: nobody
// overwrites them before release(), so they are read without the mutex.
bool AuditLog::Impl::write_batch(std::unique_lock<std::mutex>& lock) {
  const std::uint64_t until = ring->tail();
  std::uint64_t position = ring->head();
  lock.unlock();
  ChainHead head = segments.head();
  lines.clear();
  owed.clear();
  bool checkpoint = false;   // ends its batch: a segment can end there
  while (position < until && lines.size() < kBatchBytes && !checkpoint) {
    const auto entry = ring->next(position);
    if (!entry) break;
    checkpoint = add_line(head, entry->kind, entry->bytes);
  }
  if (lines.empty()) {
    lock.lock();
    work.wait_for(lock, kUnfinishedPause);
    return true;
  }
  const auto written = segments.write(lines, head, !signer || ends_in_checkpoint);
  last_sync = Clock::now();
  if (written) ring->release(position, head);
  lock.lock();
  if (!written) {
    broken(written.error());
    return false;
  }
  for (const auto& [session, bytes] : owed) quotas.charge(session, bytes, last_sync);
  ends_in_checkpoint = checkpoint;
  if (checkpoint) {
    signed_head = head;
    head_is_old = true;
    state.signed_to = head.sequence;
  }
  if (std::exchange(stalled, false)) state.problem.clear();
  state.durable = head.sequence;
  state.head = text_of(head.hash);
  state.segment = segments.name();
  mended();
  checkpoint_if_due();   // while there is room: those who wait for it have not come yet
  progress.notify_all();
  return true;
}

void AuditLog::Impl::broken(const Error& error) {
  if (state.writing) refused_at_break = state.refused;
  state.problem = error.text();
  if (state.writing || Clock::now() > last_alarm + kRepeatTheAlarm) {
    last_alarm = Clock::now();
    spdlog::error("the audit log cannot be written, so all work is refused until it can: {}",
                  state.problem);
  }
  state.writing = writing = false;
  progress.notify_all();
}

void AuditLog::Impl::mended() {
  if (state.writing) return;
  state.writing = writing = true;
  state.problem.clear();
  const std::uint64_t refused = state.refused - refused_at_break;
  spdlog::warn("the audit log can be written again; {} operations were refused meanwhile", refused);
  Record record;
  record.operation = "audit-resumed";
  record.detail = std::to_string(refused) + " operations were refused while the log could not be written";
  std::string fields;
  add_time(fields, "time", wall_time());
  add_members(fields, record, Members::all);
  if (ring->push(state.appended + 1, fields)) taken_over();
}

bool AuditLog::Impl::sync(std::chrono::milliseconds bound) {
  std::unique_lock lock(mutex);
  const std::uint64_t before = hurries_done;
  hurry = true;
  work.notify_one();
  return progress.wait_for(lock, bound, [&] {
    return hurries_done > before && state.durable >= hurried_to;
  });
}

// ---- waiting for the disk ----------------------------------------------------

Result<void, Errno> AuditLog::Impl::wait_durable() {
  std::unique_lock lock(mutex);
  const std::uint64_t last = state.appended;
  const auto settled = [&] { return state.durable >= last || !state.writing || stalled; };
  ++awaiting_disk;
  if (!settled()) work.notify_one();
  if (!progress.wait_for(lock, options.durable_bound, settled)) stall(options.durable_bound);
  --awaiting_disk;
  // INVARIANT: nothing but the disk's own word makes this true.
  if (state.durable >= last) return ok;
  return ++state.refused, Errno{EIO};
}

// Who comes now need not wait for what did not come for others.
void AuditLog::Impl::stall(std::chrono::milliseconds waited) {
  stalled = true;
  state.problem = "the disk has written nothing of it for " + std::to_string(waited.count()) + " ms";
  spdlog::error("audit log {}: {}; whoever has to wait for it is refused until it does", options.directory, state.problem);
  progress.notify_all();
}

// ---- checkpoints ---------------------------------------------------------------

// When the records since the last one are to be signed; none: there are none.
std::optional<Clock::time_point> AuditLog::Impl::checkpoint_time() const {
  if (!signer || state.appended <= checkpoint_at) return std::nullopt;
  if (checkpoint_at > state.durable) return std::nullopt;   // one is on its way
  return unsigned_since + options.checkpoint_after;
}

// Takes its place in the ring as any record; what it signs is known only when
// it is written. Without room: at the next turn.
void AuditLog::Impl::checkpoint_if_due() {
  const auto time = checkpoint_time();
  if (!time) return;
  const bool due = stopping || state.appended - checkpoint_at >= options.checkpoint_records ||
                   (segments.full() && !ends_in_checkpoint) || Clock::now() >= *time;
  std::string fields;
  add_time(fields, "time", wall_time());
  fields += kCheckpointMember;
  if (!due || !ring->push(state.appended + 1, fields)) return;
  taken_over();
  checkpoint_at = state.appended;
}

// The line of the record after `head`. Returns whether it is a checkpoint.
bool AuditLog::Impl::add_line(ChainHead& head, Ring::Kind kind, std::string_view bytes) {
  const bool checkpoint = signer && kind == Ring::Kind::fields && bytes.ends_with(kCheckpointMember);
  const std::size_t start = open_line(head, lines);
  if (kind == Ring::Kind::fields) {
    lines += ',';
    lines += bytes;
    if (checkpoint) add_text(lines, "signature", signer->sign(Statement::checkpoint, head));
  } else if (!add_packed_members(lines, bytes)) {
    add_text(lines, "operation", "audit-unreadable");   // its number stays taken
  } else if (const std::size_t grown = lines.size() - start; grown > bytes.size() + kUnpaidBytes) {
    owed.emplace_back(session_of_packed(bytes), grown - bytes.size());   // names that are escaped
  }
  close_line(hasher, head, start, lines);
  return checkpoint;
}

// The log itself is whole without it: told, and tried again with what is
// written next.
void AuditLog::Impl::write_head(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  const auto put = write_signed_head(options.head_file, signed_head, *signer);
  lock.lock();
  head_is_old = !put;
  if (!put && state.head_problem.empty())
    spdlog::error("the audit log's signed head cannot be written: {}", put.error().text());
  state.head_problem = put ? "" : put.error().text();
}

// ---- what a predecessor left ----------------------------------------------

Result<void> AuditLog::Impl::recover() {
  const Ring::Found found = ring->find();
  AuditRecovery& report = state.recovery;
  report.kept_aside = segments.torn_to();
  report.torn = found.torn_pieces + (segments.torn_to().empty() ? 0 : 1);
  if (!found.torn.empty()) {
    FBROKER_TRY(report.kept_aside, SegmentWriter::keep_aside(directory.get(), found.torn));
  }

  // INVARIANT: the numbers go on where the log ended when it was last seen, so
  //   that a log which lost its end shows the gap for ever.
  const std::uint64_t in_log = segments.head().sequence;
  ChainHead seen = found.checkpoint;
  report.head_problem = check_signed_head(seen);
  if (seen.sequence > in_log) {
    report.lost_after = in_log == 0 ? seen.sequence : in_log;
    segments.continue_from(seen);
  }
  ChainHead head = segments.head();
  const std::uint64_t known = head.sequence;
  std::uint64_t last = known;
  const auto add = [&](std::string_view fields) { add_line(head, Ring::Kind::fields, fields); };
  const auto add_own = [&](const char* operation, std::string detail) {
    Record record;
    record.operation = operation;
    record.detail = std::move(detail);
    std::string fields;
    add_time(fields, "time", wall_time());
    add_members(fields, record, Members::all);
    add(fields);
    spdlog::warn("audit log {}: {}", options.directory, record.detail);
  };
  for (const auto& entry : found.entries) {
    last = std::max(last, entry.sequence);
    if (entry.sequence <= known) continue;
    // A line for each number: so who is killed right here takes none over twice.
    if (!entry.finished) {
      add_own("audit-unfinished", "a broker was killed while it made this record, and had not answered the operation");
      ++report.unfinished;
      continue;
    }
    add_line(head, entry.kind, entry.bytes);
    ++report.drained;
  }
  for (const auto& fold : found.folds) {
    if (fold.written_as != 0 && fold.written_as <= last) continue;
    std::string fields;
    add_repeats(fields, fold.members, fold.repeats, fold.first_ns, fold.last_ns);
    add(fields);
    ring->fold(fold.slot).written_as.store(head.sequence);  // should we be killed right here
    ++report.drained;
  }
  // INVARIANT: the chain goes on over a kill, and says where it may have a gap.
  report.killed = ring->in_use();
  if (report.killed)
    add_own("restart", "the broker before was killed (or the machine stopped) some time after record " +
                           std::to_string(head.sequence) +
                           "; what open files had read or written by then, and a change that was just being made, "
                           "may be in no record");
  if (report.drained + report.torn + report.lost_after > 0 || !report.head_problem.empty()) {
    std::string detail = std::to_string(report.drained) + " records taken over from a broker that was killed, " +
                    std::to_string(report.torn) + " damaged pieces kept aside" +
                    (report.kept_aside.empty() ? "" : " in " + report.kept_aside);
    if (report.lost_after > 0)
      detail += "; the log had lost its end, after record " + std::to_string(in_log);
    if (!report.head_problem.empty()) detail += "; " + report.head_problem;
    add_own("audit-recovered", std::move(detail));
  }
  if (!lines.empty()) FBROKER_TRY_VOID(segments.write(lines, head));
  ring->reset(head);
  ring->set_in_use(true);
  state.appended = state.durable = head.sequence;
  state.head = text_of(head.hash);
  state.segment = segments.name();
  // Signed to its end, there is nothing to sign until something new comes.
  ends_in_checkpoint = signed_head == head;
  if (ends_in_checkpoint) checkpoint_at = head.sequence;
  unsigned_since = Clock::now();
  return ok;
}

// What speaks against the signed head or, by it, against the log. `seen`: the
// latest head that somebody saw.
// INVARIANT: it is asked before another one replaces it. Else a log that was
//   cut or written anew while no broker ran would be signed by the next.
std::string AuditLog::Impl::check_signed_head(ChainHead& seen) {
  if (!signer) return {};
  const auto noted = read_signed_head(options.head_file, signer->public_key());
  if (!noted) return noted.error().text();
  const std::uint64_t in_log = segments.head().sequence;
  if (!*noted) return in_log == 0 ? "" : "there was no signed head " + options.head_file;
  signed_head = **noted;
  if (signed_head.sequence > seen.sequence) seen = signed_head;
  if (signed_head.sequence > in_log) return {};
  const auto in_it = is_in_log(signed_head);
  if (!in_it) return in_it.error().text();
  if (*in_it) return {};
  // The numbers go on after what was signed: the break shows for ever.
  segments.continue_from(signed_head);
  return "the log is not the one that was signed: record " + std::to_string(signed_head.sequence) +
         ", or one before it, was written anew";
}

// Precondition: it is not after the log's end.
Result<bool> AuditLog::Impl::is_in_log(const ChainHead& noted) {
  FBROKER_TRY(LineReader reader, LineReader::open(options.directory));
  FBROKER_TRY_VOID(reader.seek_last(segments.head().sequence - noted.sequence + 1));
  FBROKER_TRY(const std::optional<Line> line, reader.next());
  const auto proven = line ? prove(hasher, line->text) : std::nullopt;
  return proven && ChainHead{proven->sequence, proven->hash} == noted;
}

// ---- the class ---------------------------------------------------------------

Result<std::unique_ptr<AuditLog>> AuditLog::open(AuditOptions options) {
  FBROKER_TRY(UniqueFd directory, open_directory(options.directory));
  FBROKER_TRY(UniqueFd lock, take_lock(directory.get(), options.directory));
  FBROKER_TRY(auto ring, Ring::open(directory.get(), kRingName, options.ring_bytes));
  FBROKER_TRY(auto segments, SegmentWriter::open(directory.get(), options.directory,
                                                 options.segment_bytes));
  std::optional<Signer> signer;
  if (!options.key_directory.empty()) {
    FBROKER_TRY(signer, Signer::open(options.key_directory));
    if (options.head_file.empty()) options.head_file = options.key_directory + "/" + kHeadName;
  }
  auto impl = std::make_unique<Impl>(std::move(options), std::move(directory), std::move(lock),
                                     std::move(ring), std::move(segments), std::move(signer));
  FBROKER_TRY_VOID(impl->recover());
  impl->writer = std::thread([log = impl.get()] { log->run(); });
  return std::unique_ptr<AuditLog>(new AuditLog(std::move(impl)));
}

AuditLog::AuditLog(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

AuditLog::~AuditLog() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->work.notify_all();
  impl_->progress.notify_all();
  impl_->writer.join();
  impl_->ring->set_in_use(false);
}

Result<void, Errno> AuditLog::append(const Record& record) { return impl_->append(record); }

Result<void, Errno> AuditLog::ready() { return impl_->ready({}); }
Result<void, Errno> AuditLog::ready(const std::string& session) { return impl_->ready(session); }

Result<void, Errno> AuditLog::wait_durable() { return impl_->wait_durable(); }

bool AuditLog::sync(std::chrono::milliseconds bound) { return impl_->sync(bound); }

AuditStatus AuditLog::status() const {
  const std::lock_guard lock(impl_->mutex);
  AuditStatus status = impl_->state;
  status.ring_used = impl_->ring->used();
  status.ring_bytes = impl_->ring->capacity();
  return status;
}

}  // namespace fbroker::audit
