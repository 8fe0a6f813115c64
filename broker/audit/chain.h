// The chain: how a record becomes a line, and how a line proves itself.
//
//   {"seq":7,"time":"…",…,"prev":"<64 hex>","hash":"<64 hex>"}
//
// `hash` is SHA-256 over the line's bytes before `,"hash":`; `prev` is the
// `hash` of the line before (64 zeros for the first). So each line proves
// itself, the last one too, and proves the one before.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace fbroker::audit {

inline constexpr std::size_t kHashDigits = 64;
using HashText = std::array<char, kHashDigits>;   // lower-case hex

inline constexpr std::string_view text_of(const HashText& hash) {
  return {hash.data(), hash.size()};
}
HashText no_hash();                               // all zeros
std::optional<HashText> parse_hash(std::string_view text);

// Where a chain stands: its last record.
struct ChainHead {
  std::uint64_t sequence = 0;   // 0 = nothing yet
  HashText hash = no_hash();
  friend bool operator==(const ChainHead&, const ChainHead&) = default;
};

// "SEQ:HASH", as verify prints it, and back.
std::string to_text(const ChainHead& head);
std::optional<ChainHead> parse_head(std::string_view text);

// Threads: one at a time per object.
class Hasher {
 public:
  Hasher();
  HashText hash(std::string_view bytes);

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const noexcept;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// Adds the line of the record after `head` to `out`, with its '\n', and moves
// `head` to it. `fields`: the members between seq and prev, at least one,
// without a comma at either end.
void append_line(Hasher& hasher, ChainHead& head, std::string_view fields, std::string& out);

// The same in two steps, for whoever adds the members to `out` himself: each with
// a comma before it. open_line() returns where the line begins.
std::size_t open_line(const ChainHead& head, std::string& out);
void close_line(Hasher& hasher, ChainHead& head, std::size_t start, std::string& out);

// A line (without '\n') whose `hash` is right, cut into its parts; none when
// the shape or the hash is wrong, whatever changed.
struct ProvenLine {
  std::uint64_t sequence;
  HashText prev;
  HashText hash;
};
std::optional<ProvenLine> prove(Hasher& hasher, std::string_view line);

}  // namespace fbroker::audit
