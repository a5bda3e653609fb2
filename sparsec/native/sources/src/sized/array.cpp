#include "array.hpp"

#include <algorithm>
#include <cstring>

#include "../tensors.hpp"


namespace sparsec::native::sized {

namespace {

template <typename T>
void copy_elements(const Array &from, const Array &to) {
  const T *source = from.values<T>();
  T *target = to.values<T>();
  const std::int64_t in = from.rank() > 0 ? from.strides.back() : 1, out = to.rank() > 0 ? to.strides.back() : 1;
  for_rows(from.shape, {&from.strides, &to.strides}, [&](std::int64_t run, const std::int64_t *at) {
    if (in == 1 && out == 1) {
      std::memcpy(target + at[1], source + at[0], static_cast<std::size_t>(run) * sizeof(T));
      return;
    }
    for (std::int64_t i = 0; i < run; ++i) target[at[1] + i * out] = source[at[0] + i * in];
  });
}

}  // namespace

std::size_t Array::size() const {
  std::size_t count = 1;
  for (std::int64_t dim : shape) count *= static_cast<std::size_t>(dim);
  return count;
}

std::size_t Array::item() const { return sparsec_type_bytes(type); }

Shape dense_strides(const Shape &shape) {
  Shape strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t axis = shape.size(); axis-- > 0; step *= shape[axis]) strides[axis] = step;
  return strides;
}

Array allocate(std::int32_t type, const Shape &shape) {
  Array array;
  auto memory = aligned_memory(elements_of(shape) * sparsec_type_bytes(type));
  array.data = static_cast<char *>(memory.get());
  array.owner = std::move(memory);
  array.type = type;
  array.shape = shape;
  array.strides = dense_strides(shape);
  return array;
}

bool is_dense(const Array &array) {
  std::int64_t step = 1;
  for (std::size_t axis = array.rank(); axis-- > 0;) {
    if (array.shape[axis] != 1 && array.strides[axis] != step) return array.size() == 0;
    step *= array.shape[axis];
  }
  return true;
}

Array dense(const Array &array) {
  if (is_dense(array)) {
    Array same = array;
    same.strides = dense_strides(same.shape);
    return same;
  }
  Array copy = allocate(array.type, array.shape);
  copy_to(array, copy);
  return copy;
}

Array reshaped(const Array &array, const Shape &shape) {
  Array found = dense(array);
  found.shape = shape;
  found.strides = dense_strides(shape);
  found.buffer = nullptr;
  if (found.size() != array.size()) misfit(text_of(array.shape) + " cannot become " + text_of(shape));
  return found;
}

void copy_to(const Array &from, const Array &to) {
  switch (from.item()) {
    case 1: return copy_elements<std::uint8_t>(from, to);
    case 2: return copy_elements<std::uint16_t>(from, to);
    case 4: return copy_elements<std::uint32_t>(from, to);
    default: return copy_elements<std::uint64_t>(from, to);
  }
}

Array sliced(const Array &array, std::size_t axis, std::int64_t start, std::int64_t count, std::int64_t step) {
  Array view = array;
  view.buffer = nullptr;
  if (count > 0) view.data += start * array.strides[axis] * static_cast<std::int64_t>(array.item());
  view.shape[axis] = count;
  view.strides[axis] = array.strides[axis] * step;
  return view;
}

Array transposed(const Array &array, const std::vector<std::size_t> &order) {
  Array view = array;
  view.buffer = nullptr;
  for (std::size_t axis = 0; axis < order.size(); ++axis) {
    view.shape[axis] = array.shape.at(order[axis]);
    view.strides[axis] = array.strides[order[axis]];
  }
  return view;
}

Array broadcast(const Array &array, const Shape &shape) {
  Array view = array;
  view.buffer = nullptr;
  view.shape = shape;
  view.strides.assign(shape.size(), 0);
  if (array.rank() > shape.size()) misfit(text_of(array.shape) + " does not fit " + text_of(shape));
  for (std::size_t back = 1; back <= array.rank(); ++back) {
    const std::int64_t size = array.shape[array.rank() - back], wanted = shape[shape.size() - back];
    if (size != wanted && size != 1) misfit(text_of(array.shape) + " does not fit " + text_of(shape));
    view.strides[shape.size() - back] = size == 1 ? 0 : array.strides[array.rank() - back];
  }
  return view;
}

Shape joint_shape(const Shape &first, const Shape &second) {
  Shape shape(std::max(first.size(), second.size()), 1);
  for (std::size_t back = 1; back <= shape.size(); ++back) {
    const std::int64_t a = back <= first.size() ? first[first.size() - back] : 1;
    const std::int64_t b = back <= second.size() ? second[second.size() - back] : 1;
    if (a != b && a != 1 && b != 1) misfit(text_of(first) + " does not fit " + text_of(second));
    shape[shape.size() - back] = a == 1 ? b : a;
  }
  return shape;
}

std::size_t axis_of(std::int64_t axis, std::size_t rank) {
  const auto dimensions = static_cast<std::int64_t>(rank);
  if (axis < -dimensions || axis >= dimensions) misfit("there is no axis " + std::to_string(axis));
  return static_cast<std::size_t>(axis < 0 ? axis + dimensions : axis);
}

Shape integers_of(const Array &array) {
  const Array plain = dense(array);
  Shape found(plain.size());
  with_type(plain.type, [&](auto zero) {
    const auto *values = plain.values<decltype(zero)>();
    std::transform(values, values + found.size(), found.begin(), [](auto v) { return static_cast<std::int64_t>(v); });
  });
  return found;
}

std::int64_t integer_of(const Array &array) {
  const Shape found = integers_of(array);
  if (found.size() != 1) misfit("one number is needed, not " + text_of(array.shape));
  return found[0];
}

Array integers(const Shape &values, const Shape &shape, std::int32_t type) {
  Array array = allocate(type, shape);
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    std::transform(values.begin(), values.end(), array.values<T>(), [](std::int64_t v) { return static_cast<T>(v); });
  });
  return array;
}

std::string text_of(const Shape &shape) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
  return text + ")";
}

void for_rows(const Shape &shape, const std::vector<const Shape *> &strides,
              const std::function<void(std::int64_t, const std::int64_t *)> &body) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;
  const std::size_t outer = shape.empty() ? 0 : shape.size() - 1;
  const std::int64_t run = shape.empty() ? 1 : shape.back();
  Shape index(outer, 0), at(strides.size(), 0);
  for (;;) {
    body(run, at.data());
    std::size_t axis = outer;
    for (; axis-- > 0;) {
      if (++index[axis] < shape[axis]) break;
      for (std::size_t i = 0; i < strides.size(); ++i) at[i] -= (shape[axis] - 1) * (*strides[i])[axis];
      index[axis] = 0;
    }
    if (axis == static_cast<std::size_t>(-1)) return;
    for (std::size_t i = 0; i < strides.size(); ++i) at[i] += (*strides[i])[axis];
  }
}

std::int64_t attribute(const Attributes &attributes, const char *name, std::int64_t otherwise) {
  const Json *found = attributes.find(name);
  return found == nullptr ? otherwise : found->integer();
}

double attribute(const Attributes &attributes, const char *name, double otherwise) {
  const Json *found = attributes.find(name);
  return found == nullptr ? otherwise : found->real();
}

}  // namespace sparsec::native::sized
