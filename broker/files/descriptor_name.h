// DescriptorName: how this process's own descriptors are named to calls that
// take only names: "N" in /proc/self/fd, which is opened once, because walking
// to it costs more than most of those calls.
#pragma once

#include <array>

namespace fbroker::broker {

// For *at(2) calls.
class DescriptorName {
 public:
  explicit DescriptorName(int fd) noexcept;

  int directory() const noexcept { return directory_; }
  const char* name() const noexcept { return name_; }

  DescriptorName(const DescriptorName&) = delete;
  DescriptorName& operator=(const DescriptorName&) = delete;

 private:
  int directory_;
  const char* name_;             // in text_
  std::array<char, 32> text_{};  // "/proc/self/fd/N"
};

}  // namespace fbroker::broker
