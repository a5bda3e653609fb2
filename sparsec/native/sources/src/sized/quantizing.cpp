// From numbers to codes of 8 to 32 bits and back, with numbers of the whole tensor or of the elements of an axis.
#include <algorithm>
#include <cmath>
#include <limits>

#include "../tensors.hpp"
#include "operators.hpp"

namespace sparsec::native::sized {

namespace {

constexpr float kLargest = 255;  // code of dynamic quantisation

// Which scale and zero point belong to an element of a dense tensor.
struct Places {
  Places(const Array &x, const Array &numbers, const Attributes &attributes) : count(static_cast<std::int64_t>(numbers.size())) {
    if (count == 1) return;
    const std::size_t axis = axis_of(attribute(attributes, "axis", std::int64_t{1}), x.rank());
    if (x.shape[axis] != count) misfit("scales of shape " + text_of(numbers.shape) + " do not fit " + text_of(x.shape));
    for (std::size_t behind = axis + 1; behind < x.rank(); ++behind) inner *= x.shape[behind];
  }
  std::int64_t operator()(std::int64_t element) const { return count == 1 ? 0 : element / inner % count; }
  std::int64_t count, inner = 1;
};

// The value of a type that is nearest to a number, half to even; the least one of what is no number.
template <typename T>
T rounded(float units, double zero) {
  const double least = std::numeric_limits<T>::lowest(), most = std::numeric_limits<T>::max();
  const double code = static_cast<double>(std::nearbyint(units)) + zero;
  return code >= least ? static_cast<T>(std::min(code, most)) : std::numeric_limits<T>::lowest();
}

Array zero_or(const Arrays &inputs, std::int32_t type, const Array &scale) {
  if (inputs.size() > 2 && inputs[2]) {
    if (inputs[2].size() != scale.size()) misfit("scales and zero points are not equally many");
    return dense(inputs[2]);
  }
  Array zeros = allocate(type, scale.shape);
  std::fill_n(zeros.data, zeros.size() * zeros.item(), 0);
  return zeros;
}

Array float_of(const Array &array) {
  if (array.type != SPARSEC_FLOAT32) misfit("quantisation is of float32");
  return dense(array);
}

Array codes_of(const Array &x, const Array &scale, const Array &zero, const Places &place) {
  const Array out = allocate(zero.type, x.shape);
  with_type(zero.type, [&](auto of) {
    using T = decltype(of);
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(x.size()); ++i) {
      const std::int64_t at = place(i);
      out.values<T>()[i] = rounded<T>(x.values<float>()[i] / scale.values<float>()[at], static_cast<double>(zero.values<T>()[at]));
    }
  });
  return out;
}

Arrays quantize(const Arrays &inputs, const Attributes &attributes) {
  const Array x = float_of(inputs.at(0)), scale = float_of(inputs.at(1)), zero = zero_or(inputs, SPARSEC_UINT8, scale);
  return {codes_of(x, scale, zero, Places(x, scale, attributes))};
}

Arrays dequantize(const Arrays &inputs, const Attributes &attributes) {
  const Array codes = dense(inputs.at(0)), scale = float_of(inputs.at(1)), zero = zero_or(inputs, codes.type, scale);
  if (zero.type != codes.type) misfit("codes and zero points are of two types");
  const Places place(codes, scale, attributes);
  const Array out = allocate(SPARSEC_FLOAT32, codes.shape);
  with_type(codes.type, [&](auto of) {
    using T = decltype(of);
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(codes.size()); ++i) {
      const std::int64_t at = place(i);
      const double shifted = static_cast<double>(static_cast<float>(codes.values<T>()[i])) - static_cast<double>(zero.values<T>()[at]);
      out.values<float>()[i] = static_cast<float>(shifted) * scale.values<float>()[at];
    }
  });
  return {out};
}

// The scale and the zero point by which all elements fit.
Arrays levels(const Arrays &inputs, const Attributes &) {
  const Array x = float_of(inputs.at(0));
  float least = 0, most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    least = std::min(least, x.values<float>()[i]);
    most = std::max(most, x.values<float>()[i]);
  }
  const Array scale = allocate(SPARSEC_FLOAT32, {}), zero = allocate(SPARSEC_UINT8, {});
  const float step = (most - least) / kLargest;
  *scale.values<float>() = step == 0 ? 1 : step;
  *zero.values<std::uint8_t>() = rounded<std::uint8_t>(-least / *scale.values<float>(), 0);
  return {scale, zero};
}

Arrays quantize_dynamically(const Arrays &inputs, const Attributes &attributes) {
  const Array x = float_of(inputs.at(0));
  Arrays found = levels(inputs, attributes);
  found.insert(found.begin(), codes_of(x, found[0], found[1], Places(x, found[0], attributes)));
  return found;
}

}  // namespace

const Operators &quantizing_operators() {
  static const Operators table = {
      {"QuantizeLinear", quantize},
      {"DequantizeLinear", dequantize},
      {"DynamicQuantizeLinear", quantize_dynamically},
      {"sparsec.sized::Levels", levels},
  };
  return table;
}

}  // namespace sparsec::native::sized
