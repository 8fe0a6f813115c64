#include "tests/support/temp_tree.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace fbroker::test {

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::perror(what.c_str());
  std::abort();
}

}  // namespace

TempTree::TempTree() {
  std::string name = (std::filesystem::temp_directory_path() / "fbroker-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) fail(name);
  root_ = std::filesystem::canonical(name);
}

TempTree::~TempTree() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

std::string TempTree::path(std::string_view below) const {
  while (below.starts_with('/')) below.remove_prefix(1);
  return below.empty() ? root_.string() : root_.string() + "/" + std::string(below);
}

void TempTree::mkdir(std::string_view below) const {
  std::error_code error;
  std::filesystem::create_directories(path(below), error);
  if (error) fail(path(below));
}

void TempTree::write(std::string_view below, std::string_view content) const {
  const std::string file = path(below);
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), error);
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << content;
  if (!out.flush()) fail(file);
}

std::string TempTree::read(std::string_view below) const {
  std::ifstream in(path(below), std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();
  return content.str();
}

bool TempTree::exists(std::string_view below) const {
  return std::filesystem::exists(std::filesystem::symlink_status(path(below)));
}

std::vector<std::string> names_below(const std::filesystem::path& directory) {
  std::error_code error;
  std::vector<std::string> names;
  std::filesystem::recursive_directory_iterator at(directory, error), end;
  for (; !error && at != end; at.increment(error)) names.push_back(at->path().lexically_relative(directory));
  // What stopped the walk went away under it: the rest is not seen yet.
  return error && std::filesystem::exists(directory) ? names_below(directory) : names;
}

}  // namespace fbroker::test
