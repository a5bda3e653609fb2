// Arrays with strides.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sparsec.h"

namespace sparsec::native {

std::size_t element_count(const sparsec_tensor &tensor);
bool is_dense(const sparsec_tensor &tensor);
// Copy to row-major memory.
void copy_dense(const sparsec_tensor &tensor, void *target);
const char *type_name(std::int32_t type);

}  // namespace sparsec::native
