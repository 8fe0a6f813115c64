// FilesSession: a real LocalFileService over a temporary tree, and short words
// for the calls that tests make.
#pragma once

#include <fcntl.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/files/export.h"
#include "broker/files/local_file_service.h"
#include "broker/files/own_files.h"
#include "broker/watch/host_watch.h"
#include "tests/support/memory_audit.h"
#include "tests/support/temp_tree.h"

namespace fbroker::test {

inline WorkspacePath at(std::string_view bytes) {
  auto path = WorkspacePath::parse(bytes);
  if (!path) std::abort();
  return *path;
}

inline policy::Rule rule(policy::Effect effect, std::string_view level,
                         std::vector<std::string> paths, std::string id) {
  policy::Rule made;
  made.id = std::move(id);
  made.effect = effect;
  made.operations = policy::level_of(effect, level).value();
  made.paths = std::move(paths);
  return made;
}
inline policy::Rule allow(std::string_view level, std::vector<std::string> paths) {
  return rule(policy::Effect::allow, level, std::move(paths), "test:allow-" + std::string(level));
}
inline policy::Rule deny(std::string_view level, std::vector<std::string> paths) {
  return rule(policy::Effect::deny, level, std::move(paths), "test:deny-" + std::string(level));
}
inline policy::Rule ask(std::string_view level, std::vector<std::string> paths) {
  return rule(policy::Effect::ask, level, std::move(paths), "test:ask-" + std::string(level));
}

class FilesSession {
 public:
  explicit FilesSession(std::vector<policy::Rule> rules = {allow("write", {"/**"})},
                        broker::LocalFileServiceOptions options = {}, bool watched = false)
      : rules_(std::move(rules)) {
    tree.mkdir("w");
    exports_.push_back({.at = at("/"), .from = ".", .submounts = false});
    const auto first = view();
    admissions.emplace(first);
    if (watched) {
      watch_ = std::move(broker::HostWatch::start(events)).value();
    }
    context.emplace(broker::SessionContext{"test", *admissions, events, audit, own, watch_.get()});
    service = std::make_unique<broker::LocalFileService>(*context, std::move(options));
  }

  // Publishes what was changed, as a grant, revoke or reload would.
  void publish() {
    ++generation_;
    admissions->publish(view());
    if (!admissions->drain(std::chrono::seconds(10))) std::abort();
  }
  void set_rules(std::vector<policy::Rule> rules) { rules_ = std::move(rules), publish(); }
  void set_durability(policy::Durability durability) { durability_ = durability, publish(); }
  void set_network(std::vector<policy::HostRule> rules, bool offline = false) {
    network_ = std::move(rules);
    offline_ = offline;
    publish();
  }
  void set_grants(std::vector<policy::Grant> grants) { grants_ = std::move(grants), publish(); }
  void set_exports(std::vector<policy::Export> exports) { exports_ = std::move(exports), publish(); }

  // --- The calls
  Result<protocol::HandleId, Errno> open(std::string_view path, int flags = O_RDONLY,
                                         std::uint32_t mode = 0644) {
    auto opened = service->open(caller, {at(path), {}, 0}, flags, mode);
    if (!opened) return opened.error();
    return opened->handle;
  }
  int open_error(std::string_view path, int flags = O_RDONLY, std::uint32_t mode = 0644) {
    const auto opened = open(path, flags, mode);
    if (!opened) return opened.error().value;
    service->close(caller, *opened);
    return 0;
  }
  Result<std::string, Errno> read(protocol::HandleId handle, std::size_t size = 65536,
                                  std::uint64_t offset = 0) {
    std::string into(size, '\0');
    auto count = service->read(caller, handle, offset, std::as_writable_bytes(std::span(into)));
    if (!count) return count.error();
    into.resize(*count);
    return into;
  }
  Result<std::size_t, Errno> write(protocol::HandleId handle, std::string_view data,
                                   protocol::WriteAt where = {}) {
    return service->write(caller, handle, where, std::as_bytes(std::span(data)));
  }
  // Content of the file, or "errno N".
  std::string content(std::string_view path) {
    const auto handle = open(path);
    if (!handle) return "errno " + std::to_string(handle.error().value);
    const auto text = read(*handle);
    service->close(caller, *handle);
    return text ? *text : "errno " + std::to_string(text.error().value);
  }
  std::vector<std::string> names(std::string_view path) {
    const auto opened = service->open_directory(caller, {at(path), {}, 0});
    if (!opened) return {"errno " + std::to_string(opened.error().value)};
    std::vector<std::string> names;
    for (std::uint64_t position = 0;;) {
      const auto page = service->read_directory(caller, opened->handle, position, 100);
      if (!page) return {"errno " + std::to_string(page.error().value)};
      for (const auto& entry : page->entries) names.push_back(entry.name);
      if (page->end) break;
      position = page->next;
    }
    service->close(caller, opened->handle);
    std::sort(names.begin(), names.end());
    return names;
  }
  std::optional<protocol::Attributes> lookup(std::string_view path) {
    const auto found = service->lookup(caller, at(path));
    return found ? found->attributes : std::nullopt;
  }
  std::size_t refusals(std::string_view operation, std::string_view path, int error) {
    return audit.count_if([&](const audit::Record& r) {
      return r.operation == operation && r.path == path && r.error == error;
    });
  }

  TempTree tree;                 // tree/w is exported at "/"
  MemoryAudit audit;
  broker::OwnFiles own;
  broker::EventBus events;
  std::optional<broker::Admissions> admissions;
  std::optional<broker::SessionContext> context;
  std::unique_ptr<broker::LocalFileService> service;
  protocol::Caller caller{.pid = 7};

 private:
  std::shared_ptr<const broker::View> view() {
    broker::ExportTableInput input{tree.path("w"), tree.path(), exports_, {}};
    table_ = broker::ExportTable::build(input, table_.get()).value();
    auto snapshot = policy::Snapshot::compile({rules_, grants_, generation_});
    if (!snapshot) std::abort();
    return std::make_shared<const broker::View>(
        broker::View{*snapshot, table_, durability_, std::make_shared<policy::NetworkRules>(network_, offline_),
                     broker::git_guard_of(rules_).value()});
  }

  std::vector<policy::Rule> rules_;
  std::vector<policy::Grant> grants_;
  std::vector<policy::Export> exports_;
  std::shared_ptr<const broker::ExportTable> table_;
  policy::Durability durability_ = policy::Durability::normal;
  std::vector<policy::HostRule> network_;
  bool offline_ = false;
  std::uint64_t generation_ = 1;
  std::unique_ptr<broker::HostWatch> watch_;
};

// Result's error number, 0 where it worked.
template <class T>
int error_of(const Result<T, Errno>& result) {
  return result ? 0 : result.error().value;
}

}  // namespace fbroker::test
