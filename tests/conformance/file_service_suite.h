// The semantics of files that every FileService must have, whatever carries it.
//
// A harness gives a service over an empty directory in which everything is
// allowed, and the host's path of that directory:
//
//   struct MyHarness {
//     protocol::FileService& service();
//     std::string host();          // absolute path of the exported directory
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(OverX, FileServiceSuite, MyHarness);
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "broker/protocol/file_service.h"

namespace fbroker::test {

template <class Harness>
class FileServiceSuite : public testing::Test {
 protected:
  using Handle = protocol::HandleId;

  static WorkspacePath at(std::string_view bytes) {
    auto path = WorkspacePath::parse(bytes);
    if (!path) std::abort();
    return *path;
  }
  template <class T>
  static int error_of(const Result<T, Errno>& result) {
    return result ? 0 : result.error().value;
  }
  protocol::FileService& service() { return harness_.service(); }
  std::string host(std::string_view below) { return harness_.host() + std::string(below); }

  Result<Handle, Errno> open(std::string_view path, int flags, std::uint32_t mode = 0644) {
    auto opened = service().open(caller_, {at(path), {}, 0}, flags, mode);
    if (!opened) return opened.error();
    return opened->handle;
  }
  Result<std::size_t, Errno> write(Handle handle, std::string_view data, protocol::WriteAt where) {
    return service().write(caller_, handle, where, std::as_bytes(std::span(data)));
  }
  Result<std::string, Errno> read(Handle handle, std::size_t size, std::uint64_t offset) {
    std::string into(size, '\0');
    auto count = service().read(caller_, handle, offset, std::as_writable_bytes(std::span(into)));
    if (!count) return count.error();
    into.resize(*count);
    return into;
  }
  void make(std::string_view path, std::string_view content) {
    const auto handle = open(path, O_CREAT | O_TRUNC | O_WRONLY);
    ASSERT_TRUE(handle) << path << ": errno " << handle.error().value;
    ASSERT_EQ(write(*handle, content, {}).value_or(0), content.size());
    service().close(caller_, *handle);
  }
  std::string content(std::string_view path) {
    const auto handle = open(path, O_RDONLY);
    if (!handle) return "errno " + std::to_string(handle.error().value);
    auto text = read(*handle, 1 << 20, 0);
    service().close(caller_, *handle);
    return text ? *text : "errno " + std::to_string(text.error().value);
  }
  std::string host_content(std::string_view path) {
    std::ifstream in(host(path), std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  bool exists(std::string_view path) {
    const auto found = service().lookup(caller_, at(path));
    return found && found->attributes;
  }
  protocol::Attributes stat(std::string_view path) {
    const auto found = service().stat(caller_, {at(path), {}, 0});
    EXPECT_TRUE(found) << path;
    return found ? *found : protocol::Attributes{};
  }
  std::vector<std::string> list(std::string_view path, std::size_t page_size = 100) {
    const auto opened = service().open_directory(caller_, {at(path), {}, 0});
    if (!opened) return {"errno " + std::to_string(opened.error().value)};
    std::vector<std::string> names;
    for (std::uint64_t position = 0;;) {
      const auto page = service().read_directory(caller_, opened->handle, position, page_size);
      if (!page) return {"errno " + std::to_string(page.error().value)};
      for (const auto& entry : page->entries) names.push_back(entry.name);
      if (page->end) break;
      if (page->next == position) return {"does not go on"};
      position = page->next;
    }
    service().close(caller_, opened->handle);
    std::sort(names.begin(), names.end());
    return names;
  }

  Harness harness_;
  protocol::Caller caller_{.pid = 42};
};

TYPED_TEST_SUITE_P(FileServiceSuite);

TYPED_TEST_P(FileServiceSuite, WhatIsWrittenIsReadAndLiesOnTheHost) {
  this->make("/a.txt", "hello");
  EXPECT_EQ(this->content("/a.txt"), "hello");
  EXPECT_EQ(this->host_content("/a.txt"), "hello");
}

TYPED_TEST_P(FileServiceSuite, AMissingNameIsFoundToBeMissing) {
  const auto found = this->service().lookup(this->caller_, this->at("/none"));
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->attributes);
  EXPECT_EQ(this->error_of(this->service().stat(this->caller_, {this->at("/none"), {}, 0})), ENOENT);
  EXPECT_EQ(this->error_of(this->open("/none", O_RDONLY)), ENOENT);
  EXPECT_EQ(this->error_of(this->open("/none/below", O_RDONLY)), ENOENT);
}

TYPED_TEST_P(FileServiceSuite, AFileInTheMiddleOfAPathIsNoDirectory) {
  this->make("/file", "x");
  EXPECT_EQ(this->error_of(this->service().lookup(this->caller_, this->at("/file/below"))), ENOTDIR);
  EXPECT_EQ(this->error_of(this->open("/file/below", O_RDONLY)), ENOTDIR);
}

TYPED_TEST_P(FileServiceSuite, ExclusiveCreationFailsWhereThereIsAFile) {
  ASSERT_TRUE(this->open("/once", O_CREAT | O_EXCL | O_WRONLY));
  EXPECT_EQ(this->error_of(this->open("/once", O_CREAT | O_EXCL | O_WRONLY)), EEXIST);
  EXPECT_TRUE(this->open("/once", O_CREAT | O_WRONLY));
}

TYPED_TEST_P(FileServiceSuite, UnknownOpenFlagsAreRefused) {
  this->make("/f", "x");
  EXPECT_EQ(this->error_of(this->open("/f", O_PATH)), EINVAL);
  EXPECT_EQ(this->error_of(this->open("/f", O_TMPFILE | O_WRONLY)), EINVAL);
  EXPECT_EQ(this->error_of(this->open("/f", O_ACCMODE)), EINVAL);
  EXPECT_EQ(this->error_of(this->open("/f", O_ASYNC)), EINVAL);
}

TYPED_TEST_P(FileServiceSuite, TruncatingOnOpenEmptiesTheFile) {
  this->make("/t", "content");
  const auto handle = this->open("/t", O_WRONLY | O_TRUNC);
  ASSERT_TRUE(handle);
  EXPECT_EQ(this->stat("/t").size, 0u);
}

TYPED_TEST_P(FileServiceSuite, AppendingIgnoresTheOffset) {
  this->make("/log", "one\n");
  const auto handle = this->open("/log", O_WRONLY | O_APPEND);
  ASSERT_TRUE(handle);
  EXPECT_EQ(this->write(*handle, "two\n", {.offset = 0, .append = true}).value_or(0), 4u);
  EXPECT_EQ(this->content("/log"), "one\ntwo\n");
}

TYPED_TEST_P(FileServiceSuite, ConcurrentAppendsLoseNothing) {
  this->make("/log", "");
  constexpr int kThreads = 4, kLines = 100;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([this] {
      const auto handle = this->open("/log", O_WRONLY | O_APPEND);
      ASSERT_TRUE(handle);
      for (int line = 0; line < kLines; ++line)
        EXPECT_TRUE(this->write(*handle, "12345678\n", {.append = true}));
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(this->stat("/log").size, 9u * kThreads * kLines);
}

TYPED_TEST_P(FileServiceSuite, WritesLandWhereTheyAreSent) {
  this->make("/f", "0123456789");
  const auto handle = this->open("/f", O_RDWR);
  ASSERT_TRUE(handle);
  EXPECT_TRUE(this->write(*handle, "ab", {.offset = 3}));
  EXPECT_EQ(this->read(*handle, 4, 2).value_or(""), "2ab5");
  EXPECT_TRUE(this->write(*handle, "end", {.offset = 20}));
  EXPECT_EQ(this->stat("/f").size, 23u);
  EXPECT_EQ(this->read(*handle, 10, 100).value_or("?"), "");
}

TYPED_TEST_P(FileServiceSuite, AHandleDoesOnlyWhatItWasOpenedFor) {
  this->make("/f", "x");
  const auto reader = this->open("/f", O_RDONLY);
  const auto writer = this->open("/f", O_WRONLY);
  ASSERT_TRUE(reader && writer);
  EXPECT_EQ(this->error_of(this->write(*reader, "y", {})), EBADF);
  EXPECT_EQ(this->error_of(this->read(*writer, 1, 0)), EBADF);
}

TYPED_TEST_P(FileServiceSuite, AClosedOrInventedHandleIsNone) {
  this->make("/f", "x");
  const auto handle = this->open("/f", O_RDONLY);
  ASSERT_TRUE(handle);
  this->service().close(this->caller_, *handle);
  EXPECT_EQ(this->error_of(this->read(*handle, 1, 0)), EBADF);
  EXPECT_EQ(this->error_of(this->read(*handle + 1, 1, 0)), EBADF);
  EXPECT_EQ(this->error_of(this->read(1, 1, 0)), EBADF);
}

TYPED_TEST_P(FileServiceSuite, DirectoriesAreMadeListedAndRemoved) {
  ASSERT_TRUE(this->service().mkdir(this->caller_, this->at("/d"), 0755));
  EXPECT_EQ(this->error_of(this->service().mkdir(this->caller_, this->at("/d"), 0755)), EEXIST);
  this->make("/d/x", "");
  EXPECT_EQ(this->list("/d"), std::vector<std::string>{"x"});
  EXPECT_EQ(this->error_of(this->service().rmdir(this->caller_, this->at("/d"))), ENOTEMPTY);
  EXPECT_EQ(this->error_of(this->service().unlink(this->caller_, this->at("/d"))), EISDIR);
  EXPECT_EQ(this->error_of(this->service().rmdir(this->caller_, this->at("/d/x"))), ENOTDIR);
  EXPECT_TRUE(this->service().unlink(this->caller_, this->at("/d/x")));
  EXPECT_TRUE(this->service().rmdir(this->caller_, this->at("/d")));
  EXPECT_FALSE(this->exists("/d"));
}

TYPED_TEST_P(FileServiceSuite, PagesOfAListingTogetherAreTheWholeOnce) {
  for (int file = 0; file < 57; ++file) this->make("/f" + std::to_string(file), "");
  for (const std::size_t page : {1u, 7u, 57u, 1000u}) {
    const auto names = this->list("/", page);
    EXPECT_EQ(names.size(), 57u) << "pages of " << page;
    EXPECT_EQ(std::set(names.begin(), names.end()).size(), 57u) << "pages of " << page;
  }
}

TYPED_TEST_P(FileServiceSuite, APageCarriesTheAttributesThatStatGives) {
  this->make("/f", "four");
  const auto opened = this->service().open_directory(this->caller_, {this->at("/"), {}, 0});
  ASSERT_TRUE(opened);
  const auto page = this->service().read_directory(this->caller_, opened->handle, 0, 10);
  ASSERT_TRUE(page);
  ASSERT_EQ(page->entries.size(), 1u);
  EXPECT_EQ(page->entries[0].attributes.size, 4u);
  EXPECT_EQ(page->entries[0].attributes.identity, this->stat("/f").identity);
}

TYPED_TEST_P(FileServiceSuite, OpeningTheWrongTypeFails) {
  ASSERT_TRUE(this->service().mkdir(this->caller_, this->at("/d"), 0755));
  this->make("/f", "");
  EXPECT_EQ(this->error_of(this->open("/d", O_RDONLY)), EISDIR);
  EXPECT_EQ(this->error_of(this->service().open_directory(this->caller_, {this->at("/f"), {}, 0})),
            ENOTDIR);
}

TYPED_TEST_P(FileServiceSuite, RenameReplacesAndNoReplaceDoesNot) {
  this->make("/a", "a");
  this->make("/b", "b");
  EXPECT_EQ(this->error_of(this->service().rename(this->caller_, this->at("/a"), this->at("/b"),
                                                  RENAME_NOREPLACE)), EEXIST);
  EXPECT_TRUE(this->service().rename(this->caller_, this->at("/a"), this->at("/b"), 0));
  EXPECT_FALSE(this->exists("/a"));
  EXPECT_EQ(this->content("/b"), "a");
  EXPECT_EQ(this->error_of(this->service().rename(this->caller_, this->at("/a"), this->at("/c"), 0)),
            ENOENT);
  EXPECT_EQ(this->error_of(this->service().rename(this->caller_, this->at("/b"), this->at("/c"),
                                                  RENAME_EXCHANGE)), EINVAL);
}

TYPED_TEST_P(FileServiceSuite, AHandleFollowsARenameOfItsDirectory) {
  ASSERT_TRUE(this->service().mkdir(this->caller_, this->at("/d"), 0755));
  this->make("/d/f", "text");
  const auto handle = this->open("/d/f", O_RDWR);
  ASSERT_TRUE(handle);
  ASSERT_TRUE(this->service().rename(this->caller_, this->at("/d"), this->at("/e"), 0));
  EXPECT_EQ(this->read(*handle, 10, 0).value_or(""), "text");
  EXPECT_TRUE(this->write(*handle, "TEXT", {}));
  EXPECT_EQ(this->content("/e/f"), "TEXT");
}

TYPED_TEST_P(FileServiceSuite, ADirectoryDoesNotGoBelowItself) {
  ASSERT_TRUE(this->service().mkdir(this->caller_, this->at("/d"), 0755));
  EXPECT_EQ(this->error_of(this->service().rename(this->caller_, this->at("/d"), this->at("/d/e"), 0)),
            EINVAL);
}

TYPED_TEST_P(FileServiceSuite, AnUnlinkedFileLivesWhileItIsOpen) {
  this->make("/f", "still here");
  const auto handle = this->open("/f", O_RDWR);
  ASSERT_TRUE(handle);
  ASSERT_TRUE(this->service().unlink(this->caller_, this->at("/f")));
  EXPECT_EQ(this->read(*handle, 100, 0).value_or(""), "still here");
  EXPECT_TRUE(this->write(*handle, "S", {}));
  const auto attributes = this->service().stat(this->caller_, {{}, {}, *handle});
  ASSERT_TRUE(attributes);
  EXPECT_EQ(attributes->links, 0u);
}

TYPED_TEST_P(FileServiceSuite, RenameOverAnOpenFileLeavesItsReaderTheOldContent) {
  this->make("/f", "old");
  this->make("/new", "new");
  const auto handle = this->open("/f", O_RDONLY);
  ASSERT_TRUE(handle);
  ASSERT_TRUE(this->service().rename(this->caller_, this->at("/new"), this->at("/f"), 0));
  EXPECT_EQ(this->read(*handle, 10, 0).value_or(""), "old");
  EXPECT_EQ(this->content("/f"), "new");
}

TYPED_TEST_P(FileServiceSuite, HardLinksAreOneFile) {
  this->make("/a", "x");
  const auto linked = this->service().link(this->caller_, {this->at("/a"), {}, 0}, this->at("/b"));
  ASSERT_TRUE(linked);
  ASSERT_TRUE(linked->attributes);
  EXPECT_EQ(linked->attributes->links, 2u);
  EXPECT_EQ(linked->attributes->identity, this->stat("/a").identity);
  EXPECT_EQ(this->error_of(this->service().link(this->caller_, {this->at("/a"), {}, 0},
                                                this->at("/b"))), EEXIST);
  ASSERT_TRUE(this->service().mkdir(this->caller_, this->at("/d"), 0755));
  EXPECT_EQ(this->error_of(this->service().link(this->caller_, {this->at("/d"), {}, 0},
                                                this->at("/e"))), EPERM);
}

TYPED_TEST_P(FileServiceSuite, LinksAreShownAndNeverFollowed) {
  ASSERT_TRUE(this->service().mkdir(this->caller_, this->at("/d"), 0755));
  this->make("/d/f", "x");
  ASSERT_TRUE(this->service().symlink(this->caller_, "d", this->at("/l")));
  EXPECT_EQ(this->service().readlink(this->caller_, {this->at("/l"), {}, 0}).value_or(""), "d");
  EXPECT_EQ(this->stat("/l").type, protocol::FileType::symlink);
  EXPECT_EQ(this->error_of(this->open("/l", O_RDONLY)), ELOOP);
  EXPECT_EQ(this->error_of(this->open("/l/f", O_RDONLY)), ELOOP);
  EXPECT_EQ(this->error_of(this->service().readlink(this->caller_, {this->at("/d"), {}, 0})), EINVAL);
}

TYPED_TEST_P(FileServiceSuite, LinksThatLeaveAreNotMade) {
  ASSERT_TRUE(this->service().mkdir(this->caller_, this->at("/d"), 0755));
  for (const char* target : {"/etc/passwd", "..", "../x", "d/../x", "d/../../x"})
    EXPECT_EQ(this->error_of(this->service().symlink(this->caller_, target, this->at("/l"))), EPERM)
        << target;
  EXPECT_TRUE(this->service().symlink(this->caller_, "../x", this->at("/d/l")));
  EXPECT_EQ(this->error_of(this->service().symlink(this->caller_, "../../x", this->at("/d/m"))), EPERM);
}

TYPED_TEST_P(FileServiceSuite, AnotherFileThanExpectedIsStale) {
  this->make("/f", "x");
  const auto was = this->stat("/f").identity;
  this->make("/g", "y");
  ASSERT_TRUE(this->service().rename(this->caller_, this->at("/g"), this->at("/f"), 0));
  EXPECT_EQ(this->error_of(this->service().open(this->caller_, {this->at("/f"), was, 0}, O_RDONLY, 0)),
            ESTALE);
  EXPECT_EQ(this->error_of(this->service().stat(this->caller_, {this->at("/f"), was, 0})), ESTALE);
  EXPECT_TRUE(this->service().open(this->caller_, {this->at("/f"), this->stat("/f").identity, 0},
                                   O_RDONLY, 0));
}

TYPED_TEST_P(FileServiceSuite, TruncateSetsTheSize) {
  this->make("/f", "0123456789");
  const auto shorter = this->service().truncate(this->caller_, {this->at("/f"), {}, 0}, 4);
  ASSERT_TRUE(shorter);
  EXPECT_EQ(shorter->size, 4u);
  EXPECT_EQ(this->content("/f"), "0123");
  const auto handle = this->open("/f", O_RDWR);
  ASSERT_TRUE(handle);
  EXPECT_TRUE(this->service().truncate(this->caller_, {{}, {}, *handle}, 8));
  EXPECT_EQ(this->stat("/f").size, 8u);
}

TYPED_TEST_P(FileServiceSuite, TimesAreSetToTheNanosecond) {
  this->make("/f", "x");
  const timespec stamp{.tv_sec = 1'600'000'000, .tv_nsec = 123'456'789};
  const auto set = this->service().utimens(this->caller_, {this->at("/f"), {}, 0},
                                           {.accessed = std::nullopt, .modified = stamp});
  ASSERT_TRUE(set);
  EXPECT_EQ(set->modified.tv_sec, stamp.tv_sec);
  EXPECT_EQ(set->modified.tv_nsec, stamp.tv_nsec);
  EXPECT_EQ(this->stat("/f").modified.tv_nsec, stamp.tv_nsec);
}

TYPED_TEST_P(FileServiceSuite, PermissionsAreThoseAskedForWithoutSetId) {
  ASSERT_TRUE(this->open("/f", O_CREAT | O_WRONLY, 0640));
  EXPECT_EQ(this->stat("/f").permissions, 0640u);
  const auto changed = this->service().chmod(this->caller_, {this->at("/f"), {}, 0}, 06755);
  ASSERT_TRUE(changed);
  EXPECT_EQ(changed->permissions, 0755u);
  struct stat on_host {};
  ASSERT_EQ(::stat(this->host("/f").c_str(), &on_host), 0);
  EXPECT_EQ(on_host.st_mode & 07777u, 0755u);
}

TYPED_TEST_P(FileServiceSuite, SyncAndStatfsWork) {
  this->make("/f", "x");
  const auto handle = this->open("/f", O_WRONLY);
  ASSERT_TRUE(handle);
  EXPECT_TRUE(this->service().fsync(this->caller_, *handle, true));
  EXPECT_TRUE(this->service().fsync(this->caller_, *handle, false));
  const auto status = this->service().statfs(this->caller_, this->at("/"));
  ASSERT_TRUE(status);
  EXPECT_GT(status->block_size, 0u);
}

TYPED_TEST_P(FileServiceSuite, NamesMayHoldEveryByte) {
  std::vector<std::string> expected;
  for (int byte = 1; byte < 256; ++byte) {
    if (byte == '/') continue;
    const std::string name = std::string("n") + static_cast<char>(byte);
    this->make("/" + name, name);
    expected.push_back(name);
  }
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(this->list("/"), expected);
  for (const std::string& name : expected) EXPECT_EQ(this->content("/" + name), name);
}

REGISTER_TYPED_TEST_SUITE_P(
    FileServiceSuite, WhatIsWrittenIsReadAndLiesOnTheHost, AMissingNameIsFoundToBeMissing,
    AFileInTheMiddleOfAPathIsNoDirectory, ExclusiveCreationFailsWhereThereIsAFile,
    UnknownOpenFlagsAreRefused, TruncatingOnOpenEmptiesTheFile, AppendingIgnoresTheOffset,
    ConcurrentAppendsLoseNothing, WritesLandWhereTheyAreSent, AHandleDoesOnlyWhatItWasOpenedFor,
    AClosedOrInventedHandleIsNone, DirectoriesAreMadeListedAndRemoved,
    PagesOfAListingTogetherAreTheWholeOnce, APageCarriesTheAttributesThatStatGives,
    OpeningTheWrongTypeFails, RenameReplacesAndNoReplaceDoesNot,
    AHandleFollowsARenameOfItsDirectory, ADirectoryDoesNotGoBelowItself,
    AnUnlinkedFileLivesWhileItIsOpen, RenameOverAnOpenFileLeavesItsReaderTheOldContent,
    HardLinksAreOneFile, LinksAreShownAndNeverFollowed, LinksThatLeaveAreNotMade,
    AnotherFileThanExpectedIsStale, TruncateSetsTheSize, TimesAreSetToTheNanosecond,
    PermissionsAreThoseAskedForWithoutSetId, SyncAndStatfsWork, NamesMayHoldEveryByte);

}  // namespace fbroker::test
