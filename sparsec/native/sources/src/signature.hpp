// Detached Ed25519 signatures (RFC 8032), checked by OpenSSL's libcrypto, which is opened when one is required.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace sparsec::native {

// Throws a Failure unless the file `signature` holds that of the data by the owner of `public_key`, a file in PEM.
void check_signature(const std::uint8_t *data, std::size_t bytes, const std::string &signature,
                     const std::string &public_key);

}  // namespace sparsec::native
