// Words: the nearest of some known words to one that is not known.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace fbroker::policy {

// "" when none is near enough to be what was meant.
std::string nearest(std::string_view word, std::span<const std::string_view> known);

// "\"a\", \"b\" or \"c\"".
std::string one_of(std::span<const std::string_view> words);

// For a person's screen: quoted, bytes that a terminal would act on escaped.
std::string in_quotes(std::string_view bytes);

}  // namespace fbroker::policy
