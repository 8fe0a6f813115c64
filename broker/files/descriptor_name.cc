#include "broker/files/descriptor_name.h"

#include <fcntl.h>
#include <pthread.h>

#include <atomic>
#include <charconv>
#include <string_view>

namespace fbroker::broker {

namespace {

constexpr std::string_view kDescriptors = "/proc/self/fd/";

std::atomic<int> g_descriptors{-1};   // /proc/self/fd of this very process; -1: by its whole name

int descriptors() noexcept {
  static const bool opened = [] {
    // ATTACK: in a child that was forked it would still name the parent's files.
    if (::pthread_atfork(nullptr, nullptr, [] { g_descriptors = -1; }) != 0) return false;
    g_descriptors = ::open(kDescriptors.data(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    return true;
  }();
  return opened ? g_descriptors.load(std::memory_order_relaxed) : -1;
}

}  // namespace

DescriptorName::DescriptorName(int fd) noexcept : directory_(descriptors()) {
  kDescriptors.copy(text_.data(), kDescriptors.size());
  *std::to_chars(text_.data() + kDescriptors.size(), text_.data() + text_.size() - 1, fd).ptr = '\0';
  name_ = text_.data() + (directory_ >= 0 ? kDescriptors.size() : 0);
}

}  // namespace fbroker::broker
