#include "signature.hpp"

#include <dlfcn.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "error.hpp"

namespace sparsec::native {

namespace {

constexpr int kEd25519 = 1087;  // OpenSSL's NID_ED25519
constexpr std::size_t kSignatureBytes = 64, kKeyBytes = 1 << 16;

// The functions of libcrypto that are used, which versions 1.1.1 and 3 have in common.
struct Crypto {
  void *library;
  void *(*new_bio)(const void *, int);
  int (*free_bio)(void *);
  void *(*read_key)(void *, void **, void *, void *);
  int (*key_kind)(const void *);
  void (*free_key)(void *);
  void *(*new_context)();
  void (*free_context)(void *);
  int (*begin)(void *, void **, const void *, void *, void *);
  int (*verify)(void *, const unsigned char *, std::size_t, const unsigned char *, std::size_t);
};

template <typename F>
void bind(void *library, const char *name, F *&function) {
  function = reinterpret_cast<F *>(dlsym(library, name));
  if (function == nullptr) fail(SPARSEC_ERROR_SIGNATURE, std::string("libcrypto lacks ") + name + "; install OpenSSL 3");
}

Crypto load() {
  Crypto crypto{};
  for (const char *name : {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"}) {
    if ((crypto.library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) != nullptr) break;
  }
  if (crypto.library == nullptr) {
    fail(SPARSEC_ERROR_SIGNATURE, "checking a signature takes OpenSSL's libcrypto, which is not installed");
  }
  bind(crypto.library, "BIO_new_mem_buf", crypto.new_bio);
  bind(crypto.library, "BIO_free", crypto.free_bio);
  bind(crypto.library, "PEM_read_bio_PUBKEY", crypto.read_key);
  const bool newer = dlsym(crypto.library, "EVP_PKEY_get_base_id") != nullptr;
  bind(crypto.library, newer ? "EVP_PKEY_get_base_id" : "EVP_PKEY_base_id", crypto.key_kind);
  bind(crypto.library, "EVP_PKEY_free", crypto.free_key);
  bind(crypto.library, "EVP_MD_CTX_new", crypto.new_context);
  bind(crypto.library, "EVP_MD_CTX_free", crypto.free_context);
  bind(crypto.library, "EVP_DigestVerifyInit", crypto.begin);
  bind(crypto.library, "EVP_DigestVerify", crypto.verify);
  return crypto;
}

std::string read_file(const std::string &path, std::size_t most) {
  std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) fail(SPARSEC_ERROR_SIGNATURE, path + ": " + std::strerror(errno) + "; a signature is required");
  std::string data(most + 1, '\0');
  data.resize(std::fread(data.data(), 1, data.size(), file.get()));
  return data;
}

}  // namespace

void check_signature(const std::uint8_t *data, std::size_t bytes, const std::string &signature,
                     const std::string &public_key) {
  const std::string signed_by = read_file(signature, kSignatureBytes), pem = read_file(public_key, kKeyBytes);
  static const Crypto crypto = load();
  std::unique_ptr<void, int (*)(void *)> bio(crypto.new_bio(pem.data(), static_cast<int>(pem.size())), crypto.free_bio);
  std::unique_ptr<void, void (*)(void *)> key(bio ? crypto.read_key(bio.get(), nullptr, nullptr, nullptr) : nullptr,
                                              crypto.free_key);
  if (!key || crypto.key_kind(key.get()) != kEd25519) {
    fail(SPARSEC_ERROR_SIGNATURE, public_key + ": not a public Ed25519 key in PEM");
  }
  std::unique_ptr<void, void (*)(void *)> context(crypto.new_context(), crypto.free_context);
  const bool good = context && signed_by.size() == kSignatureBytes &&
                    crypto.begin(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
                    crypto.verify(context.get(), reinterpret_cast<const unsigned char *>(signed_by.data()),
                                  signed_by.size(), data, bytes) == 1;
  if (!good) fail(SPARSEC_ERROR_SIGNATURE, "the model is not what the owner of " + public_key + " has signed");
}

}  // namespace sparsec::native
