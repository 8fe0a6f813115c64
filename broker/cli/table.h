// A table of aligned columns for a person's terminal.
//
// ATTACK: names come from inside the sandbox; an escape sequence in one could
//   rewrite what the person reads, or worse. So nothing but printable
//   characters leaves here: every other byte is shown as \xNN, and characters
//   that reorder or hide text (bidirectional controls, zero width) as \u{…}.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace fbroker::cli {

// `bytes` as one may print them; a backslash is doubled, so that the result
// can be read back. Never contains a line break.
std::string printable(std::string_view bytes);

// The same for words that hold names: their lines and backslashes stay.
std::string printable_words(std::string_view text);

// A JSON text with what printable() would not print escaped: the same value.
std::string printable_json(std::string_view json);

// How many columns of a terminal a printable text takes.
std::size_t columns_of(std::string_view printable_text);

// Prints rows as they come, in columns that are as wide as the widest cell so
// far, so that it can follow a log. Cells are made printable here.
// Threads: one at a time.
class Table {
 public:
  // `headings` are the program's own words. `most`: no column grows beyond it.
  Table(std::ostream& out, std::vector<std::string> headings, std::size_t most = 48);

  // Rows are gathered until flush(), which prints them aligned, below the
  // headings the first time.
  void row(std::vector<std::string> cells);
  void flush();

 private:
  void print(const std::vector<std::string>& cells);

  std::ostream& out_;
  std::vector<std::string> headings_;
  std::vector<std::size_t> widths_;
  std::size_t most_;
  std::vector<std::vector<std::string>> rows_;
  bool headed_ = false;
};

}  // namespace fbroker::cli
