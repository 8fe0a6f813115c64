// FoldingMount: a file system of two files, ".env" and "readme", that tells
// cases apart or does not. Served by a child process, gone with the object.
#pragma once

#include <memory>
#include <string>

namespace fbroker::test {

class FoldingMount {
 public:
  // Null: this user may not mount.
  static std::unique_ptr<FoldingMount> at(const std::string& directory, bool folds);
  ~FoldingMount();
  FoldingMount(const FoldingMount&) = delete;
  FoldingMount& operator=(const FoldingMount&) = delete;

 private:
  FoldingMount(std::string directory, int server) : directory_(std::move(directory)), server_(server) {}
  std::string directory_;
  int server_;
};

}  // namespace fbroker::test
