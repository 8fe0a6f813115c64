#include "broker/sessions/hidden_files.h"

#include <dirent.h>
#include <fcntl.h>

#include <deque>
#include <memory>
#include <string_view>

#include "broker/files/export.h"

namespace fbroker::broker {

namespace {

using OpenDirectory = std::unique_ptr<DIR, int (*)(DIR*)>;

OpenDirectory open_directory(const Export& on, const WorkspacePath& path) {
  auto fd = on.open(path, O_RDONLY | O_DIRECTORY);
  if (!fd) return {nullptr, &::closedir};
  DIR* stream = ::fdopendir(fd->get());
  if (stream != nullptr) (void)fd->release();
  return {stream, &::closedir};
}

}  // namespace

HiddenFiles find_hidden(const View& view, HiddenBounds bounds) {
  HiddenFiles hidden;
  const auto until = std::chrono::steady_clock::now() + bounds.time;
  std::deque<WorkspacePath> waiting;
  for (const auto& on : view.exports->exports())
    if (!on->is_file()) waiting.push_back(on->at());
  std::size_t visited = 0;
  for (; !waiting.empty(); waiting.pop_front()) {
    const WorkspacePath& directory = waiting.front();
    const Export* on = view.exports->find(directory);
    const OpenDirectory stream = on == nullptr ? OpenDirectory{nullptr, &::closedir} : open_directory(*on, directory);
    if (!stream) continue;
    while (const dirent* entry = ::readdir(stream.get())) {
      const auto path = directory.child(entry->d_name);
      if (!path) continue;   // "." and ".." too
      if (++visited > bounds.visited || std::chrono::steady_clock::now() > until) {
        hidden.complete = false;
        return hidden;
      }
      if (!view.snapshot->decide(*path).visible()) {
        if (hidden.first.size() < bounds.named) hidden.first.push_back(*path);
        ++hidden.count;
      } else if (entry->d_type == DT_DIR && std::string_view(entry->d_name) != ".git") {
        waiting.push_back(*path);
      }
    }
  }
  return hidden;
}

}  // namespace fbroker::broker
