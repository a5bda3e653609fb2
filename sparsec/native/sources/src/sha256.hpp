// SHA-256 (FIPS 180-4, section 6.2).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sparsec::native {

std::array<std::uint8_t, 32> sha256(const std::uint8_t *data, std::size_t bytes);

}  // namespace sparsec::native
