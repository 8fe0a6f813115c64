// WorkspacePath: a file's name as the agent sees it, below /workspace.
//
// It stands in base because both sides of the socket speak it; the policy
// engine, the broker and the shims accept no other shape of path.
#pragma once

#include <compare>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "policy/base/result.h"

namespace fbroker {

inline constexpr std::size_t kMaxPathBytes = 4096;       // PATH_MAX, limits.h
inline constexpr std::size_t kMaxComponentBytes = 255;   // NAME_MAX, limits.h

// Invariant: starts with '/', has no "", "." or ".." component, no NUL and no
//   '/' at the end (but for the root itself), at most 4096 bytes, 255 in a
//   component. Bytes, not text: names need not be UTF-8.
// It says nothing about the disk: a component may still be a symlink.
// Threads: a value; const access is safe from any thread.
class WorkspacePath {
 public:
  // The workspace's root, "/".
  WorkspacePath() : bytes_("/") {}

  // The only way in, so code that holds one need not re-check its shape.
  // Errors: EINVAL for a bad shape, ENAMETOOLONG for a bad length.
  static Result<WorkspacePath, Errno> parse(std::string_view bytes) {
    if (bytes.size() > kMaxPathBytes) return Errno{ENAMETOOLONG};
    if (bytes.empty() || bytes.front() != '/') return Errno{EINVAL};
    if (bytes.size() == 1) return WorkspacePath();
    WorkspacePath path;
    path.bytes_.clear();
    for (std::size_t at = 1;;) {
      const std::size_t end = bytes.find('/', at);
      const std::string_view name = bytes.substr(at, end == bytes.npos ? bytes.npos : end - at);
      FBROKER_TRY_VOID(check_component(name));
      if (end == bytes.npos) break;
      at = end + 1;
    }
    path.bytes_ = bytes;
    return path;
  }

  // This path with one more component. Errors as parse.
  Result<WorkspacePath, Errno> child(std::string_view name) const {
    FBROKER_TRY_VOID(check_component(name));
    const std::size_t size = (is_root() ? 0 : bytes_.size()) + 1 + name.size();
    if (size > kMaxPathBytes) return Errno{ENAMETOOLONG};
    WorkspacePath path;
    path.bytes_.reserve(size);
    path.bytes_ = is_root() ? "" : bytes_;
    path.bytes_ += '/';
    path.bytes_ += name;
    return path;
  }

  // The directory that holds it; the root is its own parent.
  WorkspacePath parent() const {
    WorkspacePath path;
    const std::size_t slash = bytes_.rfind('/');
    if (slash != 0) path.bytes_ = bytes_.substr(0, slash);
    return path;
  }

  // The last component, "" for the root.
  std::string_view name() const noexcept {
    return std::string_view(bytes_).substr(bytes_.rfind('/') + 1);
  }

  bool is_root() const noexcept { return bytes_.size() == 1; }

  // Whether it is `at` or lies below it. By component: /a-b is not below /a.
  bool is_at_or_below(const WorkspacePath& at) const noexcept {
    if (at.is_root()) return true;
    return bytes_.starts_with(at.bytes_) &&
           (bytes_.size() == at.bytes_.size() || bytes_[at.bytes_.size()] == '/');
  }

  // What follows `at`, without a leading slash; "." for `at` itself: the form
  // that *at(2) calls take.
  // Precondition: is_at_or_below(at).
  const char* below(const WorkspacePath& at) const noexcept {
    if (bytes_.size() == at.bytes_.size()) return ".";
    return bytes_.c_str() + (at.is_root() ? 1 : at.bytes_.size() + 1);
  }

  // The same file after the directory `from` became `to` (rename).
  // Precondition: is_at_or_below(from).
  Result<WorkspacePath, Errno> moved(const WorkspacePath& from, const WorkspacePath& to) const {
    if (bytes_.size() == from.bytes_.size()) return to;
    return parse((to.is_root() ? "" : to.bytes_) + "/" + below(from));
  }

  const std::string& bytes() const noexcept { return bytes_; }

  friend bool operator==(const WorkspacePath&, const WorkspacePath&) = default;
  friend auto operator<=>(const WorkspacePath&, const WorkspacePath&) = default;

 private:
  static Result<void, Errno> check_component(std::string_view name) noexcept {
    if (name.size() > kMaxComponentBytes) return Errno{ENAMETOOLONG};
    if (name.empty() || name == "." || name == "..") return Errno{EINVAL};
    if (name.find_first_of(std::string_view("/\0", 2)) != name.npos) return Errno{EINVAL};
    return ok;
  }

  std::string bytes_;
};

}  // namespace fbroker

template <>
struct std::hash<fbroker::WorkspacePath> {
  std::size_t operator()(const fbroker::WorkspacePath& path) const noexcept {
    return std::hash<std::string>()(path.bytes());
  }
};
