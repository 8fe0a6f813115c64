// Small things about processes that every part of fbroker-init needs.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

namespace fbroker::init {

inline constexpr int kCannotStart = 125;
inline constexpr int kCannotExecute = 126;
inline constexpr int kNotFound = 127;

// errno's words.
std::string last_error();

// Says why on stderr and ends this process with `status`, running nothing else.
[[noreturn]] void die(std::string_view why, int status = kCannotStart) noexcept;

// What a shell says of a wait status: the code, or 128 + the signal.
int exit_status(int wait_status) noexcept;

// Default action for every signal and none blocked, as a program expects.
void reset_signals() noexcept;

// INVARIANT: a program started after this holds stdin, stdout, stderr and the
// given descriptors, and no other.
bool keep_only(std::initializer_list<int> descriptors) noexcept;

// Closes every descriptor but these, for good: for a child that runs no other
// program, where keep_only would close nothing.
bool close_all_but(std::initializer_list<int> descriptors) noexcept;

}  // namespace fbroker::init
