// The messages: what is written is read back, and what is wrong is named.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "broker/protocol/errno_names.h"
#include "broker/protocol/wire.h"
#include "broker/protocol/wire_json.h"

namespace fbroker::protocol {
namespace {

struct Wrong {
  const char* name;
  Call call;
  std::string json;
  std::string field;
  int error = EINVAL;
};

class WireRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(WireRefuses, AndNamesTheField) {
  const auto request = decode_request(GetParam().call, GetParam().json);
  ASSERT_FALSE(request) << GetParam().json;
  EXPECT_EQ(request.error().field, GetParam().field) << request.error().what;
  EXPECT_EQ(request.error().error, GetParam().error);
}

INSTANTIATE_TEST_SUITE_P(
    , WireRefuses,
    testing::Values(
        Wrong{"Nothing", Call::lookup, "", ""}, Wrong{"NoObject", Call::lookup, "[]", ""},
        Wrong{"TextAfterTheEnd", Call::lookup, R"({"path":"/a"} x)", ""},
        Wrong{"MissingField", Call::lookup, "{}", "path"},
        Wrong{"UnknownField", Call::lookup, R"({"path":"/a","pth":1})", "pth"},
        Wrong{"FieldOfAnotherCall", Call::lookup, R"({"path":"/a","to":"/b"})", "to"},
        Wrong{"DuplicateField", Call::lookup, R"({"path":"/a","path":"/b"})", "path"},
        Wrong{"NumberForAPath", Call::lookup, R"({"path":1})", "path"},
        Wrong{"RelativePath", Call::lookup, R"({"path":"a"})", "path"},
        Wrong{"ClimbingPath", Call::lookup, R"({"path":"/a/../b"})", "path"},
        Wrong{"NulInPath", Call::lookup, R"({"path":"/a\u0000b"})", "path"},
        Wrong{"LongPath", Call::lookup, "{\"path\":\"/" + std::string(300, 'a') + "\"}", "path",
              ENAMETOOLONG},
        Wrong{"BadBase64", Call::lookup, R"({"path":{"b64":"L2E"}})", "path"},
        Wrong{"BothPathAndHandle", Call::stat, R"({"path":"/a","handle":"i-1"})", "path"},
        Wrong{"NeitherPathNorHandle", Call::stat, "{}", "path"},
        Wrong{"NoAccessMode", Call::open, R"({"path":"/a","flags":["create"]})", "flags"},
        Wrong{"TwoAccessModes", Call::open, R"({"path":"/a","flags":["read","write"]})", "flags"},
        Wrong{"UnknownFlag", Call::open, R"({"path":"/a","flags":["read","direct"]})", "flags"},
        Wrong{"NegativeSize", Call::truncate, R"({"path":"/a","size":-1})", "size"},
        Wrong{"FractionalSize", Call::truncate, R"({"path":"/a","size":1.5})", "size"},
        Wrong{"HugeSize", Call::truncate, R"({"path":"/a","size":9223372036854775808})", "size"},
        Wrong{"SetIdOutOfRange", Call::chmod, R"({"path":"/a","permissions":"17777"})", "permissions"},
        Wrong{"TooManyEntries", Call::readdir, R"({"handle":"i-1","max_entries":100000})", "max_entries"},
        Wrong{"TimeWithoutFraction", Call::utimens, R"({"path":"/a","modified":"5"})", "modified"},
        Wrong{"Depth", Call::lookup, "{\"path\":" + std::string(40, '[') + std::string(40, ']') + "}", ""},
        Wrong{"NotUtf8", Call::lookup, "{\"path\":\"/\xff\"}", ""}),
    [](const auto& param) { return param.param.name; });

TEST(Wire, EveryByteOfANameArrives) {
  for (int byte = 1; byte < 256; ++byte) {
    if (byte == '/') continue;
    const std::string bytes = std::string("/x") + static_cast<char>(byte) + "y";
    Request request;
    request.file.path = WorkspacePath::parse(bytes).value();
    std::string json;
    encode_request(json, Call::lookup, request);
    const auto back = decode_request(Call::lookup, json);
    ASSERT_TRUE(back) << byte << ": " << json;
    EXPECT_EQ(back->file.path.bytes(), bytes);
  }
}

TEST(Wire, ARequestIsReadBackAsItWasWritten) {
  Request request;
  request.file.path = WorkspacePath::parse("/a b").value();
  request.file.expect = {1, 2, -3};
  request.flags = O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_SYNC;
  request.permissions = 0640;
  std::string json;
  encode_request(json, Call::open, request);
  const auto back = decode_request(Call::open, json);
  ASSERT_TRUE(back) << json;
  EXPECT_EQ(back->flags, request.flags);
  EXPECT_EQ(back->permissions, 0640u);
  EXPECT_EQ(back->file.expect, request.file.expect);
}

TEST(Wire, TimesKeepTheirNanosecondsBeforeTheEpochToo) {
  Request request;
  request.file.path = WorkspacePath::parse("/a").value();
  request.times = {timespec{-5, 1}, timespec{0, UTIME_NOW}};
  std::string json;
  encode_request(json, Call::utimens, request);
  const auto back = decode_request(Call::utimens, json);
  ASSERT_TRUE(back) << json;
  EXPECT_EQ(back->times.accessed->tv_sec, -5);
  EXPECT_EQ(back->times.accessed->tv_nsec, 1);
  EXPECT_EQ(back->times.modified->tv_nsec, UTIME_NOW);
}

TEST(Wire, APageIsReadBackAsItWasWritten) {
  DirectoryPage page;
  Attributes attributes;
  attributes.identity = {~0ull, ~0ull, -1};
  attributes.type = FileType::symlink;
  attributes.size = 1ull << 62;
  attributes.modified = {1700000000, 999999999};
  for (int i = 0; i < 4096; ++i) page.entries.push_back({"n\xff" + std::to_string(i), attributes});
  page.next = ~0ull;
  page.lifetime = Lifetime::until_told;
  std::string json;
  encode(json, page);
  const auto back = decode_page(json);
  ASSERT_TRUE(back);
  ASSERT_EQ(back->entries.size(), 4096u);
  EXPECT_EQ(back->entries[4095].name, "n\xff" "4095");
  EXPECT_EQ(back->entries[0].attributes.identity, attributes.identity);
  EXPECT_EQ(back->entries[0].attributes.size, attributes.size);
  EXPECT_EQ(back->entries[0].attributes.modified.tv_nsec, 999999999);
  EXPECT_EQ(back->next, page.next);
  EXPECT_EQ(back->lifetime, Lifetime::until_told);
}

TEST(Wire, AHandleIsOfOneInstance) {
  const std::string text = handle_text("abc", 7);
  EXPECT_EQ(parse_handle(text, "abc").value_or(0), 7u);
  EXPECT_EQ(parse_handle(text, "abd").error().value, ESTALE);
  for (const char* junk : {"", "-", "abc-", "abc-0", "abc-x", "abc-18446744073709551616"})
    EXPECT_EQ(parse_handle(junk, "abc").error().value, EBADF) << junk;
}

TEST(Wire, ErrnoNamesGoBothWays) {
  for (const int value : {EPERM, ENOENT, EIO, EACCES, EXDEV, ESTALE, ELOOP, EDQUOT, EAGAIN})
    EXPECT_EQ(errno_named(name_of(Errno{value}))->value, value);
  EXPECT_FALSE(errno_named("EWHAT"));
  EXPECT_EQ(decode_problem(R"({"errno":"ENOTEMPTY"})").value, ENOTEMPTY);
  EXPECT_EQ(decode_problem("garbage").value, EIO);
}

TEST(WireJson, ABombIsRefusedWhereItGoesTooDeepNotAfterwards) {
  EXPECT_FALSE(parse_strict(std::string(1 << 20, '[')));
  EXPECT_FALSE(parse_strict(std::string((1 << 20) + 1, ' ')));
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "{\"a\":";
  EXPECT_FALSE(parse_strict(nested));
  EXPECT_TRUE(parse_strict("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"));  // 32
}

TEST(WireJson, Utf8IsTheShortestFormOnly) {
  EXPECT_TRUE(is_utf8("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"));
  for (const char* bad : {"\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "\xc3"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
}

}  // namespace
}  // namespace fbroker::protocol
