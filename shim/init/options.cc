#include "shim/init/options.h"

#include <getopt.h>

#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

namespace fbroker::init {
namespace {

enum Option : int {
  kSocket = 1, kMount, kDevice, kFuse, kWait, kUid, kGid, kStatusFd, kTty, kConsoleFd,
  kKeepStderr, kSize, kChdir, kHide, kLimit, kProxy, kPublishFd, kTransport, kHelp,
};

constexpr std::array kOptions{
    option{"socket", required_argument, nullptr, kSocket},
    option{"mount", required_argument, nullptr, kMount},
    option{"device", required_argument, nullptr, kDevice},
    option{"fuse", required_argument, nullptr, kFuse},
    option{"wait", required_argument, nullptr, kWait},
    option{"uid", required_argument, nullptr, kUid},
    option{"gid", required_argument, nullptr, kGid},
    option{"status-fd", required_argument, nullptr, kStatusFd},
    option{"tty", no_argument, nullptr, kTty},
    option{"console-fd", required_argument, nullptr, kConsoleFd},
    option{"keep-stderr", no_argument, nullptr, kKeepStderr},
    option{"size", required_argument, nullptr, kSize},
    option{"chdir", required_argument, nullptr, kChdir},
    option{"hide", required_argument, nullptr, kHide},
    option{"limit", required_argument, nullptr, kLimit},
    option{"proxy", required_argument, nullptr, kProxy},
    option{"publish-fd", required_argument, nullptr, kPublishFd},
    option{"transport", required_argument, nullptr, kTransport},
    option{"help", no_argument, nullptr, kHelp},
    option{nullptr, 0, nullptr, 0},
};

Result<carry::Loopback> loopback(const char* option_name, std::string_view text) {
  auto at = carry::parse_loopback(text);
  if (!at) return Error{option_name, at.error().text()};
  return *at;
}

struct NamedLimit {
  std::string_view name;
  int resource;
};
constexpr std::array kLimits{
    NamedLimit{"processes", RLIMIT_NPROC},
    NamedLimit{"memory", RLIMIT_AS},
    NamedLimit{"file-size", RLIMIT_FSIZE},
    NamedLimit{"open-files", RLIMIT_NOFILE},
};

template <class Number>
Result<Number> number(const char* option_name, std::string_view text, Number most) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > most)
    return Error{option_name, "expected a number up to " + std::to_string(most) + ", found \"" +
                                  std::string(text) + "\""};
  return value;
}

Result<int> descriptor(const char* option_name, std::string_view text) {
  FBROKER_TRY(const unsigned fd, number<unsigned>(option_name, text, 65535u));
  return static_cast<int>(fd);
}

Result<Transport> transport(std::string_view text) {
  if (text == "auto") return Transport::either;
  if (text == "device") return Transport::device;
  if (text == "http") return Transport::http;
  return Error{"--transport", "expected auto, device or http"};
}

Result<std::string> absolute(const char* option_name, const char* text) {
  if (text[0] != '/') return Error{option_name, "expected an absolute path"};
  return std::string(text);
}

Result<Limit> limit(std::string_view text) {
  const std::size_t equals = text.find('=');
  for (const NamedLimit& known : kLimits)
    if (equals != text.npos && known.name == text.substr(0, equals)) {
      FBROKER_TRY(const rlim_t value,
                  number<rlim_t>("--limit", text.substr(equals + 1), RLIM_INFINITY - 1));
      return Limit{known.resource, value};
    }
  return Error{"--limit", "expected processes=N, memory=BYTES, file-size=BYTES or open-files=N"};
}

Result<void> size(std::string_view text, Options& into) {
  const std::size_t by = text.find('x');
  if (by == text.npos) return Error{"--size", "expected ROWSxCOLUMNS"};
  FBROKER_TRY(into.rows, number<unsigned short>("--size", text.substr(0, by), 65535));
  FBROKER_TRY(into.columns, number<unsigned short>("--size", text.substr(by + 1), 65535));
  return ok;
}

Result<void> take(int which, const char* text, Options& into) {
  switch (which) {
    case kSocket: { FBROKER_TRY(into.socket, absolute("--socket", text)); break; }
    case kMount: { FBROKER_TRY(into.mount, absolute("--mount", text)); break; }
    case kDevice: { FBROKER_TRY(into.device, absolute("--device", text)); break; }
    case kFuse: { FBROKER_TRY(into.fuse, absolute("--fuse", text)); break; }
    case kWait: {
      FBROKER_TRY(const unsigned seconds, number<unsigned>("--wait", text, 3600u));
      into.wait = std::chrono::seconds(seconds);
      break;
    }
    case kUid: { FBROKER_TRY(into.uid, number<uid_t>("--uid", text, 0xfffffffeu)); break; }
    case kGid: { FBROKER_TRY(into.gid, number<gid_t>("--gid", text, 0xfffffffeu)); break; }
    case kStatusFd: { FBROKER_TRY(into.status_fd, descriptor("--status-fd", text)); break; }
    case kTty: into.tty = true; break;
    case kConsoleFd: { FBROKER_TRY(into.console_fd, descriptor("--console-fd", text)); break; }
    case kKeepStderr: into.keep_stderr = true; break;
    case kSize: return size(text, into);
    case kChdir: { FBROKER_TRY(into.chdir, absolute("--chdir", text)); break; }
    case kHide: {
      FBROKER_TRY(std::string path, absolute("--hide", text));
      into.hide.push_back(std::move(path));
      break;
    }
    case kLimit: {
      FBROKER_TRY(const Limit one, limit(text));
      into.limits.push_back(one);
      break;
    }
    case kProxy: {
      FBROKER_TRY(into.proxy, loopback("--proxy", text));
      break;
    }
    case kTransport: { FBROKER_TRY(into.transport, transport(text)); break; }
    case kPublishFd: { FBROKER_TRY(into.publish_fd, descriptor("--publish-fd", text)); break; }
    default: return Error{"", usage()};
  }
  return ok;
}

}  // namespace

std::string usage() {
  return "fbroker-init --socket SOCKET [--mount DIR] [--uid N --gid N] [--tty] [--chdir DIR]\n"
         "             [--fuse FILE] [--device FILE] [--wait SECONDS] [--hide DIR]\n"
         "             [--limit processes|memory|file-size|open-files=N] [--status-fd N]\n"
         "             [--console-fd N [--keep-stderr] [--size ROWSxCOLUMNS]]\n"
         "             [--transport auto|device|http]\n"
         "             [--proxy 127.0.0.1:PORT] [--publish-fd N] -- COMMAND [ARGUMENT]...\n"
         "Shows the broker's files at DIR (/workspace) and runs COMMAND there without any\n"
         "capability. Ends with COMMAND's status; 125: could not start.";
}

Result<Options> parse_options(int argc, char** argv) {
  Options options;
  ::opterr = 0;
  ::optind = 1;
  for (int which; (which = ::getopt_long(argc, argv, "+", kOptions.data(), nullptr)) != -1;)
    FBROKER_TRY_VOID(take(which, ::optarg, options));
  if (options.socket.empty()) return Error{"--socket", "is missing\n" + usage()};
  if (options.uid.has_value() != options.gid.has_value())
    return Error{"--uid, --gid", "give both or neither"};
  if (options.tty && options.console_fd >= 0)
    return Error{"--tty, --console-fd", "stdin is the terminal, or one is made: not both"};
  if (::optind >= argc) return Error{"", "no command\n" + usage()};
  for (int i = ::optind; i < argc; ++i) options.command.push_back(argv[i]);
  options.command.push_back(nullptr);
  return options;
}

}  // namespace fbroker::init
