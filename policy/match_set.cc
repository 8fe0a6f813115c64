#include "policy/match_set.h"

#include <re2/re2.h>
#include <re2/set.h>

namespace fbroker::policy {
namespace {

constexpr std::int64_t kMaxMemory = 16 << 20;     // the whole set, its state cache included
constexpr std::int64_t kMaxOneMemory = 1 << 20;   // one expression
constexpr std::size_t kMaxExpressionBytes = 4096;
constexpr int kRangeBytes = 128;

RE2::Options options(std::int64_t max_memory) {
  RE2::Options options;
  options.set_encoding(RE2::Options::EncodingLatin1);  // names are bytes
  options.set_dot_nl(true);                            // a newline is one of them
  options.set_max_mem(max_memory);
  options.set_log_errors(false);  // ATTACK: the agent's paths must not fill stderr
  return options;
}

// Where the expression says "the text ends here": '$' or "\z" outside a class.
std::vector<std::size_t> end_anchors(std::string_view re) {
  std::vector<std::size_t> found;
  bool in_class = false;
  std::size_t class_start = 0;
  for (std::size_t i = 0; i < re.size(); ++i) {
    if (re[i] == '\\') {
      if (!in_class && i + 1 < re.size() && re[i + 1] == 'z') found.push_back(i);
      ++i;
    } else if (in_class) {
      if (re[i] == '[' && i + 1 < re.size() && re[i + 1] == ':') {
        const std::size_t close = re.find(":]", i + 2);
        if (close != re.npos) i = close + 1;
      } else if (re[i] == ']' && i != class_start) {
        in_class = false;
      }
    } else if (re[i] == '[') {
      in_class = true;
      class_start = i + 1;
      if (class_start < re.size() && re[class_start] == '^') ++class_start;
    } else if (re[i] == '$') {
      found.push_back(i);
    }
  }
  return found;
}

// The expression without an end anchor as its last piece: the whole path is
// matched anyway, and "below" is said by what follows it.
Result<std::string> body(std::string_view re, bool below) {
  auto anchors = end_anchors(re);
  if (!anchors.empty()) {
    const std::size_t last = anchors.back();
    const bool at_end = last + (re[last] == '$' ? 1 : 2) == re.size();
    if (at_end) {
      re = re.substr(0, last);
      anchors.pop_back();
    }
  }
  if (below && !anchors.empty())
    return Error{"", "an end anchor ($ or \\z) inside the expression; it is matched against the "
                     "whole path anyway, leave the anchor out"};
  return std::string(re);
}

}  // namespace

struct MatchSet::Impl {
  std::unique_ptr<RE2::Set> set =
      std::make_unique<RE2::Set>(options(kMaxMemory), RE2::ANCHOR_BOTH);
  struct Range {
    bool known = false;
    std::string low, high;  // every match lies between
  };
  std::vector<Range> ranges;
};

MatchSet::MatchSet() : impl_(std::make_unique<Impl>()) {}
MatchSet::~MatchSet() = default;
MatchSet::MatchSet(MatchSet&&) noexcept = default;
MatchSet& MatchSet::operator=(MatchSet&&) noexcept = default;

bool MatchSet::empty() const noexcept { return impl_->ranges.empty(); }

Result<std::size_t> MatchSet::add(std::string_view expression, bool below) {
  if (expression.size() > kMaxExpressionBytes)
    return Error{"", "an expression is at most 4096 bytes long"};
  if (expression.find("\\Q") != expression.npos)
    return Error{"", "\\Q is not supported; escape the characters one by one"};
  const RE2 alone(re2::StringPiece(expression.data(), expression.size()), options(kMaxOneMemory));
  if (!alone.ok()) return Error{"", "not a valid RE2 expression: " + alone.error()};
  FBROKER_TRY(const std::string core, body(expression, below));
  const bool root = RE2::FullMatch("/", alone);
  if (below && !root && RE2::FullMatch("", alone))
    return Error{"", "the expression matches the empty text, which is no path; paths start with /"};
  const std::string whole = below && root ? std::string(".*")  // everything is below the root
                                          : "(?:" + core + ")" + (below ? "(?:/.*)?" : "");
  std::string why;
  if (impl_->set->Add(whole, &why) < 0) return Error{"", "not a valid RE2 expression: " + why};
  const RE2 anchored("^" + whole, options(kMaxOneMemory));
  Impl::Range range;
  range.known = anchored.ok() && anchored.PossibleMatchRange(&range.low, &range.high, kRangeBytes);
  impl_->ranges.push_back(std::move(range));
  return impl_->ranges.size() - 1;
}

Result<void> MatchSet::compile() {
  if (empty() || impl_->set->Compile()) return ok;
  return Error{"match", "the `match` expressions are too large together; use `paths` patterns "
                        "where possible, or shorter repetitions"};
}

Result<void, Errno> MatchSet::find(std::string_view path, std::vector<int>& found) const {
  if (empty()) return ok;
  RE2::Set::ErrorInfo info{};
  if (impl_->set->Match(re2::StringPiece(path.data(), path.size()), &found, &info)) return ok;
  if (info.kind == RE2::Set::kNoError) return ok;
  return Errno{ENOMEM};
}

bool MatchSet::may_match_below(std::size_t index, std::string_view directory) const {
  const Impl::Range& range = impl_->ranges[index];
  if (!range.known) return true;
  const std::string start = directory == "/" ? "/" : std::string(directory) + "/";
  if (range.high < start) return false;
  return range.low <= start || range.low.starts_with(start);
}

}  // namespace fbroker::policy
