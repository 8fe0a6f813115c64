// A whole broker inside the test: real state, audit log, sockets and control
// front, in a folder of its own.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "broker/control/control_front.h"
#include "broker/sessions/registry.h"
#include "broker/sessions/runtime_dir.h"
#include "tests/support/process.h"

namespace fbroker::test {

using nlohmann::json;

inline WorkspacePath ws(const std::string& text) { return WorkspacePath::parse(text).value(); }

class SessionBroker {
 public:
  // `base`: /dev/shm where thousands of changes would each wait for a disk.
  explicit SessionBroker(const std::string& base = "/tmp") {
    std::string name = base + "/fbroker-session-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    dir = name;
    for (const char* part : {"run", "home", "project"}) std::filesystem::create_directory(dir / part);
    ::setenv("XDG_RUNTIME_DIR", (dir / "run").c_str(), 1);
    ::setenv("HOME", (dir / "home").c_str(), 1);
    start();
  }
  ~SessionBroker() {
    stop();
    std::error_code ignored;
    std::filesystem::remove_all(dir, ignored);
  }

  void start() {
    auto listener = broker::bind_unix_socket(make_control(), "test.sock", 0600, broker::lock_path_of(make_control() + "/test.sock"));
    auto opened = broker::Registry::open({"test", (dir / "state").string(), (dir / "state/audit").string(), "",
                                          [this](const std::string& said) { hear(said); },
                                          programs_directory() + "/fbroker"});
    if (!opened) throw std::runtime_error(opened.error().text());
    registry = std::move(*opened);
    front = std::move(*control::ControlFront::start(std::move(*listener), {}, *registry));
  }
  void stop() {
    front.reset();
    registry.reset();
  }

  // The session "s" over project/, by project's policy file when `policy` is one.
  std::shared_ptr<broker::Session> session(const std::string& policy = "") {
    broker::WantedSession wanted{"s", (dir / "project").string(), {}, {}, ""};
    if (!policy.empty()) {
      write("p.json", policy);
      wanted.policy = (dir / "p.json").string();
    }
    auto made = registry->create(wanted, broker::Registry::OldGrants::keep);
    if (!made) throw std::runtime_error(made.error().text());
    return *made;
  }

  void write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((dir / name).parent_path());
    std::ofstream(dir / name) << content;
  }

  struct Answer {
    int status;
    json body;
  };
  Answer call(const std::string& method, const std::string& target, const json& body = json()) const {
    const auto response = front->handle({method, target, "application/json", body.is_null() ? "" : body.dump(), "", ""});
    return {response.status, json::parse(response.body, nullptr, false)};
  }
  Answer grant(const std::string& path, json more = json::object()) const {
    more["path"] = path;
    more["cwd"] = (dir / "project").string();
    more["home"] = (dir / "home").string();
    if (!more.contains("operations")) more["operations"] = {"read"};
    return call("POST", "/v1/grants", more);
  }
  Answer revoke(const std::string& target) const {
    return call("POST", "/v1/revoke", {{"target", target}, {"cwd", (dir / "project").string()}, {"home", (dir / "home").string()}});
  }

  std::string heard() const {
    const std::lock_guard lock(mutex);
    return words;
  }

  std::filesystem::path dir;
  std::unique_ptr<broker::Registry> registry;
  std::unique_ptr<control::ControlFront> front;

 private:
  static std::string make_control() {
    if (!broker::make_runtime_directory()) throw std::runtime_error("runtime directory");
    return broker::runtime_path() + "/control";
  }
  void hear(const std::string& more) {
    const std::lock_guard lock(mutex);
    words += more + "\n";
  }
  mutable std::mutex mutex;
  std::string words;
};

// The errno of opening it (0 = it opened), the handle closed again.
inline int opens(broker::Session& session, const std::string& path, int flags) {
  auto opened = session.files().open({}, {ws(path), {}, 0}, flags, 0644);
  if (!opened) return opened.error().value;
  session.files().close({}, opened->handle);
  return 0;
}

}  // namespace fbroker::test
