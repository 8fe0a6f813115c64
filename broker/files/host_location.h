// HostLocation: where a directory lies in its file system, whatever mounts it
// was reached through. Two names of one place (bind mounts) compare equal.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

namespace fbroker::broker {

struct HostLocation {
  std::string device;   // "major:minor" of the mount, as in mountinfo
  std::string path;     // within that file system, "/" or without '/' at the end

  // What follows `above`, without a leading slash, "" for itself; none when
  // this place is not at or below it.
  std::optional<std::string> below(const HostLocation& above) const;
  // The place called `rest` ("a/b", "" = this one) below this one.
  HostLocation at(const std::string& rest) const;
  // The directory that holds it; "/" of a file system holds itself.
  HostLocation parent() const;

  friend auto operator<=>(const HostLocation&, const HostLocation&) = default;
};

// None: its mount is not to be seen in /proc/self/mountinfo.
std::optional<HostLocation> locate(int fd);

// The name that the kernel has for the open file now, from /proc/self/fd; ""
// when it cannot be had. Ends in " (deleted)" once the name is gone.
std::string kernel_name(int fd);

// `path` seen from the directory `base` (both absolute, without '/' at the
// end), without a leading slash; none when it is not at or below.
std::optional<std::string> path_below(const std::string& path, const std::string& base);

// Whether names that differ in case alone are one file there: then a rule for
// one spelling says nothing of the others. By the kind of file system
// (statfs(2), f_type), and for ext4 and f2fs by the directory's own flag.
bool folds_case(std::int64_t kind) noexcept;
bool folds_case(int directory);

// Kinds that are not known to tell (FUSE, network) are tried out: a name that is
// there, sought in another spelling. Unsaid: there was none to try it with, or
// the directory may not be listed; then each name that is found is tried.
enum class Folding : std::uint8_t { no, yes, unsaid };
Folding folding_of(int directory);
Folding tried_out(int directory);
// Whether `name`, which was found, is only another spelling of what is listed.
bool is_other_spelling(int directory, const std::string& name);

}  // namespace fbroker::broker
