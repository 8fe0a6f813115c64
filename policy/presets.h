// Presets: what a kind of project needs beyond its sources, under one word.
// "preset:node" in a rule's paths stands for the places that its tools write
// to, and in network.allow for the hosts that they load from.
#pragma once

#include <string_view>
#include <vector>

namespace fbroker::policy {

struct Preset {
  std::string_view word;                  // "preset:node"
  std::string_view because;
  std::vector<std::string_view> paths;    // patterns
  std::vector<std::string_view> domains;
};

const std::vector<Preset>& presets();
std::vector<std::string_view> preset_words();

inline bool is_preset(std::string_view text) { return text.starts_with("preset:"); }
// Null: no preset is called that.
const Preset* preset_named(std::string_view word);

}  // namespace fbroker::policy
