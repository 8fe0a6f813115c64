#include "broker/audit/signing.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "policy/base/unique_fd.h"

namespace fbroker::audit {

namespace {

constexpr std::size_t kMaxFileBytes = 4096;      // of a key or head: a few hundred
constexpr std::size_t kSignatureBytes = 64;      // RFC 8032
constexpr std::size_t kSignatureText = 88;       // in base64
constexpr std::string_view kTitles[] = {"fbroker audit checkpoint v1\n", "fbroker audit head v1\n"};

using Key = std::shared_ptr<evp_pkey_st>;
using Bio = std::unique_ptr<BIO, int (*)(BIO*)>;
using Context = std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)>;

Error failed(const std::string& where, const char* step) {
  return Error{where, std::string(step) + ": " + std::strerror(errno)};
}

std::string statement(Statement what, const ChainHead& head) {
  return std::string(kTitles[static_cast<std::size_t>(what)]) + to_text(head) + "\n";
}

std::string base64(const unsigned char* bytes) {
  unsigned char text[kSignatureText + 1];        // EVP_EncodeBlock adds a NUL
  EVP_EncodeBlock(text, bytes, kSignatureBytes);
  return {reinterpret_cast<const char*>(text), kSignatureText};
}

// ---- files --------------------------------------------------------------------

Result<std::string> read_small(int fd, const std::string& path) {
  std::string text(kMaxFileBytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(fd, text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed(path, "cannot be read");
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > kMaxFileBytes) return Error{path, "is too large for what it should be"};
  text.resize(size);
  return text;
}

// ATTACK: whoever may write where the head is kept puts a link at the name that
//   is written first. What is there goes; the new file is ours from its start.
Result<void> put_file(const std::string& path, std::string_view content, mode_t mode, unsigned rename_flags) {
  const std::string beside = path + ".new";
  if (::unlink(beside.c_str()) != 0 && errno != ENOENT) return failed(beside, "cannot be removed");
  const UniqueFd file(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!file) return failed(path, "cannot be written");
  while (!content.empty()) {
    const ssize_t put = ::write(file.get(), content.data(), content.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return failed(path, "cannot be written");
    content.remove_prefix(static_cast<std::size_t>(put));
  }
  if (::fsync(file.get()) != 0) return failed(path, "cannot be synchronised");
  if (::renameat2(AT_FDCWD, beside.c_str(), AT_FDCWD, path.c_str(), rename_flags) != 0)
    return failed(path, "cannot be put in place");
  const std::string parent = path.substr(0, path.find_last_of('/') + 1);
  const UniqueFd directory(::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0) return failed(path, "its directory cannot be synchronised");
  return ok;
}

bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0 || errno != ENOENT; }

// ---- keys ---------------------------------------------------------------------

int no_password(char*, int, int, void*) { return -1; }   // without it OpenSSL asks the terminal

Key adopt(EVP_PKEY* key) {
  Key owned(key, EVP_PKEY_free);
  return owned && EVP_PKEY_get_id(key) == EVP_PKEY_ED25519 ? owned : nullptr;
}

template <class Read>
Key parse_pem(const std::string& text, Read read) {
  const Bio memory(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free);
  return adopt(read(memory.get(), nullptr, no_password, nullptr));
}

template <class Write>
std::string pem_of(Write write) {
  const Bio memory(BIO_new(BIO_s_mem()), BIO_free);
  if (!memory || write(memory.get()) != 1) throw std::runtime_error("a key cannot be written as PEM");
  char* text = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &text);
  return {text, static_cast<std::size_t>(size)};
}

std::string public_pem(const Key& key) {
  return pem_of([&](BIO* out) { return PEM_write_bio_PUBKEY(out, key.get()); });
}

// INVARIANT: a key that anybody but us could have read or chosen signs nothing.
Result<Key> read_private_key(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat st {};
  if (!file || ::fstat(file.get(), &st) != 0) return failed(path, "cannot be opened");
  if (!S_ISREG(st.st_mode) || st.st_nlink != 1 || st.st_uid != ::geteuid() || (st.st_mode & 077) != 0)
    return Error{path, "must be a file of yours that nobody else may read or write (chmod 600)"};
  FBROKER_TRY(const std::string text, read_small(file.get(), path));
  Key key = parse_pem(text, PEM_read_bio_PrivateKey);
  if (!key) return Error{path, "is no Ed25519 private key"};
  return key;
}

Result<Key> make_private_key(const std::string& path) {
  const Key key = adopt(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  if (!key) throw std::runtime_error("Ed25519 is not available");
  const std::string pem = pem_of([&](BIO* out) {
    return PEM_write_bio_PKCS8PrivateKey(out, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  });
  FBROKER_TRY_VOID(put_file(path, pem, 0600, RENAME_NOREPLACE));
  return key;
}

}  // namespace

Result<PublicKey> PublicKey::read(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!file) return failed(path, "cannot be opened");
  FBROKER_TRY(const std::string text, read_small(file.get(), path));
  Key key = parse_pem(text, PEM_read_bio_PUBKEY);
  if (!key) return Error{path, "is no Ed25519 public key"};
  return PublicKey(std::move(key));
}

bool PublicKey::has_signed(Statement what, const ChainHead& head, std::string_view signature) const {
  unsigned char bytes[kSignatureText / 4 * 3];
  if (signature.size() != kSignatureText ||
      EVP_DecodeBlock(bytes, reinterpret_cast<const unsigned char*>(signature.data()), kSignatureText) < 0 ||
      base64(bytes) != signature)   // one spelling only
    return false;
  const std::string said = statement(what, head);
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  return context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key_.get()) == 1 &&
         EVP_DigestVerify(context.get(), bytes, kSignatureBytes,
                          reinterpret_cast<const unsigned char*>(said.data()), said.size()) == 1;
}

Result<Signer> Signer::open(const std::string& directory) {
  const std::string private_path = directory + "/" + kPrivateKeyName;
  const std::string public_path = directory + "/" + kPublicKeyName;
  const bool known = is_there(private_path);
  if (!known && is_there(public_path))
    return Error{private_path, std::string("is gone, though ") + kPublicKeyName +
                                   " is there: what it signed could not be told from a forgery any more; put it "
                                   "back, or move the public key and the log away to begin anew"};
  FBROKER_TRY(Key key, known ? read_private_key(private_path) : make_private_key(private_path));
  // Killed before it was written, or never there: it follows from the other half.
  if (!is_there(public_path)) FBROKER_TRY_VOID(put_file(public_path, public_pem(key), 0644, RENAME_NOREPLACE));
  FBROKER_TRY(const PublicKey half, PublicKey::read(public_path));
  if (EVP_PKEY_eq(half.key_.get(), key.get()) != 1)
    return Error{public_path, std::string("does not belong to ") + kPrivateKeyName};
  return Signer(PublicKey(std::move(key)));
}

std::string Signer::sign(Statement what, const ChainHead& head) const {
  const std::string said = statement(what, head);
  unsigned char bytes[kSignatureBytes];
  std::size_t size = sizeof bytes;
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!context || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_.key_.get()) != 1 ||
      EVP_DigestSign(context.get(), bytes, &size, reinterpret_cast<const unsigned char*>(said.data()),
                     said.size()) != 1 || size != sizeof bytes)
    throw std::runtime_error("Ed25519 is not available");
  return base64(bytes);
}

Result<void> write_signed_head(const std::string& file, const ChainHead& head, const Signer& signer) {
  return put_file(file, statement(Statement::head, head) + signer.sign(Statement::head, head) + "\n", 0644, 0);
}

Result<std::optional<ChainHead>> read_signed_head(const std::string& path, const PublicKey& key) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!file && errno == ENOENT) return std::optional<ChainHead>();
  if (!file) return failed(path, "cannot be opened");
  FBROKER_TRY(const std::string text, read_small(file.get(), path));
  const Error forged{path, "is not what this log's key signed: it was changed, or is another log's"};
  const std::size_t after = kSignatureText + 1;   // the signature and its '\n'
  const std::string_view title = kTitles[static_cast<std::size_t>(Statement::head)];
  if (!text.starts_with(title) || text.size() < title.size() + 1 + after) return forged;
  const std::size_t head_size = text.size() - title.size() - 1 - after;
  const auto head = parse_head(std::string_view(text).substr(title.size(), head_size));
  if (!head) return forged;
  const std::string signature = text.substr(text.size() - after, kSignatureText);
  if (text != statement(Statement::head, *head) + signature + "\n") return forged;
  if (!key.has_signed(Statement::head, *head, signature)) return forged;
  return head;
}

}  // namespace fbroker::audit
