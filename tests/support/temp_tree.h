// TempTree: a directory of its own for one test, gone afterwards.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fbroker::test {

class TempTree {
 public:
  TempTree();
  ~TempTree();
  TempTree(const TempTree&) = delete;
  TempTree& operator=(const TempTree&) = delete;

  std::string path(std::string_view below = "") const;
  // Makes parents too. Aborts the test program on any failure.
  void mkdir(std::string_view below) const;
  void write(std::string_view below, std::string_view content) const;
  std::string read(std::string_view below) const;
  bool exists(std::string_view below) const;   // a dangling link too

 private:
  std::filesystem::path root_;
};

// All that lies below a directory, relative to it; nothing when there is none.
// Others may be removing it meanwhile.
std::vector<std::string> names_below(const std::filesystem::path& directory);

}  // namespace fbroker::test
