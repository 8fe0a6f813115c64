// MemoryFiles: the smallest FileService that answers every call, so that a
// fuzzer reaches the HTTP front's code and nothing of the disk.
#pragma once

#include <algorithm>
#include <cstring>

#include "broker/protocol/file_service.h"

namespace fbroker::test {

// One file of `kSize` bytes under every name but "/none"; handles 1 to 3.
// Threads: all members, any thread; it has no state.
class MemoryFiles final : public protocol::FileService {
 public:
  using Caller = protocol::Caller;
  using Path = WorkspacePath;
  using Ref = protocol::FileRef;
  template <class T>
  using Answer = Result<T, Errno>;
  static constexpr std::uint64_t kSize = 100'000;

  Answer<protocol::Lookup> lookup(const Caller&, const Path& path) override {
    if (path.bytes() == "/none") return protocol::Lookup{};
    return found();
  }
  Answer<protocol::Attributes> stat(const Caller&, const Ref& ref) override {
    if (ref.handle > 3) return Errno{EBADF};
    return attributes();
  }
  Answer<std::string> readlink(const Caller&, const Ref&) override { return std::string("a\xff"); }
  Answer<protocol::Opened> open(const Caller&, const Ref& ref, int flags, std::uint32_t) override {
    if (!protocol::open_flags_known(flags)) return Errno{EINVAL};
    if (ref.path.bytes() == "/none") return Errno{ENOENT};
    return protocol::Opened{1, attributes(), protocol::Lifetime::until_told};
  }
  Answer<std::size_t> read(const Caller&, protocol::HandleId handle, std::uint64_t offset,
                           std::span<std::byte> into) override {
    if (handle > 3) return Errno{EBADF};
    if (offset >= kSize) return std::size_t{0};
    const std::size_t size = std::min<std::uint64_t>(into.size(), kSize - offset);
    std::fill_n(into.begin(), size, std::byte{'x'});
    return size;
  }
  Answer<std::size_t> write(const Caller&, protocol::HandleId handle, protocol::WriteAt,
                            std::span<const std::byte> data) override {
    if (handle > 3) return Errno{EBADF};
    return data.size();
  }
  Answer<void> fsync(const Caller&, protocol::HandleId, bool) override { return ok; }
  Answer<protocol::Opened> open_directory(const Caller&, const Ref&) override {
    return protocol::Opened{2, attributes(), protocol::Lifetime::none};
  }
  Answer<protocol::DirectoryPage> read_directory(const Caller&, protocol::HandleId handle,
                                                 std::uint64_t position, std::size_t max) override {
    if (handle > 3) return Errno{EBADF};
    protocol::DirectoryPage page;
    for (; position < 10 && page.entries.size() < max; ++position)
      page.entries.push_back({"name\n" + std::to_string(position), attributes()});
    page.next = position;
    page.end = position >= 10;
    return page;
  }
  void close(const Caller&, protocol::HandleId) override {}
  Answer<protocol::Lookup> mkdir(const Caller&, const Path&, std::uint32_t) override { return found(); }
  Answer<protocol::Lookup> symlink(const Caller&, std::string_view, const Path&) override {
    return found();
  }
  Answer<protocol::Lookup> link(const Caller&, const Ref&, const Path&) override { return found(); }
  Answer<void> unlink(const Caller&, const Path&) override { return ok; }
  Answer<void> rmdir(const Caller&, const Path&) override { return Errno{ENOTEMPTY}; }
  Answer<void> rename(const Caller&, const Path&, const Path&, unsigned) override {
    return Errno{EXDEV};
  }
  Answer<protocol::Attributes> truncate(const Caller&, const Ref&, std::uint64_t) override {
    return attributes();
  }
  Answer<protocol::Attributes> chmod(const Caller&, const Ref&, std::uint32_t) override {
    return attributes();
  }
  Answer<protocol::Attributes> utimens(const Caller&, const Ref&, const protocol::SetTimes&) override {
    return attributes();
  }
  Answer<protocol::FileSystemStatus> statfs(const Caller&, const Path&) override {
    return protocol::FileSystemStatus{};
  }

 private:
  static protocol::Attributes attributes() {
    protocol::Attributes made;
    made.identity = {1, 2, 3};
    made.size = kSize;
    return made;
  }
  static protocol::Lookup found() { return {attributes(), protocol::Lifetime::one_second}; }
};

}  // namespace fbroker::test
