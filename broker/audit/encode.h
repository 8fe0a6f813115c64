// Record -> JSON members. Written by hand, into a buffer that is kept: this
// runs once per file operation, and a DOM would allocate for every member.
//
// And Record -> packed bytes, which is how it lies in the ring: who appends
// copies what it has and no more, the JSON is the writer's work.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "broker/audit/record.h"

namespace fbroker::audit {

using WallTime = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

// Whether all of it is well-formed UTF-8 (no surrogates, no overlong forms).
bool is_utf8(std::string_view bytes) noexcept;

// `"name":"text"`, or `"name":{"b64":"…"}` where `bytes` is not UTF-8. With a
// comma before it unless `out` is empty.
void add_text(std::string& out, std::string_view name, std::string_view bytes);
void add_number(std::string& out, std::string_view name, std::uint64_t number);
// RFC 3339 in UTC with nanoseconds: 2026-01-02T03:04:05.123456789Z
void add_time(std::string& out, std::string_view name, WallTime time);

// Whose process it was is left out of the key by which refusals are equal: the
// client claims it, and a shell's loop has another with each turn.
enum class Members { all, all_but_who };

// Adds the record's members that are not empty, `repeated` excepted.
void add_members(std::string& out, const Record& record, Members members);

// All of a record and its time.
std::size_t packed_size(const Record& record) noexcept;
// Precondition: `out` has room for packed_size(record) bytes; all are written.
void pack(const Record& record, WallTime time, char* out) noexcept;
// Adds time and members of a record that was packed; false: these bytes are none.
bool add_packed_members(std::string& out, std::string_view packed);
// Whose record it is; "" where these bytes are none.
std::string_view session_of_packed(std::string_view packed) noexcept;

}  // namespace fbroker::audit
