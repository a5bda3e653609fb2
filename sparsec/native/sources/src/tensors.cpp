#include "tensors.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "error.hpp"

namespace sparsec::native {

namespace {

constexpr std::size_t kMost = std::size_t{1} << 40;

void copy_axes(const char *from, char *&to, const sparsec_tensor &tensor, std::int32_t axis, std::size_t bytes,
               std::size_t run) {
  if (axis == tensor.rank) {
    std::memcpy(to, from, run);
    to += run;
    return;
  }
  const auto step = tensor.strides[axis] * static_cast<std::int64_t>(bytes);
  for (std::int64_t index = 0; index < tensor.shape[axis]; ++index) {
    if (axis + 1 == tensor.rank && run == bytes) {
      std::memcpy(to, from + index * step, bytes);
      to += bytes;
    } else {
      copy_axes(from + index * step, to, tensor, axis + 1, bytes, run);
    }
  }
}

}  // namespace

std::size_t element_count(const sparsec_tensor &tensor) {
  std::size_t count = 1;
  for (std::int32_t axis = 0; axis < tensor.rank; ++axis) count *= static_cast<std::size_t>(tensor.shape[axis]);
  return count;
}

bool is_dense(const sparsec_tensor &tensor) {
  std::int64_t step = 1;
  for (std::int32_t axis = tensor.rank - 1; axis >= 0; --axis) {
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != step) return false;
    step *= tensor.shape[axis];
  }
  return true;
}

void copy_dense(const sparsec_tensor &tensor, void *target) {
  const std::size_t bytes = sparsec_type_bytes(tensor.type), count = element_count(tensor);
  if (count == 0) return;
  if (is_dense(tensor)) {
    std::memcpy(target, tensor.data, count * bytes);
    return;
  }
  sparsec_tensor outer = tensor;  // without the axes at the end that lie dense
  std::int64_t run = 1;
  while (outer.rank > 0 && (outer.shape[outer.rank - 1] == 1 || outer.strides[outer.rank - 1] == run)) {
    run *= outer.shape[--outer.rank];
  }
  auto *to = static_cast<char *>(target);
  copy_axes(static_cast<const char *>(tensor.data), to, outer, 0, bytes, static_cast<std::size_t>(run) * bytes);
}

const char *type_name(std::int32_t type) {
  switch (type) {
    case SPARSEC_FLOAT32: return "float32";
    case SPARSEC_FLOAT64: return "float64";
    case SPARSEC_FLOAT16: return "float16";
    case SPARSEC_BFLOAT16: return "bfloat16";
    case SPARSEC_BOOL: return "bool";
    case SPARSEC_INT8: return "int8";
    case SPARSEC_INT16: return "int16";
    case SPARSEC_INT32: return "int32";
    case SPARSEC_INT64: return "int64";
    case SPARSEC_UINT8: return "uint8";
    case SPARSEC_UINT16: return "uint16";
    case SPARSEC_UINT32: return "uint32";
    case SPARSEC_UINT64: return "uint64";
    default: return "an unknown type";
  }
}

std::size_t elements_of(const std::vector<std::int64_t> &shape) {
  std::size_t count = 1;
  for (std::int64_t dim : shape) {
    if (dim < 0 || (dim > 0 && count > kMost / static_cast<std::size_t>(dim))) {
      fail(SPARSEC_ERROR_MODEL, "a tensor has an impossible shape");
    }
    count *= static_cast<std::size_t>(dim);
  }
  return count;
}

std::shared_ptr<void> aligned_memory(std::size_t bytes) {
  void *memory = std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, std::free};
}

std::shared_ptr<void> lasting_memory(std::size_t bytes) {
  const char *setting = std::getenv("SPARSEC_HUGE_PAGES");
  if (bytes < kHugePage || (setting != nullptr && std::strcmp(setting, "never") == 0)) return aligned_memory(bytes);
  const std::size_t room = bytes + kHugePage;
  void *mapping = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  madvise(mapping, room, MADV_HUGEPAGE);  // refused by systems without them
  const auto address = reinterpret_cast<std::uintptr_t>(mapping);
  const std::shared_ptr<void> owner(mapping, [room](void *all) { munmap(all, room); });
  return {owner, static_cast<std::uint8_t *>(mapping) + (kHugePage - address % kHugePage) % kHugePage};
}

std::string described(std::int32_t type, const std::int64_t *shape, std::size_t rank) {
  std::string text = std::string(type_name(type)) + " (";
  for (std::size_t axis = 0; axis < rank; ++axis) text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
  return text + ")";
}

}  // namespace sparsec::native
