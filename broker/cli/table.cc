#include "broker/cli/table.h"

#include <algorithm>
#include <boost/locale/utf.hpp>
#include <cstdio>
#include <cwchar>
#include <ostream>

namespace fbroker::cli {

namespace {

using Utf8 = boost::locale::utf::utf_traits<char>;
using boost::locale::utf::code_point;

struct Range {
  code_point first, last;
};

// Neither controls nor format characters (Unicode's Cc, Cf, Zl, Zp), nor what
// has no glyph of its own: private use, tags, variation selectors, non-characters.
constexpr Range kUnseen[] = {
    {0x00, 0x1F},       {0x7F, 0x9F},     {0xAD, 0xAD},         {0x34F, 0x34F},
    {0x600, 0x605},     {0x61C, 0x61C},   {0x6DD, 0x6DD},       {0x70F, 0x70F},
    {0x8E2, 0x8E2},     {0x115F, 0x1160}, {0x17B4, 0x17B5},     {0x180B, 0x180F},
    {0x200B, 0x200F},   {0x2028, 0x202E}, {0x2060, 0x206F},     {0x3164, 0x3164},
    {0xD800, 0xF8FF},   {0xFE00, 0xFE0F}, {0xFEFF, 0xFEFF},     {0xFFA0, 0xFFA0},
    {0xFFF0, 0xFFFB},   {0xFFFE, 0xFFFF}, {0x110BD, 0x110CD},   {0x13430, 0x1343F},
    {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0000, 0x10FFFF}};

bool seen(code_point point) {
  return std::none_of(std::begin(kUnseen), std::end(kUnseen),
                      [&](const Range& r) { return r.first <= point && point <= r.last; });
}

}  // namespace

namespace {

// `composed`: words of ours with names in them, over several lines perhaps.
std::string printable(std::string_view bytes, bool composed) {
  std::string out;
  char escape[16];
  const char* at = bytes.data();
  const char* const end = at + bytes.size();
  while (at != end) {
    const char* const start = at;
    const code_point point = Utf8::decode(at, end);
    const bool valid = point != boost::locale::utf::illegal && point != boost::locale::utf::incomplete;
    if (!valid) at = start + 1;
    if (valid && composed && (point == '\\' || point == '\n')) {
      out.append(start, at);
    } else if (valid && point == '\\') {
      out += "\\\\";
    } else if (valid && seen(point)) {
      out.append(start, at);
    } else if (valid && point > 0x7F) {
      std::snprintf(escape, sizeof escape, "\\u{%x}", static_cast<unsigned>(point));
      out += escape;
    } else {
      std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned char>(*start));
      out += escape;
    }
  }
  return out;
}

}  // namespace

std::string printable(std::string_view bytes) { return printable(bytes, false); }
std::string printable_words(std::string_view text) { return printable(text, true); }

// Such bytes are parts of strings there and nothing else.
std::string printable_json(std::string_view json) {
  std::string out;
  char escape[16];
  const char* at = json.data();
  const char* const end = at + json.size();
  while (at != end) {
    const char* const start = at;
    const code_point point = Utf8::decode(at, end);
    if (point == boost::locale::utf::illegal || point == boost::locale::utf::incomplete) {
      at = start + 1;
      out += "\\ufffd";
    } else if (point == '\n' || seen(point)) {
      out.append(start, at);
    } else if (point < 0x10000) {
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(point));
      out += escape;
    } else {
      const unsigned rest = static_cast<unsigned>(point) - 0x10000;
      std::snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
      out += escape;
    }
  }
  return out;
}

std::size_t columns_of(std::string_view text) {
  std::size_t columns = 0;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    const code_point point = Utf8::decode(at, end);
    const int width = ::wcwidth(static_cast<wchar_t>(point));  // -1 in the C locale beyond ASCII
    columns += width < 0 ? 1 : static_cast<std::size_t>(width);
  }
  return columns;
}

Table::Table(std::ostream& out, std::vector<std::string> headings, std::size_t most)
    : out_(out), headings_(std::move(headings)), most_(most) {
  for (const auto& heading : headings_) widths_.push_back(heading.size());
}

void Table::row(std::vector<std::string> cells) {
  cells.resize(headings_.size());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    cells[i] = printable(cells[i]);
    widths_[i] = std::max(widths_[i], std::min(most_, columns_of(cells[i])));
  }
  rows_.push_back(std::move(cells));
}

void Table::flush() {
  if (!headed_) print(headings_);
  headed_ = true;
  for (const auto& row : rows_) print(row);
  rows_.clear();
  out_.flush();
}

// Longer cells are not cut: a path that cannot be copied is of no use.
void Table::print(const std::vector<std::string>& cells) {
  std::size_t owed = 0;   // blanks before the next cell that has something
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (!cells[i].empty()) out_ << std::string(owed, ' ') << cells[i];
    owed = cells[i].empty() ? owed : 0;
    const std::size_t columns = columns_of(cells[i]);
    owed += (columns < widths_[i] ? widths_[i] - columns : 0) + 2;
  }
  out_ << '\n';
}

}  // namespace fbroker::cli
