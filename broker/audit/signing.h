// Signing: a chain says what was written; a signature says by whom.
//
// The broker's Ed25519 key pair lies in its state directory, the private half
// for its eyes only. It signs two statements, these bytes and nothing else:
//
//   "fbroker audit checkpoint v1\n" SEQ ":" HASH "\n"   in the record after SEQ
//   "fbroker audit head v1\n"       SEQ ":" HASH "\n"   in a file elsewhere
//
// SEQ in decimal, HASH as in the chain. A signature is 88 characters of base64.
// The head's file is its statement, the signature, and a '\n'.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "broker/audit/chain.h"
#include "policy/base/result.h"

struct evp_pkey_st;

namespace fbroker::audit {

inline constexpr char kPrivateKeyName[] = "audit-key.pem";       // PKCS #8, 0600
inline constexpr char kPublicKeyName[] = "audit-key.pub.pem";
inline constexpr char kHeadName[] = "audit-head";                // unless it is put elsewhere

enum class Statement { checkpoint, head };

// Threads: values; const access is safe from any thread.
class PublicKey {
 public:
  // Errors: no PEM of an Ed25519 public key.
  static Result<PublicKey> read(const std::string& file);

  bool has_signed(Statement what, const ChainHead& head, std::string_view signature) const;

 private:
  friend class Signer;
  explicit PublicKey(std::shared_ptr<evp_pkey_st> key) : key_(std::move(key)) {}
  std::shared_ptr<evp_pkey_st> key_;
};

class Signer {
 public:
  // The pair in `directory`; made when there is none.
  // Errors: a key that others could have read or put there (a link, another
  // owner, any right for others); halves that do not belong together; only the
  // public half: a new key would disown the log that the old one signed.
  static Result<Signer> open(const std::string& directory);

  std::string sign(Statement what, const ChainHead& head) const;
  const PublicKey& public_key() const noexcept { return key_; }

 private:
  explicit Signer(PublicKey key) : key_(std::move(key)) {}
  PublicKey key_;   // with its private half
};

// Replaces the file in one step; what it says is on disk when this returns.
Result<void> write_signed_head(const std::string& file, const ChainHead& head, const Signer& signer);
// None: there is no such file. Errors: not what `key` signed, byte for byte.
Result<std::optional<ChainHead>> read_signed_head(const std::string& file, const PublicKey& key);

}  // namespace fbroker::audit
