// TVM's C interface with owned references, and errors as Failures.
#pragma once

#include <tvm/ffi/c_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sparsec.h"

namespace sparsec::native::ffi {

// A counted reference to an object of TVM's, or none.
class Object {
 public:
  Object() = default;
  explicit Object(TVMFFIObjectHandle owned) : handle_(owned) {}
  Object(Object &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Object &operator=(Object &&other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Object(const Object &) = delete;
  Object &operator=(const Object &) = delete;
  ~Object() {
    if (handle_ != nullptr) TVMFFIObjectDecRef(handle_);
  }

  explicit operator bool() const { return handle_ != nullptr; }
  TVMFFIObjectHandle get() const { return handle_; }
  // Another reference to it.
  Object share() const {
    TVMFFIObjectIncRef(handle_);
    return Object(handle_);
  }
  // It as an argument.
  TVMFFIAny any() const;

 private:
  TVMFFIObjectHandle handle_ = nullptr;
};

TVMFFIAny integer(std::int64_t value);
TVMFFIAny text(const char *value);

// The result of a call, an object or none; throws a Failure for the error that it raises.
Object call(const Object &function, const std::vector<TVMFFIAny> &arguments);

// A global function, or a module's.
Object global(const char *name);
Object function_of(const Object &module, const char *name);

// The element type that programs take for one of the interface's: of the same bits where DLPack's has no arithmetic.
DLDataType carrier(std::int32_t type);

// A dense tensor of memory that `owner` keeps.
Object tensor(void *data, std::int32_t type, const std::vector<std::int64_t> &shape, std::shared_ptr<const void> owner);

// What a tensor object refers to.
const DLTensor &view(const Object &tensor);
void *address(const Object &tensor);

// The elements of an array object; throws a Failure where one is no tensor.
std::vector<Object> tensors_of(const Object &array);

}  // namespace sparsec::native::ffi
