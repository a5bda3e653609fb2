// Calls the function `main` of a library on the arrays of a file, in place: kernels LIBRARY ARRAYS.
// The file: the number of arrays, by array its element type and its length as 64-bit numbers, and the arrays, each at a
// multiple of 64 bytes.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "error.hpp"
#include "ffi.hpp"

namespace ffi = sparsec::native::ffi;

int main(int, char **arguments) {
  const int file = open(arguments[2], O_RDWR);
  struct stat about {};
  if (file < 0 || fstat(file, &about) != 0) return 2;
  auto *data = static_cast<char *>(mmap(nullptr, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  const auto *head = reinterpret_cast<const std::int64_t *>(data);
  try {
    const ffi::Object library = ffi::call(ffi::global("ffi.ModuleLoadFromFile"), {ffi::text(arguments[1])});
    std::int64_t at = 64 * ((8 * (1 + 2 * head[0]) + 63) / 64);
    std::vector<ffi::Object> tensors;
    std::vector<TVMFFIAny> values;
    for (std::int64_t i = 0; i < head[0]; ++i) {
      const auto type = static_cast<std::int32_t>(head[1 + 2 * i]);
      tensors.push_back(ffi::tensor(data + at, type, {head[2 + 2 * i]}, nullptr));
      values.push_back(tensors.back().any());
      at += 64 * ((head[2 + 2 * i] * ffi::carrier(type).bits / 8 + 64 + 63) / 64);  // a guard of 64 bytes behind each
    }
    ffi::call(ffi::function_of(library, "main"), values);
  } catch (const sparsec::native::Failure &failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
  return munmap(data, about.st_size);
}
