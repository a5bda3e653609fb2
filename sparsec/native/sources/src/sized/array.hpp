// Arrays with strides that share memory: what the steps of a program for run-time sizes compute with.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../error.hpp"
#include "../json.hpp"

namespace sparsec::native::sized {

using Shape = std::vector<std::int64_t>;
class Growing;
class Unread;

struct Array {
  std::shared_ptr<const void> owner;
  char *data = nullptr;
  std::int32_t type = 0;  // 0 where there is no array: an input that is absent
  Shape shape, strides;   // strides count elements
  bool borrowed = false;  // of the caller's memory
  std::shared_ptr<Growing> buffer;  // whose filled part it is
  std::shared_ptr<const Unread> unread;  // makes its rows, which lie nowhere

  explicit operator bool() const { return type != 0; }
  std::size_t rank() const { return shape.size(); }
  std::size_t size() const;
  std::size_t item() const;
  template <typename T>
  T *values() const {
    return reinterpret_cast<T *>(data);
  }
};

using Arrays = std::vector<Array>;
using Attributes = Json;
// An operator: from its inputs and attributes to its outputs.
using Operator = std::function<Arrays(const Arrays &, const Attributes &)>;

[[noreturn]] inline void misfit(const std::string &why) { fail(SPARSEC_ERROR_INPUT, why); }

Shape dense_strides(const Shape &shape);
Array allocate(std::int32_t type, const Shape &shape);
bool is_dense(const Array &array);
// The array, or a copy in row-major order.
Array dense(const Array &array);
// A dense array in another shape of as many elements.
Array reshaped(const Array &array, const Shape &shape);
// Copy to a view of the same shape and type.
void copy_to(const Array &from, const Array &to);
// The elements from `start` on along an axis.
Array sliced(const Array &array, std::size_t axis, std::int64_t start, std::int64_t count, std::int64_t step = 1);
Array transposed(const Array &array, const std::vector<std::size_t> &order);
// The array with every dimension of the shape, whose repeated ones have a stride of 0.
Array broadcast(const Array &array, const Shape &shape);
Shape joint_shape(const Shape &first, const Shape &second);
// An axis that counts from the front.
std::size_t axis_of(std::int64_t axis, std::size_t rank);
// The integers of an array, and its only one.
Shape integers_of(const Array &array);
std::int64_t integer_of(const Array &array);
Array integers(const Shape &values, const Shape &shape, std::int32_t type);
std::string text_of(const Shape &shape);

// Call with the first offsets, in elements, of every run along the last axis: body(run, offsets of each array).
void for_rows(const Shape &shape, const std::vector<const Shape *> &strides,
              const std::function<void(std::int64_t, const std::int64_t *)> &body);

// An attribute, or a default.
std::int64_t attribute(const Attributes &attributes, const char *name, std::int64_t otherwise);
double attribute(const Attributes &attributes, const char *name, double otherwise);

// Call a generic function with a value of the element type.
template <typename F>
decltype(auto) with_type(std::int32_t type, F &&function) {
  switch (type) {
    case SPARSEC_FLOAT32: return function(float{});
    case SPARSEC_FLOAT64: return function(double{});
    case SPARSEC_INT8: return function(std::int8_t{});
    case SPARSEC_INT16: return function(std::int16_t{});
    case SPARSEC_INT32: return function(std::int32_t{});
    case SPARSEC_INT64: return function(std::int64_t{});
    case SPARSEC_BOOL:
    case SPARSEC_UINT8: return function(std::uint8_t{});
    case SPARSEC_UINT16: return function(std::uint16_t{});
    case SPARSEC_UINT32: return function(std::uint32_t{});
    case SPARSEC_UINT64: return function(std::uint64_t{});
    default: fail(SPARSEC_ERROR_MODEL, "an operator between compiled stages computes with 16-bit floats");
  }
}

}  // namespace sparsec::native::sized
