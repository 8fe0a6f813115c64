// The protocol's messages: what JSON the calls of FileService are on the wire.
// Both sides read and write through here, so they cannot disagree; the routes
// and headers around it are described in docs/protocol.md.
//
// Decoding trusts nobody: unknown, duplicate, missing and wrong-typed fields
// are errors that name the field. Encoding appends to a buffer of the caller's.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "broker/protocol/event.h"
#include "broker/protocol/file_service.h"

namespace fbroker::protocol {

// ---- names on the wire -------------------------------------------------

inline constexpr std::string_view kInstanceHeader = "Fbroker-Instance";  // in every reply
inline constexpr std::string_view kPidHeader = "Fbroker-Pid";            // the caller, as claimed
inline constexpr std::string_view kLifetimeHeader = "Fbroker-Lifetime";  // of "there is no such name"
inline constexpr std::string_view kWrittenHeader = "Fbroker-Written";    // bytes of a write that failed later

// One piece of file bytes: no side holds more of a body at once.
inline constexpr std::size_t kMaxPieceBytes = 1 << 20;
inline constexpr std::size_t kMaxPageEntries = 4096;   // of a directory, in one reply

struct WireError;  // wire_json.h

std::string_view name_of(Lifetime) noexcept;
std::optional<Lifetime> lifetime_named(std::string_view) noexcept;
std::string_view name_of(EventKind) noexcept;

// ---- calls --------------------------------------------------------------

// POST /v1/NAME.
enum class Call : std::uint8_t {
  lookup, stat, readlink, open, opendir, readdir, mkdir, symlink, link, unlink, rmdir,
  rename, truncate, chmod, utimens, statfs, close, fsync,
};
inline constexpr std::size_t kCalls = 18;

std::string_view name_of(Call) noexcept;
std::optional<Call> call_named(std::string_view) noexcept;

// The fields of all calls in one; which of them a call has says a table in
// wire.cc (and docs/protocol.md).
struct Request {
  FileRef file;             // "path", "expect"; its handle is filled in by the server
  std::string handle;       // "handle": a handle as text, "" = none
  WorkspacePath to;         // "to": rename's and link's new name
  std::string target;       // symlink: bytes
  int flags = 0;            // open: O_ bits; on the wire a list of names
  bool no_replace = false;  // rename
  bool data_only = false;   // fsync
  std::uint32_t permissions = 0;  // on the wire octal text, "0644"
  std::uint64_t size = 0;         // truncate
  std::uint64_t position = 0;     // readdir; on the wire decimal text
  std::size_t max_entries = 1024; // readdir
  SetTimes times;                 // utimens: "accessed", "modified"
};

Result<Request, WireError> decode_request(Call, std::string_view json);
void encode_request(std::string& out, Call, const Request&);

// ---- handles ------------------------------------------------------------

// A handle's text names the broker that made it ("INSTANCE-7"), so that a
// number of a broker that is gone can never mean another file of the next one.
std::string handle_text(std::string_view instance, HandleId handle);
// Errors: EBADF for what is no handle, ESTALE for one of another instance.
Result<HandleId, Errno> parse_handle(std::string_view text, std::string_view instance);

// ---- replies ------------------------------------------------------------

struct OpenedText {          // Opened, as a client sees it
  std::string handle;
  Attributes attributes;
  Lifetime lifetime = Lifetime::none;
};

void encode(std::string& out, const Attributes&);                    // {"attributes": {…}}
void encode(std::string& out, const Lookup&);                        // Precondition: it was found
void encode(std::string& out, std::string_view handle, const Opened&);
void encode(std::string& out, const DirectoryPage&);
void encode_entry(std::string& out, const DirectoryEntry&);          // one element of "entries"
void encode(std::string& out, const FileSystemStatus&);
void encode_target(std::string& out, std::string_view target);
void encode_written(std::string& out, std::uint64_t bytes);

Result<Attributes, WireError> decode_attributes(std::string_view json);
Result<Lookup, WireError> decode_lookup(std::string_view json);
Result<OpenedText, WireError> decode_opened(std::string_view json);
Result<DirectoryPage, WireError> decode_page(std::string_view json);
Result<FileSystemStatus, WireError> decode_status(std::string_view json);
Result<std::string, WireError> decode_target(std::string_view json);
Result<std::uint64_t, WireError> decode_written(std::string_view json);

// ---- the event stream: one JSON object a line ----------------------------

// First line of a stream. `missed`: events may have passed that this client
// did not get (another instance, or more than `after`): forget everything.
struct Hello {
  std::string instance;
  std::string subscription;    // a secret: whoever knows it can acknowledge
  std::uint64_t sequence = 0;  // everything up to here is accounted for
  bool missed = false;
};
// Sent when nothing else was for a while. Everything up to `sequence` was sent
// or did not concern this client.
struct Heartbeat {
  std::uint64_t sequence = 0;
};
struct EventLine {             // exactly one of them
  std::optional<Hello> hello;
  std::optional<Heartbeat> heartbeat;
  std::optional<Event> event;
};

void encode_line(std::string& out, const Hello&);
void encode_line(std::string& out, const Heartbeat&);
void encode_line(std::string& out, const Event&);
Result<EventLine, WireError> decode_line(std::string_view json);

struct Acknowledgement {
  std::string subscription;
  std::uint64_t sequence = 0;
};
void encode(std::string& out, const Acknowledgement&);
Result<Acknowledgement, WireError> decode_acknowledgement(std::string_view json);

// The errno in a problem's body; EIO when it names none that we know.
Errno decode_problem(std::string_view json);

}  // namespace fbroker::protocol
