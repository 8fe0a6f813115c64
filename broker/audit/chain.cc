#include "broker/audit/chain.h"

#include <openssl/evp.h>

#include <algorithm>
#include <charconv>
#include <new>
#include <stdexcept>

namespace fbroker::audit {

namespace {

constexpr std::string_view kBeforeSequence = R"({"seq":)";
constexpr std::string_view kBeforePrev = R"(,"prev":")";
constexpr std::string_view kBeforeHash = R"(","hash":")";
constexpr std::string_view kEnd = R"("})";
constexpr std::size_t kTailBytes = kBeforeHash.size() - 1 + kHashDigits + kEnd.size();

}  // namespace

HashText no_hash() {
  HashText hash;
  hash.fill('0');
  return hash;
}

std::optional<HashText> parse_hash(std::string_view text) {
  if (text.size() != kHashDigits) return std::nullopt;
  if (text.find_first_not_of("0123456789abcdef") != text.npos) return std::nullopt;
  HashText hash;
  std::copy(text.begin(), text.end(), hash.begin());
  return hash;
}

std::string to_text(const ChainHead& head) {
  return std::to_string(head.sequence) + ":" + std::string(text_of(head.hash));
}

std::optional<ChainHead> parse_head(std::string_view text) {
  ChainHead head;
  const char* const end = text.data() + text.size();
  const auto [colon, error] = std::from_chars(text.data(), end, head.sequence);
  if (error != std::errc() || colon == end || *colon != ':') return std::nullopt;
  const auto hash = parse_hash(std::string_view(colon + 1, static_cast<std::size_t>(end - colon - 1)));
  if (!hash) return std::nullopt;
  head.hash = *hash;
  return head;
}

void Hasher::Free::operator()(evp_md_ctx_st* context) const noexcept { EVP_MD_CTX_free(context); }

Hasher::Hasher() : context_(EVP_MD_CTX_new()) {
  if (!context_) throw std::bad_alloc();
}

HashText Hasher::hash(std::string_view bytes) {
  static const EVP_MD* const sha256 = EVP_sha256();
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_DigestInit_ex(context_.get(), sha256, nullptr) != 1 ||
      EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) != 1 ||
      EVP_DigestFinal_ex(context_.get(), digest, &size) != 1 || size * 2 != kHashDigits)
    throw std::runtime_error("SHA-256 is not available");
  HashText hash;
  for (std::size_t i = 0; i < size; ++i) {
    hash[2 * i] = "0123456789abcdef"[digest[i] >> 4];
    hash[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
  }
  return hash;
}

void append_line(Hasher& hasher, ChainHead& head, std::string_view fields, std::string& out) {
  const std::size_t start = open_line(head, out);
  out += ',';
  out += fields;
  close_line(hasher, head, start, out);
}

std::size_t open_line(const ChainHead& head, std::string& out) {
  const std::size_t start = out.size();
  char digits[20];
  out += kBeforeSequence;
  out.append(digits, std::to_chars(digits, digits + sizeof digits, head.sequence + 1).ptr);
  return start;
}

void close_line(Hasher& hasher, ChainHead& head, std::size_t start, std::string& out) {
  out += kBeforePrev;
  out += text_of(head.hash);
  out += '"';
  head = {head.sequence + 1, hasher.hash(std::string_view(out).substr(start))};
  out += kBeforeHash.substr(1);
  out += text_of(head.hash);
  out += kEnd;
  out += '\n';
}

std::optional<ProvenLine> prove(Hasher& hasher, std::string_view line) {
  constexpr std::size_t kPrevBytes = kBeforePrev.size() + kHashDigits + 1;
  if (line.size() < kBeforeSequence.size() + kPrevBytes + kTailBytes) return std::nullopt;
  if (!line.starts_with(kBeforeSequence) || !line.ends_with(kEnd)) return std::nullopt;
  const std::string_view hashed = line.substr(0, line.size() - kTailBytes);
  const std::string_view tail = line.substr(hashed.size());
  if (!tail.starts_with(kBeforeHash.substr(1))) return std::nullopt;
  const HashText hash = hasher.hash(hashed);
  if (tail.substr(kBeforeHash.size() - 1, kHashDigits) != text_of(hash)) return std::nullopt;

  const std::string_view prev_member = hashed.substr(hashed.size() - kPrevBytes);
  if (!prev_member.starts_with(kBeforePrev)) return std::nullopt;
  const auto prev = parse_hash(prev_member.substr(kBeforePrev.size(), kHashDigits));
  if (!prev) return std::nullopt;

  ProvenLine proven{0, *prev, hash};
  const char* const digits = line.data() + kBeforeSequence.size();
  const auto [end, error] = std::from_chars(digits, line.data() + line.size(), proven.sequence);
  if (error != std::errc() || *end != ',' || *digits == '0') return std::nullopt;
  return proven;
}

}  // namespace fbroker::audit
