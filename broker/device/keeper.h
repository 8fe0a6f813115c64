// Keeper: a small process of the host's that holds descriptors while no broker
// does (design section 9).
//
// What a killed broker cannot leave in a file - FUSE devices and their clones,
// open files whose name or whose permission is gone - has a second descriptor
// there, and the next broker takes it back. There is one keeper per state
// directory, reached by the socket `keeper.sock` in it: no sandbox sees that
// directory, and who connects must be of the keeper's own uid.
//
// A keeper that is gone (killed, or ended because it kept nothing) has lost
// what it kept; every call then says so, and the caller decides: reach() again
// and keep everything anew, or go on without.
//
// Threads: all members, any thread; one call at a time. A call fails when the
// keeper says nothing for KeeperOptions::bound; the first one, which may wait
// for a process that is being started, has `start_bound`.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "policy/base/result.h"
#include "policy/base/unique_fd.h"

namespace fbroker::broker {

inline constexpr std::size_t kMaxKept = 65'536;     // descriptors of one keeper
inline constexpr std::size_t kMaxKeptName = 128;    // bytes

// 1 to kMaxKeptName letters, digits, '.', '_', '-', ':' and '/'.
bool is_kept_name(std::string_view name) noexcept;

enum class Kept : std::uint8_t {
  file = 1,
  device = 2,   // a FUSE device, known to be one: given up once its connection is gone
};

struct KeptDescriptor {
  std::string name;
  Kept kind = Kept::file;
  UniqueFd fd;
};

struct KeeperOptions {
  // Whose verb "keeper" is the process; "" = none is started. There is no
  // default: another program than fbroker would be run as it is.
  std::string program = {};
  std::vector<std::string> arguments = {};    // of that verb, besides the socket
  bool start = true;                           // false: only when there is something to keep, or at begin()
  std::chrono::milliseconds bound{2000};
  std::chrono::milliseconds start_bound{10'000};   // for the first answer
};

class Keeper {
 public:
  // Connects to the keeper of that directory or starts one, and waits for
  // neither: the first call that needs it does. `directory` is borrowed.
  // Precondition: the caller is the one broker of that state directory.
  static Result<std::unique_ptr<Keeper>> reach(int directory, KeeperOptions options = {});
  ~Keeper();

  // Starts one where none runs, and waits for nothing.
  Result<void, Errno> begin();
  // It is to end at once when it keeps nothing any more and we are gone.
  void end_with_us();

  // When it returns the descriptor is kept, in place of one of that name.
  // Errors: EINVAL for the name, EMFILE when the keeper is full, ETOOMANYREFS,
  // EBADF; else the keeper is gone (ENOTCONN from the second call on).
  Result<void, Errno> keep(std::string_view name, Kept kind, int fd);
  // Not acknowledged; comes before whatever is asked next.
  Result<void, Errno> drop(std::string_view name);
  // Duplicates of all whose name starts with `prefix` ("" = all), by name;
  // they stay kept. Errors: EMFILE when we cannot hold them; as keep().
  Result<std::vector<KeptDescriptor>, Errno> take(std::string_view prefix);
  Result<std::vector<std::string>, Errno> list(std::string_view prefix);
  // The process, once it answers.
  Result<pid_t, Errno> pid();

 private:
  Keeper(UniqueFd directory, KeeperOptions options)
      : directory_(std::move(directory)), options_(std::move(options)) {}

  Result<void, Errno> connect(bool may_start);
  Result<void, Errno> start();
  Result<void, Errno> greet();
  Result<void, Errno> ready();
  Result<std::vector<KeptDescriptor>, Errno> all(std::uint8_t question, std::string_view prefix);
  Errno lose(Errno why);
  void reap();

  const UniqueFd directory_;
  const KeeperOptions options_;
  std::mutex mutex_;          // guards what follows
  UniqueFd socket_;           // none: the keeper is gone
  bool greeted_ = false;
  bool none_yet_ = false;     // nothing was kept by anybody
  pid_t pid_ = -1;
  pid_t child_ = -1;          // the keeper, if we started it: to be reaped
};

}  // namespace fbroker::broker
