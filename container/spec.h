// SandboxSpec: what we want of a sandbox, independent of who provides it.
//
// A backend turns it into somebody's command line and adds nothing. What is
// not named here is not in the sandbox: there is no default that shows a host
// path, a variable or a device.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fbroker::container {

// One host file or directory shown inside.
struct Mount {
  enum class Mode : std::uint8_t { read_only, writable, device };

  // The host's name for it. With a descriptor (>= 0, O_PATH, borrowed) that is
  // what is mounted: the name was resolved once, by whoever opened it.
  std::string source;
  int fd = -1;
  std::string at;
  Mode mode = Mode::read_only;
};

struct Symlink {
  std::string target;
  std::string at;
};

// A file whose content we wrote: a descriptor that is read to its end.
struct DataFile {
  int fd = -1;
  std::string at;
};

struct Limits {
  std::uint64_t processes = 4096;
  std::optional<std::uint64_t> memory;      // bytes of address space, each process
  std::optional<std::uint64_t> file_size;   // bytes, of any one file
};

// How the command's terminal comes to be.
struct Terminal {
  bool wanted = false;
  bool keep_stderr = false;   // stderr is not the terminal
  unsigned short rows = 0, columns = 0;
};

struct SandboxSpec {
  uid_t uid = 0;                       // as the agent sees itself
  gid_t gid = 0;
  std::string workspace = "/workspace";
  std::string home = "/home/agent";
  std::optional<Mount> home_directory;  // none: a private one that is gone afterwards

  std::vector<Mount> root;             // the read-only system: /usr, chosen parts of /etc
  std::vector<Symlink> links;
  std::vector<DataFile> files;
  std::vector<Mount> kept;             // directories in a private HOME that outlive the run: writable
  std::vector<Mount> tools;            // read-only toolchains and programs, at their own paths
  std::vector<Symlink> tool_links;     // by which programs find each other
  std::vector<std::pair<std::string, std::string>> environment;  // all of it, but for
  // what may stand on no command line, where every user of the machine can read it.
  std::vector<std::pair<std::string, std::string>> secrets;
  int secrets_fd = -1;                 // how they reach the backend; filled in by prepare()

  // The one way out: the directory that holds the data socket and nothing else.
  Mount socket_directory;
  std::string socket_name = "broker.sock";
  // What mounts the workspace; taken away again before the agent starts.
  Mount init_program, fuse_program, fuse_device;

  std::string transport = "auto";      // fbroker-init's --transport

  // Where the relay inside listens for what wants out ("" = nowhere), and
  // whether it is handed connections that come in.
  std::string proxy;
  bool publishes = false;

  Limits limits;
  Terminal terminal;
  int status_fd = -1;                  // fbroker-init's --status-fd
  int console_fd = -1;                 // its --console-fd, when terminal.wanted
  int publish_fd = -1;                 // its --publish-fd, when publishes
  int info_fd = -1;                    // where the backend tells the sandbox's host pid
  int block_fd = -1;                   // nothing starts before a byte comes out of it
  std::vector<std::string> command;
};

// Places inside every sandbox.
inline constexpr char kSocketDirectory[] = "/run/fbroker";
inline constexpr char kPrivateDirectory[] = "/run/fbroker-init";

}  // namespace fbroker::container
