// Arrays with strides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sparsec.h"

namespace sparsec::native {

// Elements of a shape; throws a Failure where there are too many or a dimension is negative.
std::size_t elements_of(const std::vector<std::int64_t> &shape);
// Of arrays within a model's file, and of memory that is made: kernels take no other.
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Memory at a multiple of kAlignment.
std::shared_ptr<void> aligned_memory(std::size_t bytes);
// Memory that lasts, in pages of 2 MB where the system has them and SPARSEC_HUGE_PAGES is not "never".
std::shared_ptr<void> lasting_memory(std::size_t bytes);
std::size_t element_count(const sparsec_tensor &tensor);
bool is_dense(const sparsec_tensor &tensor);
// Copy to row-major memory.
void copy_dense(const sparsec_tensor &tensor, void *target);
const char *type_name(std::int32_t type);
// "float32 (1, 3)"
std::string described(std::int32_t type, const std::int64_t *shape, std::size_t rank);

}  // namespace sparsec::native
