// What a person reads at the start and the end of a run. Pure.
#pragma once

#include <string>

#include "broker/control/control_client.h"

namespace fbroker::container {

// "session web-1 · /workspace = ~/web (rw) · 3 hidden: .env … · network none ·
// other terminal: fbroker grant PATH --read"
// `broker`: whose session it is, "" = a broker of its own. `policy`: its file, "" = none.
struct BannerFacts {
  std::string workspace, home = {}, broker = {}, policy = {};
  std::size_t tracked_hidden = 0;   // of what is hidden: files that git tracks
};
std::string banner(const control::Session& session, const BannerFacts& facts);

// What was read, changed and refused; each refusal with its rule and the
// command that would lift it. Lines, each ending in '\n'.
std::string end_report(const control::Session& session, const control::Report& report);

// Names as the agent made them up: control characters and bytes that are not
// UTF-8 are shown as \xNN, so that none of them speaks to the terminal.
std::string printable(const std::string& name);

// 0 B, 512 B, 1.2 KiB, 3.4 MiB, …
std::string amount(std::uint64_t bytes);

}  // namespace fbroker::container
