#include "broker/protocol/wire.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "broker/protocol/errno_names.h"
#include "broker/protocol/wire_json.h"

namespace fbroker::protocol {

using nlohmann::json;

namespace {

// ---- tables -------------------------------------------------------------

constexpr std::array<std::string_view, 3> kLifetimes{"none", "one_second", "until_told"};
constexpr std::array<std::string_view, 3> kTypes{"regular", "directory", "symlink"};
constexpr std::array<std::string_view, 5> kKinds{"forget", "retire", "entry", "content",
                                                 "forget_all"};

struct FlagName {
  int flag;
  std::string_view name;
};
// open(2)'s flags that may cross; the access mode is one of the first three.
// The others that FileService knows (O_CLOEXEC, O_NOCTTY, O_LARGEFILE) say
// nothing beyond the client's own descriptor and stay there.
// O_SYNC comes before O_DSYNC, whose bit it contains.
constexpr std::array kFlags{
    FlagName{O_RDONLY, "read"},      FlagName{O_WRONLY, "write"},  FlagName{O_RDWR, "read_write"},
    FlagName{O_CREAT, "create"},     FlagName{O_EXCL, "exclusive"}, FlagName{O_TRUNC, "truncate"},
    FlagName{O_APPEND, "append"},    FlagName{O_NOFOLLOW, "no_follow"},
    FlagName{O_NONBLOCK, "non_block"}, FlagName{O_NOATIME, "no_access_time"},
    FlagName{O_SYNC, "sync"},        FlagName{O_DSYNC, "data_sync"},
};

enum Field : unsigned {
  path = 1 << 0, expect = 1 << 1, handle = 1 << 2, to = 1 << 3, target = 1 << 4,
  flags = 1 << 5, no_replace = 1 << 6, data_only = 1 << 7, permissions = 1 << 8,
  size = 1 << 9, position = 1 << 10, max_entries = 1 << 11, accessed = 1 << 12,
  modified = 1 << 13,
  path_or_handle = 1 << 14,   // in `required` only: exactly one of the two
};

struct Shape {
  std::string_view name;
  unsigned required;
  unsigned optional;
};
// By Call. What is neither required nor optional is refused.
constexpr std::array<Shape, kCalls> kShapes{{
    {"lookup", path, 0},
    {"stat", path_or_handle, expect},
    {"readlink", path, expect},
    {"open", path | flags, expect | permissions},
    {"opendir", path, expect},
    {"readdir", handle, position | max_entries},
    {"mkdir", path | permissions, 0},
    {"symlink", path | target, 0},
    {"link", path | to, expect},
    {"unlink", path, 0},
    {"rmdir", path, 0},
    {"rename", path | to, no_replace},
    {"truncate", path_or_handle | size, expect},
    {"chmod", path_or_handle | permissions, expect},
    {"utimens", path_or_handle, expect | accessed | modified},
    {"statfs", path, 0},
    {"close", handle, 0},
    {"fsync", handle, data_only},
}};

constexpr const Shape& shape_of(Call call) { return kShapes[static_cast<std::size_t>(call)]; }

template <std::size_t N>
std::optional<std::size_t> index_of(const std::array<std::string_view, N>& names,
                                    std::string_view name) {
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == name) return i;
  return std::nullopt;
}

// ---- single values --------------------------------------------------------

template <class T>
std::optional<T> parse_number(std::string_view text, int base = 10) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <class T>
void append_in_base(std::string& out, T value, int base) {
  char digits[72];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, value, base).ptr);
}

// "DEVICE-INODE-BIRTH" in hexadecimal; opaque to clients.
void append_identity(std::string& out, const FileIdentity& identity) {
  out += '"';
  append_in_base(out, identity.device, 16);
  out += '-';
  append_in_base(out, identity.inode, 16);
  out += '-';
  append_in_base(out, static_cast<std::uint64_t>(identity.birth_ns), 16);
  out += '"';
}

std::optional<FileIdentity> parse_identity(std::string_view text) {
  const std::size_t first = text.find('-');
  const std::size_t second = first == text.npos ? text.npos : text.find('-', first + 1);
  if (second == text.npos) return std::nullopt;
  const auto device = parse_number<std::uint64_t>(text.substr(0, first), 16);
  const auto inode = parse_number<std::uint64_t>(text.substr(first + 1, second - first - 1), 16);
  const auto birth = parse_number<std::uint64_t>(text.substr(second + 1), 16);
  if (!device || !inode || !birth) return std::nullopt;
  return FileIdentity{*device, *inode, static_cast<std::int64_t>(*birth)};
}

// "SECONDS.NANOSECONDS", nine digits; the nanoseconds always count forward.
void append_time(std::string& out, const timespec& time) {
  out += '"';
  append_in_base(out, static_cast<std::int64_t>(time.tv_sec), 10);
  out += '.';
  char digits[10];
  auto rest = static_cast<unsigned>(time.tv_nsec);
  for (int i = 8; i >= 0; --i, rest /= 10) digits[i] = static_cast<char>('0' + rest % 10);
  out.append(digits, 9);
  out += '"';
}

std::optional<timespec> parse_time(std::string_view text) {
  const std::size_t dot = text.find('.');
  if (dot == text.npos || text.size() - dot != 10) return std::nullopt;
  const auto seconds = parse_number<std::int64_t>(text.substr(0, dot));
  const auto nanoseconds = parse_number<std::uint32_t>(text.substr(dot + 1));
  if (!seconds || !nanoseconds) return std::nullopt;
  return timespec{*seconds, static_cast<long>(*nanoseconds)};
}

void append_permissions(std::string& out, std::uint32_t bits) {
  out += "\"0";
  append_in_base(out, bits & 07777, 8);
  out += '"';
}

void append_flags(std::string& out, int bits) {
  out += '[';
  append_text(out, kFlags[static_cast<std::size_t>(bits & O_ACCMODE)].name);
  for (std::size_t i = 3; i < kFlags.size(); ++i) {
    if ((bits & kFlags[i].flag) != kFlags[i].flag) continue;
    bits &= ~kFlags[i].flag;
    out += ',';
    append_text(out, kFlags[i].name);
  }
  out += ']';
}

// ---- fields of a message --------------------------------------------------

WorkspacePath take_path(FieldReader& fields, std::string_view name) {
  const std::string bytes = fields.bytes(name);
  auto parsed = WorkspacePath::parse(bytes);
  if (parsed) return std::move(*parsed);
  if (parsed.error().value == ENAMETOOLONG)
    fields.refuse(name, "longer than 4096 bytes, or 255 in a component", ENAMETOOLONG);
  else
    fields.refuse(name, "expected an absolute path without \"\", \".\", \"..\" or NUL");
  return {};
}

template <class T, class Parse>
T take_parsed(FieldReader& fields, std::string_view name, Parse parse, const char* expected) {
  const std::string text = fields.text(name);
  if (auto value = parse(text)) return *value;
  fields.refuse(name, expected);
  return {};
}

FileIdentity take_identity(FieldReader& fields, std::string_view name) {
  return take_parsed<FileIdentity>(fields, name, parse_identity, "expected an identity");
}

timespec take_time(FieldReader& fields, std::string_view name) {
  return take_parsed<timespec>(fields, name, parse_time, "expected \"SECONDS.NNNNNNNNN\"");
}

std::uint32_t take_permissions(FieldReader& fields, std::string_view name) {
  const auto octal = [](std::string_view text) -> std::optional<std::uint32_t> {
    const auto bits = parse_number<std::uint32_t>(text, 8);
    return bits && *bits <= 07777 ? bits : std::nullopt;
  };
  return take_parsed<std::uint32_t>(fields, name, octal, "expected octal text, \"0644\"");
}

std::uint64_t take_decimal(FieldReader& fields, std::string_view name) {
  const auto decimal = [](std::string_view text) { return parse_number<std::uint64_t>(text); };
  return take_parsed<std::uint64_t>(fields, name, decimal, "expected decimal text");
}

template <class Enum, std::size_t N>
Enum take_name(FieldReader& fields, std::string_view name,
               const std::array<std::string_view, N>& names) {
  const auto index = index_of(names, fields.text(name));
  if (index) return static_cast<Enum>(*index);
  fields.refuse(name, "unknown word");
  return {};
}

std::string take_handle(FieldReader& fields) {
  std::string text = fields.text("handle");
  if (text.empty() || text.size() > 64) fields.refuse("handle", "expected a handle", EBADF);
  return text;
}

std::size_t take_max_entries(FieldReader& fields) {
  const std::uint64_t count = fields.number("max_entries");
  if (count == 0 || count > kMaxPageEntries)
    fields.refuse("max_entries", "expected 1 to " + std::to_string(kMaxPageEntries));
  return count;
}

// INVARIANT: flags are a list of known words; anything else is refused.
int take_flags(FieldReader& fields) {
  const json* names = fields.array("flags");
  if (names == nullptr) return 0;
  int bits = 0, access_modes = 0;
  for (const json& name : *names) {
    const FlagName* found = nullptr;
    for (const FlagName& known : kFlags)
      if (name.is_string() && name.get_ref<const std::string&>() == known.name) found = &known;
    if (found == nullptr) return fields.refuse("flags", "unknown flag"), 0;
    if (found < &kFlags[3]) ++access_modes;
    bits |= found->flag;
  }
  if (access_modes != 1)
    fields.refuse("flags", "expected exactly one of read, write, read_write");
  return bits;
}

std::optional<timespec> take_set_time(FieldReader& fields, std::string_view name) {
  const auto parse = [](std::string_view text) -> std::optional<timespec> {
    if (text == "now") return timespec{0, UTIME_NOW};
    return parse_time(text);
  };
  return take_parsed<timespec>(fields, name, parse, "expected \"SECONDS.NNNNNNNNN\" or \"now\"");
}

// ---- attributes -----------------------------------------------------------

void append_attributes(std::string& out, const Attributes& attributes) {
  const auto number = [&](std::string_view key, std::uint64_t value) {
    out += key;
    append_number(out, value);
  };
  out += "{\"identity\":";
  append_identity(out, attributes.identity);
  out += ",\"type\":";
  append_text(out, kTypes[static_cast<std::size_t>(attributes.type)]);
  out += ",\"permissions\":";
  append_permissions(out, attributes.permissions);
  number(",\"links\":", attributes.links);
  number(",\"size\":", attributes.size);
  number(",\"blocks\":", attributes.blocks);
  number(",\"block_size\":", attributes.block_size);
  out += ",\"accessed\":";
  append_time(out, attributes.accessed);
  out += ",\"modified\":";
  append_time(out, attributes.modified);
  out += ",\"changed\":";
  append_time(out, attributes.changed);
  out += '}';
}

Attributes take_attributes(FieldReader& outer) {
  Attributes attributes;
  const json* object = outer.object("attributes");
  if (object == nullptr) return attributes;
  FieldReader fields(*object, "attributes");
  attributes.identity = take_identity(fields, "identity");
  attributes.type = take_name<FileType>(fields, "type", kTypes);
  attributes.permissions = take_permissions(fields, "permissions");
  attributes.links = fields.number("links");
  attributes.size = fields.number("size");
  attributes.blocks = fields.number("blocks");
  attributes.block_size = static_cast<std::uint32_t>(fields.number("block_size"));
  attributes.accessed = take_time(fields, "accessed");
  attributes.modified = take_time(fields, "modified");
  attributes.changed = take_time(fields, "changed");
  if (auto good = fields.finish(); !good) outer.refuse(good.error().field, good.error().what);
  return attributes;
}

// Parses, lets `read` take its fields, and refuses the rest.
template <class T, class Read>
Result<T, WireError> decode(std::string_view text, Read read, JsonLimits limits = {}) {
  FBROKER_TRY(const json object, parse_strict(text, limits));
  FieldReader fields(object);
  T value = read(fields);
  FBROKER_TRY_VOID(fields.finish());
  return value;
}

// What a broker sends is bounded by kMaxPageEntries, not by a request's limit.
constexpr JsonLimits kReplyLimits{.bytes = 16 << 20};

}  // namespace

std::string_view name_of(Lifetime lifetime) noexcept {
  return kLifetimes[static_cast<std::size_t>(lifetime)];
}

std::optional<Lifetime> lifetime_named(std::string_view name) noexcept {
  const auto index = index_of(kLifetimes, name);
  return index ? std::optional(static_cast<Lifetime>(*index)) : std::nullopt;
}

std::string_view name_of(EventKind kind) noexcept {
  return kKinds[static_cast<std::size_t>(kind)];
}

std::string_view name_of(Call call) noexcept { return shape_of(call).name; }

std::optional<Call> call_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kCalls; ++i)
    if (kShapes[i].name == name) return static_cast<Call>(i);
  return std::nullopt;
}

Result<Request, WireError> decode_request(Call call, std::string_view text) {
  const Shape& shape = shape_of(call);
  return decode<Request>(text, [&](FieldReader& fields) {
    Request request;
    // A required field that is missing is met by its take; an optional one is
    // only taken when it is there; what is in neither set nobody takes.
    const auto given = [&](Field field, std::string_view name) {
      if ((shape.required & field) != 0) return true;
      return (shape.optional & field) != 0 && fields.has(name);
    };
    const bool either = (shape.required & path_or_handle) != 0;
    const bool by_handle = either && fields.has("handle");
    if (given(path, "path") || (either && !by_handle)) request.file.path = take_path(fields, "path");
    if (given(handle, "handle") || by_handle) request.handle = take_handle(fields);
    if (given(expect, "expect")) request.file.expect = take_identity(fields, "expect");
    if (given(to, "to")) request.to = take_path(fields, "to");
    if (given(target, "target")) request.target = fields.bytes("target");
    if (given(flags, "flags")) request.flags = take_flags(fields);
    if (given(no_replace, "no_replace")) request.no_replace = fields.boolean("no_replace");
    if (given(data_only, "data_only")) request.data_only = fields.boolean("data_only");
    if (given(permissions, "permissions"))
      request.permissions = take_permissions(fields, "permissions");
    if (given(size, "size")) request.size = fields.number("size");
    if (given(position, "position")) request.position = take_decimal(fields, "position");
    if (given(max_entries, "max_entries")) request.max_entries = take_max_entries(fields);
    if (given(accessed, "accessed")) request.times.accessed = take_set_time(fields, "accessed");
    if (given(modified, "modified")) request.times.modified = take_set_time(fields, "modified");
    return request;
  });
}

void encode_request(std::string& out, Call call, const Request& request) {
  const unsigned has = shape_of(call).required | shape_of(call).optional;
  char separator = '{';
  const auto key = [&](std::string_view name) {
    out += separator;
    out += '"';
    out += name;
    out += "\":";
    separator = ',';
  };
  const auto time = [&](std::string_view name, const std::optional<timespec>& value) {
    if (!value || value->tv_nsec == UTIME_OMIT) return;
    key(name);
    if (value->tv_nsec == UTIME_NOW) return append_text(out, "now");
    append_time(out, *value);
  };
  const bool by_handle = !request.handle.empty() && (has & (handle | path_or_handle)) != 0;
  if (by_handle) key("handle"), append_text(out, request.handle);
  if (!by_handle && (has & (path | path_or_handle)) != 0)
    key("path"), append_bytes(out, request.file.path.bytes());
  if ((has & expect) != 0 && !request.file.expect.any())
    key("expect"), append_identity(out, request.file.expect);
  if ((has & to) != 0) key("to"), append_bytes(out, request.to.bytes());
  if ((has & target) != 0) key("target"), append_bytes(out, request.target);
  if ((has & flags) != 0) key("flags"), append_flags(out, request.flags);
  if (request.no_replace && (has & no_replace) != 0) key("no_replace"), out += "true";
  if (request.data_only && (has & data_only) != 0) key("data_only"), out += "true";
  if ((has & permissions) != 0) key("permissions"), append_permissions(out, request.permissions);
  if ((has & size) != 0) key("size"), append_number(out, request.size);
  if ((has & position) != 0) {
    key("position");
    out += '"';
    append_number(out, request.position);
    out += '"';
  }
  if ((has & max_entries) != 0) key("max_entries"), append_number(out, request.max_entries);
  if ((has & accessed) != 0) time("accessed", request.times.accessed);
  if ((has & modified) != 0) time("modified", request.times.modified);
  out += separator == '{' ? "{}" : "}";
}

std::string handle_text(std::string_view instance, HandleId handle) {
  std::string text(instance);
  text += '-';
  append_number(text, handle);
  return text;
}

Result<HandleId, Errno> parse_handle(std::string_view text, std::string_view instance) {
  const std::size_t dash = text.rfind('-');
  if (dash == text.npos) return Errno{EBADF};
  const auto handle = parse_number<HandleId>(text.substr(dash + 1));
  if (!handle || *handle == 0) return Errno{EBADF};
  if (text.substr(0, dash) != instance) return Errno{ESTALE};
  return *handle;
}

// ---- replies ------------------------------------------------------------

void encode(std::string& out, const Attributes& attributes) {
  out += "{\"attributes\":";
  append_attributes(out, attributes);
  out += '}';
}

namespace {

void append_lifetime(std::string& out, Lifetime lifetime) {
  out += ",\"lifetime\":";
  append_text(out, name_of(lifetime));
}

}  // namespace

void encode(std::string& out, const Lookup& lookup) {
  out += "{\"attributes\":";
  append_attributes(out, *lookup.attributes);
  append_lifetime(out, lookup.lifetime);
  out += '}';
}

void encode(std::string& out, std::string_view handle, const Opened& opened) {
  out += "{\"handle\":";
  append_text(out, handle);
  out += ",\"attributes\":";
  append_attributes(out, opened.attributes);
  append_lifetime(out, opened.lifetime);
  out += '}';
}

void encode_entry(std::string& out, const DirectoryEntry& entry) {
  out += "{\"name\":";
  append_bytes(out, entry.name);
  out += ",\"attributes\":";
  append_attributes(out, entry.attributes);
  out += '}';
}

void encode(std::string& out, const DirectoryPage& page) {
  out += "{\"entries\":[";
  for (std::size_t i = 0; i < page.entries.size(); ++i) {
    if (i > 0) out += ',';
    encode_entry(out, page.entries[i]);
  }
  out += "],\"next\":\"";
  append_number(out, page.next);
  out += page.end ? "\",\"end\":true" : "\",\"end\":false";
  append_lifetime(out, page.lifetime);
  out += '}';
}

void encode(std::string& out, const FileSystemStatus& status) {
  const auto number = [&](std::string_view key, std::uint64_t value) {
    out += key;
    append_number(out, value);
  };
  number("{\"block_size\":", status.block_size);
  number(",\"blocks\":", status.blocks);
  number(",\"blocks_free\":", status.blocks_free);
  number(",\"blocks_available\":", status.blocks_available);
  number(",\"files\":", status.files);
  number(",\"files_free\":", status.files_free);
  number(",\"name_max\":", status.name_max);
  out += '}';
}

void encode_target(std::string& out, std::string_view target) {
  out += "{\"target\":";
  append_bytes(out, target);
  out += '}';
}

void encode_written(std::string& out, std::uint64_t bytes) {
  out += "{\"written\":";
  append_number(out, bytes);
  out += '}';
}

Result<Attributes, WireError> decode_attributes(std::string_view text) {
  return decode<Attributes>(text, take_attributes);
}

Result<Lookup, WireError> decode_lookup(std::string_view text) {
  return decode<Lookup>(text, [](FieldReader& fields) {
    Lookup lookup;
    lookup.attributes = take_attributes(fields);
    lookup.lifetime = take_name<Lifetime>(fields, "lifetime", kLifetimes);
    return lookup;
  });
}

Result<OpenedText, WireError> decode_opened(std::string_view text) {
  return decode<OpenedText>(text, [](FieldReader& fields) {
    OpenedText opened;
    opened.handle = take_handle(fields);
    opened.attributes = take_attributes(fields);
    opened.lifetime = take_name<Lifetime>(fields, "lifetime", kLifetimes);
    return opened;
  });
}

Result<DirectoryPage, WireError> decode_page(std::string_view text) {
  const auto read = [](FieldReader& fields) {
    DirectoryPage page;
    page.next = take_decimal(fields, "next");
    page.end = fields.boolean("end");
    page.lifetime = take_name<Lifetime>(fields, "lifetime", kLifetimes);
    const json* entries = fields.array("entries");
    if (entries == nullptr) return page;
    page.entries.reserve(entries->size());
    for (const json& entry : *entries) {
      FieldReader one(entry, "entries");
      page.entries.push_back({one.bytes("name"), take_attributes(one)});
      if (auto good = one.finish(); !good) fields.refuse(good.error().field, good.error().what);
    }
    return page;
  };
  return decode<DirectoryPage>(text, read, kReplyLimits);
}

Result<FileSystemStatus, WireError> decode_status(std::string_view text) {
  return decode<FileSystemStatus>(text, [](FieldReader& fields) {
    FileSystemStatus status;
    status.block_size = fields.number("block_size");
    status.blocks = fields.number("blocks");
    status.blocks_free = fields.number("blocks_free");
    status.blocks_available = fields.number("blocks_available");
    status.files = fields.number("files");
    status.files_free = fields.number("files_free");
    status.name_max = static_cast<std::uint32_t>(fields.number("name_max"));
    return status;
  });
}

Result<std::string, WireError> decode_target(std::string_view text) {
  return decode<std::string>(text, [](FieldReader& fields) { return fields.bytes("target"); });
}

Result<std::uint64_t, WireError> decode_written(std::string_view text) {
  return decode<std::uint64_t>(text, [](FieldReader& fields) { return fields.number("written"); });
}

// ---- events -----------------------------------------------------------------

void encode_line(std::string& out, const Hello& hello) {
  out += "{\"kind\":\"hello\",\"instance\":";
  append_text(out, hello.instance);
  out += ",\"subscription\":";
  append_text(out, hello.subscription);
  out += ",\"sequence\":";
  append_number(out, hello.sequence);
  out += hello.missed ? ",\"missed\":true}\n" : ",\"missed\":false}\n";
}

void encode_line(std::string& out, const Heartbeat& heartbeat) {
  out += "{\"kind\":\"heartbeat\",\"sequence\":";
  append_number(out, heartbeat.sequence);
  out += "}\n";
}

void encode_line(std::string& out, const Event& event) {
  out += "{\"kind\":";
  append_text(out, name_of(event.kind));
  out += ",\"sequence\":";
  append_number(out, event.sequence);
  out += ",\"path\":";
  append_bytes(out, event.path.bytes());
  if (!event.identity.any()) {
    out += ",\"identity\":";
    append_identity(out, event.identity);
  }
  out += "}\n";
}

Result<EventLine, WireError> decode_line(std::string_view text) {
  return decode<EventLine>(text, [](FieldReader& fields) {
    EventLine line;
    const std::string kind = fields.text("kind");
    const std::uint64_t sequence = fields.number("sequence");
    if (kind == "hello") {
      line.hello = Hello{fields.text("instance"), fields.text("subscription"), sequence,
                         fields.boolean("missed")};
    } else if (kind == "heartbeat") {
      line.heartbeat = Heartbeat{sequence};
    } else if (const auto index = index_of(kKinds, kind)) {
      line.event = Event{sequence, static_cast<EventKind>(*index), take_path(fields, "path"), {}};
      if (fields.has("identity")) line.event->identity = take_identity(fields, "identity");
    } else {
      fields.refuse("kind", "unknown word");
    }
    return line;
  });
}

void encode(std::string& out, const Acknowledgement& acknowledgement) {
  out += "{\"subscription\":";
  append_text(out, acknowledgement.subscription);
  out += ",\"sequence\":";
  append_number(out, acknowledgement.sequence);
  out += '}';
}

Result<Acknowledgement, WireError> decode_acknowledgement(std::string_view text) {
  return decode<Acknowledgement>(text, [](FieldReader& fields) {
    Acknowledgement acknowledgement;
    acknowledgement.subscription = fields.text("subscription");
    acknowledgement.sequence = fields.number("sequence");
    return acknowledgement;
  });
}

Errno decode_problem(std::string_view text) {
  auto problem = parse_strict(text);
  if (!problem || !problem->is_object()) return Errno{EIO};
  const auto name = problem->find("errno");
  if (name == problem->end() || !name->is_string()) return Errno{EIO};
  return errno_named(name->get_ref<const std::string&>()).value_or(Errno{EIO});
}

}  // namespace fbroker::protocol
