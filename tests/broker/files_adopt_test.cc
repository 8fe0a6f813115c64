// What a former broker had open becomes a handle again: with no right that an
// open of its last name would not give now.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "broker/handles/handle_table.h"
#include "tests/broker/files_session.h"

namespace fbroker::test {
namespace {

constexpr std::string_view kDetail = "kept over a restart";

// An open file as the keeper has it, with what the session knew of it.
struct KeptFile {
  protocol::FileRef last_name;
  UniqueFd fd;
};

UniqueFd duplicate(int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

class FilesAdopt : public testing::Test {
 protected:
  // Opens it, keeps its descriptor, and is then gone.
  KeptFile kept(std::string_view path, int flags = O_RDWR, bool unlinked = true) {
    const auto opened = s.service->open(s.caller, {at(path), {}, 0}, flags | O_CREAT, 0644);
    if (!opened) {
      ADD_FAILURE() << "errno " << opened.error().value;
      return KeptFile{{}, UniqueFd()};
    }
    EXPECT_TRUE(s.write(opened->handle, "text") || (flags & O_ACCMODE) == O_RDONLY);
    KeptFile file{{at(path), opened->attributes.identity, 0}, duplicate(s.service->descriptor(opened->handle))};
    if (unlinked) {
      EXPECT_TRUE(s.service->unlink(s.caller, at(path)));
    }
    s.service->close(s.caller, opened->handle);
    s.audit.clear();
    return file;
  }
  Result<protocol::HandleId, Errno> adopt(const KeptFile& file, int flags = O_RDWR) {
    auto adopted = s.service->adopt(s.caller, file.last_name, duplicate(file.fd.get()), flags);
    if (!adopted) return adopted.error();
    return adopted->handle;
  }
  std::size_t records(int error, std::string_view words = kDetail) {
    return s.audit.count_if([&](const audit::Record& r) {
      return r.operation == "open" && r.error == error && r.detail.find(words) != r.detail.npos;
    });
  }

  FilesSession s;
};

TEST_F(FilesAdopt, AFileWithoutANameIsReadAndWrittenAgain) {
  const KeptFile file = kept("/f");
  s.tree.write("w/f", "another");
  const auto handle = adopt(file);
  ASSERT_TRUE(handle);
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
  EXPECT_EQ(s.write(*handle, "TE").value_or(0), 2u);
  EXPECT_EQ(s.read(*handle).value_or(""), "TExt");
  EXPECT_EQ(s.tree.read("w/f"), "another");
  const auto stat = s.service->stat(s.caller, {at("/f"), {}, *handle});
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->identity, file.last_name.expect);
  EXPECT_EQ(records(0, "O_RDWR, kept over a restart"), 1u);
}

// It follows no name: what is renamed there is another file.
TEST_F(FilesAdopt, AFileWithoutANameIsJudgedByItsLastOne) {
  const auto handle = adopt(kept("/f"));
  ASSERT_TRUE(handle);
  s.tree.write("w/f", "another");
  ASSERT_TRUE(s.service->rename(s.caller, at("/f"), at("/hidden"), 0));
  s.set_rules({allow("write", {"/**"}), deny("all", {"/hidden"})});
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
  s.set_rules({allow("write", {"/**"}), deny("all", {"/f"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST_F(FilesAdopt, AFileThatNoModeOpensIsJudgedByItsNames) {
  const KeptFile file = kept("/f", O_RDWR, false);
  ASSERT_EQ(::chmod(s.tree.path("w/f").c_str(), 0), 0);
  const auto handle = adopt(file);
  ASSERT_TRUE(handle);
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
  ASSERT_TRUE(s.service->rename(s.caller, at("/f"), at("/g"), 0));
  s.set_rules({allow("write", {"/**"}), deny("all", {"/f"})});
  EXPECT_EQ(s.read(*handle).value_or(""), "text") << "the handle follows its file's name";
  s.set_rules({allow("write", {"/**"}), deny("all", {"/g"})});
  EXPECT_EQ(error_of(s.read(*handle)), EACCES);
}

TEST_F(FilesAdopt, WhatThePolicyHidesByNowIsRefused) {
  const KeptFile file = kept("/f");
  s.set_rules({allow("write", {"/**"}), deny("all", {"/f"})});
  EXPECT_EQ(error_of(adopt(file)), ENOENT);
  EXPECT_EQ(records(ENOENT), 1u);
  s.set_rules({allow("write", {"/**"}), deny("read", {"/f"}), deny("write", {"/f"})});
  EXPECT_EQ(error_of(adopt(file)), EACCES);
  EXPECT_EQ(records(EACCES), 1u);
  s.set_rules({allow("write", {"/**"}), ask("all", {"/f"})});
  EXPECT_NE(error_of(adopt(file)), 0);
  s.set_rules({allow("write", {"/**"})});
  EXPECT_EQ(error_of(adopt(file)), 0);
  EXPECT_EQ(s.service->open_handles(), 1u);
}

TEST_F(FilesAdopt, ItKeepsWhatThePolicyLeaves) {
  const KeptFile file = kept("/f");
  s.set_rules({allow("read", {"/**"})});
  const auto reader = adopt(file);
  ASSERT_TRUE(reader);
  EXPECT_EQ(s.read(*reader).value_or(""), "text");
  EXPECT_EQ(error_of(s.write(*reader, "x")), EBADF);
  EXPECT_EQ(records(0, "O_RDONLY, kept over a restart"), 1u);
  EXPECT_EQ(error_of(adopt(file, O_WRONLY)), EACCES);
  s.set_rules({allow("write", {"/**"})});
  EXPECT_EQ(error_of(s.write(*reader, "x")), EBADF) << "what it lost comes back to none that is open";
  const auto writer = adopt(file, O_WRONLY);
  ASSERT_TRUE(writer);
  EXPECT_EQ(error_of(s.read(*writer)), EBADF);
  EXPECT_EQ(error_of(s.write(*writer, "x")), 0);
}

TEST_F(FilesAdopt, AnotherFileIsRefused) {
  const KeptFile file = kept("/f");
  KeptFile other = kept("/g");
  other.last_name.expect = file.last_name.expect;
  EXPECT_EQ(error_of(adopt(other)), ESTALE);
  EXPECT_EQ(records(ESTALE, "another file"), 1u);
  other.last_name.expect = {};
  EXPECT_EQ(error_of(adopt(other)), EINVAL) << "any file will not do";
  EXPECT_EQ(error_of(s.service->adopt(s.caller, file.last_name, UniqueFd(), O_RDWR)), EBADF);
  EXPECT_EQ(error_of(adopt(file)), 0);
}

TEST_F(FilesAdopt, OnlyRegularFilesAre) {
  s.tree.mkdir("w/d");
  ASSERT_EQ(::mkfifo(s.tree.path("w/fifo").c_str(), 0600), 0);
  for (const char* name : {"w/d", "w/fifo"}) {
    KeptFile file{{at(std::string("/") + (name + 2)), {}, 0}, UniqueFd(::open(s.tree.path(name).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC))};
    file.last_name.expect = broker::stat_of(file.fd.get())->identity;
    EXPECT_EQ(error_of(adopt(file, O_RDONLY)), EACCES) << name;
  }
  EXPECT_EQ(records(EACCES, "no regular file"), 2u);
}

TEST_F(FilesAdopt, ADescriptorThatWasOpenedForLessIsRefused) {
  KeptFile file = kept("/f", O_RDWR, false);
  const auto opened_as = [&](int flags, int wanted) {
    file.fd = UniqueFd(::open(s.tree.path("w/f").c_str(), flags | O_CLOEXEC));
    return error_of(adopt(file, wanted));
  };
  EXPECT_EQ(opened_as(O_RDONLY, O_RDWR), EBADF);
  EXPECT_EQ(opened_as(O_RDONLY, O_WRONLY), EBADF);
  EXPECT_EQ(opened_as(O_WRONLY, O_RDONLY), EBADF);
  EXPECT_EQ(opened_as(O_PATH, O_RDONLY), EBADF);
  EXPECT_EQ(opened_as(O_RDWR | O_APPEND, O_RDWR), EBADF) << "it would write elsewhere than it is told";
  EXPECT_EQ(records(EBADF, "opened for less"), 5u);
  EXPECT_EQ(opened_as(O_RDONLY, O_RDONLY), 0);
  EXPECT_EQ(opened_as(O_WRONLY, O_WRONLY), 0);
  EXPECT_EQ(opened_as(O_RDWR, O_RDONLY), 0);
  EXPECT_EQ(opened_as(O_RDWR, O_RDWR | O_APPEND | O_NONBLOCK), 0);
}

TEST_F(FilesAdopt, FlagsThatMakeOrEmptyAreRefused) {
  const KeptFile file = kept("/f");
  for (const int flags : {O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY, O_PATH, O_TMPFILE, O_ACCMODE, 1 << 30})
    EXPECT_EQ(error_of(adopt(file, O_RDWR | flags)), EINVAL) << flags;
  const auto handle = adopt(file);
  ASSERT_TRUE(handle);
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
}

TEST_F(FilesAdopt, AFileOfNoExportIsRefused) {
  s.tree.write("outside", "secret");
  KeptFile file{{at("/f"), {}, 0}, UniqueFd(::open(s.tree.path("outside").c_str(), O_RDWR | O_CLOEXEC))};
  file.last_name.expect = broker::stat_of(file.fd.get())->identity;
  EXPECT_EQ(error_of(adopt(file)), EACCES);
  ASSERT_EQ(::unlink(s.tree.path("outside").c_str()), 0);
  EXPECT_EQ(error_of(adopt(file)), EACCES) << "without a name it is of no export either";
  EXPECT_EQ(records(EACCES, "of no export"), 2u);
}

TEST_F(FilesAdopt, WhatTheHostMovedIsJudgedByWhereItIs) {
  s.tree.mkdir("w/d");
  const KeptFile file = kept("/f", O_RDWR, false);
  s.set_rules({allow("write", {"/**"}), deny("all", {"/d"})});
  EXPECT_EQ(error_of(adopt(file)), 0);
  ASSERT_EQ(::rename(s.tree.path("w/f").c_str(), s.tree.path("w/d/f").c_str()), 0);
  EXPECT_EQ(error_of(adopt(file)), EACCES);
}

TEST_F(FilesAdopt, TheBrokersOwnFilesAreRefused) {
  const KeptFile file = kept("/f", O_RDWR, false), other = kept("/g", O_RDWR, false);
  ASSERT_EQ(::link(s.tree.path("w/f").c_str(), s.tree.path("w/link").c_str()), 0);
  s.own.add_file(s.tree.path("w/f"));
  EXPECT_EQ(error_of(adopt(file)), ENOENT);
  KeptFile renamed{{at("/link"), file.last_name.expect, 0}, duplicate(file.fd.get())};
  EXPECT_EQ(error_of(adopt(renamed)), ENOENT) << "by its other name";
  EXPECT_EQ(error_of(adopt(other)), 0);
}

// A person's deny may be of another name of it, that nobody can find any more.
TEST_F(FilesAdopt, WithoutANameItIsRefusedAfterARevoke) {
  const KeptFile file = kept("/f"), named = kept("/g", O_RDWR, false);
  policy::Grant grant;
  grant.id = "g1";
  grant.path = at("/elsewhere");
  grant.operations = policy::level_of(policy::Effect::allow, "write").value();
  grant.order = 1;
  s.set_grants({grant});
  EXPECT_EQ(error_of(adopt(file)), 0) << "a grant takes nothing away";
  grant.effect = policy::Effect::deny;
  s.set_grants({grant});
  EXPECT_EQ(error_of(adopt(file)), EACCES);
  EXPECT_EQ(records(EACCES, "revoked, perhaps"), 1u);
  EXPECT_EQ(error_of(adopt(named)), 0);
}

TEST_F(FilesAdopt, SetIdFilesAreNotWritten) {
  const KeptFile file = kept("/f", O_RDWR, false);
  ASSERT_EQ(::chmod(s.tree.path("w/f").c_str(), 04755), 0);
  const auto handle = adopt(file);
  ASSERT_TRUE(handle);
  EXPECT_EQ(s.read(*handle).value_or(""), "text");
  EXPECT_EQ(error_of(s.write(*handle, "x")), EBADF);
  EXPECT_EQ(error_of(adopt(file, O_WRONLY)), EACCES);
}

TEST(FilesAdoptLimits, AGrantForOneOpenServesOneOfThem) {
  std::vector<std::string> used;
  broker::LocalFileServiceOptions options;
  options.on_grant_used = [&](std::string_view id) { return used.emplace_back(id), true; };
  FilesSession s(std::vector<policy::Rule>{}, options);
  s.tree.write("w/f", "text");
  policy::Grant grant;
  grant.id = "g1";
  grant.path = at("/f");
  grant.operations = policy::level_of(policy::Effect::allow, "read").value();
  grant.order = 1;
  grant.once = true;
  s.set_grants({grant});
  const UniqueFd fd(::open(s.tree.path("w/f").c_str(), O_RDONLY | O_CLOEXEC));
  const protocol::FileRef last_name{at("/f"), broker::stat_of(fd.get())->identity, 0};
  EXPECT_EQ(error_of(s.service->adopt(s.caller, last_name, duplicate(fd.get()), O_RDONLY)), 0);
  EXPECT_EQ(used, std::vector<std::string>{"g1"});
  EXPECT_EQ(error_of(s.service->adopt(s.caller, last_name, duplicate(fd.get()), O_RDONLY)), EACCES);
  EXPECT_EQ(s.open_error("/f"), EACCES);
}

TEST(FilesAdoptLimits, NoHandleWithoutRoomOrRecord) {
  broker::LocalFileServiceOptions options;
  options.max_handles = 1;
  FilesSession s({allow("write", {"/**"})}, options);
  s.tree.write("w/f", "text");
  const UniqueFd fd(::open(s.tree.path("w/f").c_str(), O_RDONLY | O_CLOEXEC));
  const protocol::FileRef last_name{at("/f"), broker::stat_of(fd.get())->identity, 0};
  const auto adopt = [&] { return error_of(s.service->adopt(s.caller, last_name, duplicate(fd.get()), O_RDONLY)); };
  s.audit.fail(true);
  EXPECT_EQ(adopt(), EIO);
  s.audit.fail(false);
  EXPECT_EQ(s.service->open_handles(), 0u);
  EXPECT_EQ(adopt(), 0);
  EXPECT_EQ(adopt(), EMFILE);
}

TEST_F(FilesAdopt, ADescriptorIsLentWhileTheHandleIsOpen) {
  const auto handle = s.open("/f", O_RDWR | O_CREAT);
  ASSERT_TRUE(handle);
  const int fd = s.service->descriptor(*handle);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(broker::stat_of(fd)->identity, s.lookup("/f")->identity);
  s.service->close(s.caller, *handle);
  EXPECT_EQ(s.service->descriptor(*handle), -1);
  EXPECT_EQ(s.service->descriptor(0), -1);
}

}  // namespace
}  // namespace fbroker::test
