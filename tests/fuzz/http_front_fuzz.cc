// Whatever bytes a client sends: the real HttpFront, over a socket pair.
//
// The first byte says into how many pieces the rest is cut, so that heads and
// chunks also arrive torn. "@INSTANCE" in the input stands for the front's own
// instance, else no handle would ever be good.
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "broker/http/http_front.h"
#include "tests/fuzz/http_memory_files.h"

namespace {

using namespace fbroker;

struct World {
  test::MemoryFiles files;
  broker::Admissions admissions{std::make_shared<const broker::View>()};
  broker::EventBus events;
  std::unique_ptr<broker::HttpFront> front = [this] {
    broker::HttpOptions options;
    options.instance = "@INSTANCE";
    options.threads = 1;
    return std::move(broker::HttpFront::start(UniqueFd(), options, {files, admissions, events, {}}))
        .value();
  }();
};

// Reads until the front closes. It must: all input was sent and our side shut.
void drain(int socket) {
  char bytes[65536];
  while (::recv(socket, bytes, sizeof bytes, 0) > 0) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static World world;
  if (size < 2 || size > 100'000) return 0;
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) std::abort();
  const UniqueFd ours(pair[0]);
  world.front->adopt(UniqueFd(pair[1]));
  const std::size_t pieces = 1 + data[0] % 4;
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (std::size_t i = pieces; i > 0 && !rest.empty(); --i) {
    const std::string_view piece = rest.substr(0, i == 1 ? rest.size() : rest.size() / i);
    rest.remove_prefix(piece.size());
    if (!piece.empty() && ::send(ours.get(), piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
      break;
  }
  ::shutdown(ours.get(), SHUT_WR);
  drain(ours.get());
  return 0;
}
