// Result<T, E>: a value or the reason why there is none.
//
// The part of std::expected (C++23) that we use, under the same names, so that
// it can be replaced by that type later. Unlike it, [[nodiscard]] as a type:
// an error that nobody looks at does not compile.
//
// Two kinds of E:
//   Errno  on the file path. One integer; what the agent's syscall will see.
//   Error  (the default) for texts, options and start-up: a place and words.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "policy/base/errno.h"

namespace fbroker {

// What went wrong, for a person. `what` says what was found and expected, and
// where possible the cure; `where` is a file, a field or an option ("" = none).
struct Error {
  std::string where;
  std::string what;

  std::string text() const { return where.empty() ? what : where + ": " + what; }
};

template <class E>
struct Unexpected {
  E error;
};
template <class E>
Unexpected(E) -> Unexpected<E>;

template <class T, class E = Error>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  using error_type = E;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(E error) : state_(std::in_place_index<1>, std::move(error)) {}
  template <class G>
    requires std::is_constructible_v<E, G>
  Result(Unexpected<G> u) : state_(std::in_place_index<1>, E(std::move(u.error))) {}

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  // Precondition: has_value().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T value_or(T other) const& { return has_value() ? value() : std::move(other); }

  // Precondition: !has_value().
  E& error() & { return std::get<1>(state_); }
  const E& error() const& { return std::get<1>(state_); }

 private:
  std::variant<T, E> state_;
};

template <class E>
class [[nodiscard]] Result<void, E> {
 public:
  using value_type = void;
  using error_type = E;

  Result() = default;
  Result(E error) : error_(std::move(error)) {}
  template <class G>
    requires std::is_constructible_v<E, G>
  Result(Unexpected<G> u) : error_(E(std::move(u.error))) {}

  bool has_value() const noexcept { return !error_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }
  void value() const { assert(has_value()); }
  E& error() & { return assert(error_), *error_; }
  const E& error() const& { return assert(error_), *error_; }

 private:
  std::optional<E> error_;
};

// "Nothing to return, and it worked", readable at the end of a function.
inline constexpr struct Ok {
  template <class E>
  operator Result<void, E>() const {
    return {};
  }
} ok;

}  // namespace fbroker

#define FBROKER_CONCAT_(a, b) a##b
#define FBROKER_CONCAT(a, b) FBROKER_CONCAT_(a, b)

// FBROKER_TRY(auto x, f()): declares x with f's value, or returns f's error.
#define FBROKER_TRY(declaration, expression) \
  FBROKER_TRY_IMPL(FBROKER_CONCAT(fbroker_result_, __LINE__), declaration, expression)
#define FBROKER_TRY_IMPL(name, declaration, expression)          \
  auto name = (expression);                                      \
  if (!name) return ::fbroker::Unexpected{std::move(name.error())}; \
  declaration = std::move(name).value()

// FBROKER_TRY_VOID(f()): returns f's error, if there is one.
#define FBROKER_TRY_VOID(expression)                                                   \
  do {                                                                                 \
    if (auto fbroker_result = (expression); !fbroker_result)                           \
      return ::fbroker::Unexpected{std::move(fbroker_result.error())};                 \
  } while (false)
