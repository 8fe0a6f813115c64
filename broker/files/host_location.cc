#include "broker/files/host_location.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <climits>
#include <fstream>
#include <limits>
#include <memory>
#include <set>
#include <sstream>

#include "broker/files/descriptor_name.h"
#include "broker/files/file_stat.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

namespace {

// mountinfo writes blank, tab, newline and backslash as \ooo (proc(5)).
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\\' && at + 3 < text.size()) {
      plain += static_cast<char>((text[at + 1] - '0') * 64 + (text[at + 2] - '0') * 8 +
                                 (text[at + 3] - '0'));
      at += 3;
    } else {
      plain += text[at];
    }
  }
  return plain;
}

std::string joined(const std::string& base, const std::string& rest) {
  if (rest.empty()) return base;
  return (base == "/" ? "" : base) + "/" + rest;
}

}  // namespace

std::optional<std::string> path_below(const std::string& path, const std::string& base) {
  if (path == base) return "";
  const std::string prefix = base == "/" ? base : base + "/";
  if (!path.starts_with(prefix)) return std::nullopt;
  return path.substr(prefix.size());
}

std::optional<std::string> HostLocation::below(const HostLocation& above) const {
  if (device != above.device) return std::nullopt;
  return path_below(path, above.path);
}

HostLocation HostLocation::at(const std::string& rest) const { return {device, joined(path, rest)}; }

HostLocation HostLocation::parent() const {
  const std::size_t slash = path.rfind('/');
  return {device, slash == std::string::npos || slash == 0 ? "/" : path.substr(0, slash)};
}

std::string kernel_name(int fd) {
  std::array<char, PATH_MAX + 16> name{};
  const DescriptorName link(fd);
  const ssize_t size = ::readlinkat(link.directory(), link.name(), name.data(), name.size());
  // A name that fills the buffer may be cut off: better none.
  if (size <= 0 || static_cast<std::size_t>(size) == name.size()) return "";
  return std::string(name.data(), static_cast<std::size_t>(size));
}

std::optional<HostLocation> locate(int fd) {
  const auto stat = stat_of(fd);
  if (!stat) return std::nullopt;
  const std::string name = kernel_name(fd);
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::uint64_t id = 0, parent = 0;
    std::string device, root, at;
    if (!(fields >> id >> parent >> device >> root >> at) || id != stat->mount) continue;
    const auto rest = path_below(name, unescaped(at));
    if (!rest) return std::nullopt;
    return HostLocation{device, joined(unescaped(root), *rest)};
  }
  return std::nullopt;
}

bool folds_case(std::int64_t kind) noexcept {
  constexpr std::array<std::int64_t, 9> kFolding{
      0x4d44,      // vfat, msdos
      0x2011bab0,  // exfat
      0x5346544e,  // ntfs
      0x7366746e,  // ntfs3
      0x4244,      // hfs
      0x482b,      // hfs+
      0x517b,      // smbfs
      0xff534d42,  // cifs
      0xfe534d42,  // smb2
  };
  return std::find(kFolding.begin(), kFolding.end(), kind & 0xffffffff) != kFolding.end();
}

namespace {

std::string in_other_case(std::string name) {
  for (char& c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalpha(byte) != 0) c = static_cast<char>(byte ^ 0x20);
  }
  return name;
}

// Names in the directory, `most` at most; none: it cannot be listed.
std::optional<std::set<std::string>> listing(int directory, std::size_t most) {
  UniqueFd fd(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fd ? ::fdopendir(fd.get()) : nullptr, &::closedir);
  if (!stream) return std::nullopt;
  (void)fd.release();
  std::set<std::string> names;
  while (const dirent* entry = names.size() < most ? ::readdir(stream.get()) : nullptr) names.emplace(entry->d_name);
  return names;
}

bool is_there(int directory, const std::string& name) { return stat_at(directory, name.c_str()).has_value(); }

}  // namespace

Folding tried_out(int directory) {
  constexpr std::size_t kMost = 10'000;
  const auto names = listing(directory, kMost);
  if (!names) return Folding::unsaid;
  for (const std::string& name : *names) {
    const std::string other = in_other_case(name);
    if (other == name || names->contains(other)) continue;
    // Where not all was listed, it may be a name of its own.
    if (is_there(directory, other)) return names->size() < kMost ? Folding::yes : Folding::unsaid;
    if (is_there(directory, name)) return Folding::no;
  }
  return Folding::unsaid;
}

bool is_other_spelling(int directory, const std::string& name) {
  const std::string other = in_other_case(name);
  if (other == name || !is_there(directory, other)) return false;
  const auto names = listing(directory, std::numeric_limits<std::size_t>::max());
  return !names || !names->contains(name);
}

bool folds_case(int directory) { return folding_of(directory) == Folding::yes; }

Folding folding_of(int directory) {
  constexpr std::array<std::int64_t, 8> kSaid{
      0xef53,      // ext2, ext3, ext4
      0x58465342,  // xfs
      0x9123683e,  // btrfs
      0x01021994,  // tmpfs
      0xf2f52010,  // f2fs
      0x794c7630,  // overlayfs
      0x73717368,  // squashfs
      0xe0f5e1e2,  // erofs
  };
  struct statfs status {};
  if (::fstatfs(directory, &status) != 0) return Folding::yes;
  const std::int64_t kind{status.f_type};
  if (folds_case(kind)) return Folding::yes;
  const UniqueFd fd(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  int flags = 0;
  if (fd && ::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_CASEFOLD_FL) != 0)
    return Folding::yes;
  const bool said = std::find(kSaid.begin(), kSaid.end(), kind & 0xffffffff) != kSaid.end();
  // ATTACK: a casefold directory of the person's, chmod'ed so that it cannot be asked.
  return fd && said ? Folding::no : tried_out(directory);
}

}  // namespace fbroker::broker
