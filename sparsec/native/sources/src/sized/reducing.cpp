// Operators that sum, multiply and choose along axes. Sums of floats are taken in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>

#include "../tensors.hpp"
#include "operators.hpp"

namespace sparsec::native::sized {

namespace {

template <typename T>
using Sum = std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;

// A dense array whose chosen axes lie last: [rest][chosen], with the sizes of both.
struct Lines {
  Array array;
  std::int64_t rest = 1, length = 1;
  Shape kept;  // the shape with chosen axes of size 1
};

Lines lines_of(const Array &x, const std::vector<bool> &chosen) {
  std::vector<std::size_t> order;
  for (bool wanted : {false, true}) {
    for (std::size_t axis = 0; axis < x.rank(); ++axis) {
      if (chosen[axis] == wanted) order.push_back(axis);
    }
  }
  Lines found{dense(transposed(x, order)), 1, 1, x.shape};
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    (chosen[axis] ? found.length : found.rest) *= x.shape[axis];
    if (chosen[axis]) found.kept[axis] = 1;
  }
  return found;
}

struct Total {
  template <typename T>
  T operator()(const T *line, std::int64_t length) const {
    return static_cast<T>(std::accumulate(line, line + length, Sum<T>{}, [](Sum<T> a, T b) { return a + static_cast<Sum<T>>(b); }));
  }
};

struct Mean {
  template <typename T>
  T operator()(const T *line, std::int64_t length) const {
    const double sum = std::accumulate(line, line + length, 0.0, [](double a, T b) { return a + static_cast<double>(b); });
    return static_cast<T>(sum / static_cast<double>(length));
  }
};

struct Same {
  template <typename V>
  V operator()(V value) const { return value; }
};
struct Magnitude {
  template <typename V>
  V operator()(V value) const { return value < V{} ? -value : value; }
};
struct Square {
  template <typename V>
  V operator()(V value) const { return value * value; }
};
struct Root {
  double operator()(double value) const { return std::sqrt(value); }
};
struct Logarithm {
  double operator()(double value) const { return std::log(value); }
};

// What follows from the sum of changed elements.
template <typename Change, typename Finish>
struct SumOf {
  template <typename T>
  T operator()(const T *line, std::int64_t length) const {
    using Wide = std::conditional_t<std::is_floating_point_v<T>, double, std::int64_t>;
    Wide sum{};
    for (std::int64_t i = 0; i < length; ++i) sum += Change{}(static_cast<Wide>(line[i]));
    return static_cast<T>(Finish{}(sum));
  }
};

// The logarithm of the sum of exponentials, which do not overflow.
struct LogSumExp {
  template <typename T>
  T operator()(const T *line, std::int64_t length) const {
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (std::int64_t i = 0; i < length; ++i) most = std::max(most, static_cast<double>(line[i]));
    if (!std::isfinite(most)) most = 0;
    for (std::int64_t i = 0; i < length; ++i) sum += std::exp(static_cast<double>(line[i]) - most);
    return static_cast<T>(std::log(sum) + most);
  }
};

struct Product {
  template <typename T>
  T operator()(const T *line, std::int64_t length) const {
    return static_cast<T>(std::accumulate(line, line + length, Sum<T>{1}, [](Sum<T> a, T b) { return a * static_cast<Sum<T>>(b); }));
  }
};

template <bool kLargest>
struct Extreme {
  template <typename T>
  T operator()(const T *line, std::int64_t length) const {
    using Limits = std::numeric_limits<T>;
    if (length == 0 && !Limits::has_infinity) return kLargest ? Limits::lowest() : Limits::max();
    if (length == 0) return kLargest ? -Limits::infinity() : Limits::infinity();
    T best = line[0];
    for (std::int64_t i = 1; i < length && best == best; ++i) {
      if (line[i] != line[i] || (kLargest ? line[i] > best : line[i] < best)) best = line[i];
    }
    return best;
  }
};

template <typename F>
Operator reduced(F f) {
  return [f](const Arrays &inputs, const Attributes &attributes) {
    const Array &x = inputs.at(0);
    const Shape axes = inputs.size() > 1 && inputs[1] ? integers_of(inputs[1]) : Shape{};
    const bool none = attribute(attributes, "noop_with_empty_axes", std::int64_t{0}) != 0;
    std::vector<bool> chosen(x.rank(), axes.empty() && !none);
    for (std::int64_t axis : axes) chosen[axis_of(axis, x.rank())] = true;
    const Lines lines = lines_of(x, chosen);
    Array out = allocate(x.type, lines.kept);
    with_type(x.type, [&](auto zero) {
      using T = decltype(zero);
      for (std::int64_t i = 0; i < lines.rest; ++i) {
        out.values<T>()[i] = f(lines.array.values<T>() + i * lines.length, lines.length);
        if (x.type == SPARSEC_BOOL) out.values<T>()[i] = static_cast<T>(out.values<T>()[i] != T{});
      }
    });
    if (attribute(attributes, "keepdims", std::int64_t{1}) != 0) return Arrays{out};
    Shape left;
    for (std::size_t axis = 0; axis < x.rank(); ++axis) {
      if (!chosen[axis]) left.push_back(x.shape[axis]);
    }
    return Arrays{reshaped(out, left)};
  };
}

template <bool kLargest>
Arrays arg_extreme(const Arrays &inputs, const Attributes &attributes) {
  const Array &x = inputs.at(0);
  const std::size_t axis = axis_of(attribute(attributes, "axis", std::int64_t{0}), x.rank());
  const bool last = attribute(attributes, "select_last_index", std::int64_t{0}) != 0;
  std::vector<bool> chosen(x.rank(), false);
  chosen[axis] = true;
  const Lines lines = lines_of(x, chosen);
  if (lines.length == 0) misfit("there is no extreme of nothing");
  Array out = allocate(SPARSEC_INT64, lines.kept);
  with_type(x.type, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t i = 0; i < lines.rest; ++i) {
      const T *line = lines.array.values<T>() + i * lines.length;
      std::int64_t best = 0;
      for (std::int64_t at = 1; at < lines.length; ++at) {
        const bool better = kLargest ? line[at] > line[best] : line[at] < line[best];
        if (better || (last && line[at] == line[best])) best = at;
      }
      out.values<std::int64_t>()[i] = best;
    }
  });
  if (attribute(attributes, "keepdims", std::int64_t{1}) != 0) return {out};
  Shape left = x.shape;
  left.erase(left.begin() + static_cast<std::ptrdiff_t>(axis));
  return {reshaped(out, left)};
}

// A function of every line along an axis to a line as long.
template <typename F>
Array by_line(const Array &x, std::size_t axis, F f) {
  std::vector<std::size_t> order(x.rank());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::swap(order[axis], order.back());
  const Array turned = dense(transposed(x, order));
  Array out = allocate(x.type, turned.shape);
  const std::int64_t length = turned.shape.back();
  with_type(x.type, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t at = 0; at < static_cast<std::int64_t>(out.size()); at += std::max<std::int64_t>(length, 1)) {
      f(turned.values<T>() + at, out.values<T>() + at, length);
    }
  });
  return transposed(out, order);
}

Arrays softmax(const Arrays &inputs, const Attributes &attributes) {
  const Array &x = inputs.at(0);
  return {by_line(x, axis_of(attribute(attributes, "axis", std::int64_t{-1}), x.rank()), [](const auto *in, auto *out, std::int64_t length) {
    using T = std::decay_t<decltype(*out)>;
    const T most = Extreme<true>{}(in, length);
    double sum = 0;
    for (std::int64_t i = 0; i < length; ++i) {
      out[i] = static_cast<T>(std::exp(static_cast<std::conditional_t<std::is_floating_point_v<T>, T, double>>(in[i] - most)));
      sum += static_cast<double>(out[i]);
    }
    for (std::int64_t i = 0; i < length; ++i) out[i] = static_cast<T>(static_cast<double>(out[i]) / sum);
  })};
}

Arrays cumulative_sum(const Arrays &inputs, const Attributes &attributes) {
  const Array &x = inputs.at(0);
  const bool reverse = attribute(attributes, "reverse", std::int64_t{0}) != 0;
  const bool exclusive = attribute(attributes, "exclusive", std::int64_t{0}) != 0;
  return {by_line(x, axis_of(integer_of(inputs.at(1)), x.rank()), [&](const auto *in, auto *out, std::int64_t length) {
    using T = std::decay_t<decltype(*out)>;
    std::conditional_t<std::is_floating_point_v<T>, T, std::uint64_t> sum{};
    for (std::int64_t i = 0; i < length; ++i) {
      const std::int64_t at = reverse ? length - 1 - i : i;
      if (exclusive) out[at] = static_cast<T>(sum);
      sum += static_cast<decltype(sum)>(in[at]);
      if (!exclusive) out[at] = static_cast<T>(sum);
    }
  })};
}

Array product(const Array &left, const Array &right) {
  Array a = left, b = right;
  if (a.type != b.type || a.rank() == 0 || b.rank() == 0) misfit("a product takes two matrices of one element type");
  const bool row = a.rank() == 1, column = b.rank() == 1;
  if (row) a = reshaped(a, {1, a.shape[0]});
  if (column) b = reshaped(b, {b.shape[0], 1});
  const std::int64_t m = a.shape[a.rank() - 2], k = a.shape.back(), n = b.shape.back();
  if (b.shape[b.rank() - 2] != k) misfit(text_of(left.shape) + " cannot be multiplied with " + text_of(right.shape));
  Shape lead = joint_shape(Shape(a.shape.begin(), a.shape.end() - 2), Shape(b.shape.begin(), b.shape.end() - 2));
  Shape wide_a = lead, wide_b = lead, whole = lead;
  wide_a.insert(wide_a.end(), {m, k});
  wide_b.insert(wide_b.end(), {k, n});
  whole.insert(whole.end(), {m, n});
  a = dense(broadcast(a, wide_a)), b = dense(broadcast(b, wide_b));
  Array out = allocate(a.type, whole);
  const std::int64_t batches = static_cast<std::int64_t>(elements_of(lead));
  with_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    using Wide = std::conditional_t<std::is_floating_point_v<T>, T, std::uint64_t>;
    std::vector<Wide> sums(static_cast<std::size_t>(n));
    for (std::int64_t line = 0; line < batches * m; ++line) {
      std::fill(sums.begin(), sums.end(), Wide{});
      for (std::int64_t i = 0; i < k; ++i) {
        const auto factor = static_cast<Wide>(a.values<T>()[line * k + i]);
        const T *from = b.values<T>() + (line / m * k + i) * n;
        for (std::int64_t j = 0; j < n; ++j) sums[static_cast<std::size_t>(j)] += factor * static_cast<Wide>(from[j]);
      }
      std::transform(sums.begin(), sums.end(), out.values<T>() + line * n, [](Wide v) { return static_cast<T>(v); });
    }
  });
  if (row) whole.erase(whole.end() - 2);
  if (column) whole.pop_back();
  return reshaped(out, whole);
}

Arrays matmul(const Arrays &inputs, const Attributes &) { return {product(inputs.at(0), inputs.at(1))}; }

Arrays gemm(const Arrays &inputs, const Attributes &attributes) {
  const auto turned = [&](const Array &x, const char *name) {
    return attribute(attributes, name, std::int64_t{0}) != 0 ? transposed(x, {1, 0}) : x;
  };
  Array y = product(turned(inputs.at(0), "transA"), turned(inputs.at(1), "transB"));
  const double alpha = attribute(attributes, "alpha", 1.0), beta = attribute(attributes, "beta", 1.0);
  const bool has_bias = inputs.size() > 2 && inputs[2];
  const Array bias = has_bias ? dense(broadcast(inputs[2], y.shape)) : Array{};
  with_type(y.type, [&](auto zero) {
    using T = decltype(zero);
    for (std::size_t i = 0; i < y.size(); ++i) {
      T &value = y.values<T>()[i];
      if (alpha != 1) value = static_cast<T>(alpha * static_cast<double>(value));
      if (has_bias) value = static_cast<T>(value + static_cast<T>(beta * static_cast<double>(bias.values<T>()[i])));
    }
  });
  return {y};
}

// LayerNormalization, and RMSNormalization, which subtracts no mean.
template <bool kCentred>
Arrays normalized(const Arrays &inputs, const Attributes &attributes) {
  const Array x = dense(inputs.at(0));
  const std::size_t axis = axis_of(attribute(attributes, "axis", std::int64_t{-1}), x.rank());
  const Shape own(x.shape.begin() + static_cast<std::ptrdiff_t>(axis), x.shape.end());
  const auto length = static_cast<std::int64_t>(elements_of(own));
  const double epsilon = attribute(attributes, "epsilon", 1e-5);
  const Array scale = dense(broadcast(inputs.at(1), own));
  const bool has_bias = inputs.size() > 2 && inputs[2];
  const Array bias = has_bias ? dense(broadcast(inputs[2], own)) : Array{};
  Array out = allocate(x.type, x.shape);
  with_type(x.type, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t at = 0; at < static_cast<std::int64_t>(x.size()); at += std::max<std::int64_t>(length, 1)) {
      const T *line = x.values<T>() + at;
      const double mean = kCentred ? static_cast<double>(Total{}(line, length)) / static_cast<double>(length) : 0;
      double squares = 0;
      for (std::int64_t i = 0; i < length; ++i) squares += (static_cast<double>(line[i]) - mean) * (static_cast<double>(line[i]) - mean);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(length) + epsilon);
      for (std::int64_t i = 0; i < length; ++i) {
        const double normal = (static_cast<double>(line[i]) - mean) * inverse * static_cast<double>(scale.values<T>()[i]);
        out.values<T>()[at + i] = static_cast<T>(has_bias ? normal + static_cast<double>(bias.values<T>()[i]) : normal);
      }
    }
  });
  return {out};
}

}  // namespace

const Operators &reducing_operators() {
  static const Operators table = {
      {"ReduceSum", reduced(Total{})},         {"ReduceMean", reduced(Mean{})},
      {"ReduceProd", reduced(Product{})},      {"ReduceMax", reduced(Extreme<true>{})},
      {"ReduceMin", reduced(Extreme<false>{})}, {"ReduceL1", reduced(SumOf<Magnitude, Same>{})},
      {"ReduceL2", reduced(SumOf<Square, Root>{})}, {"ReduceLogSum", reduced(SumOf<Same, Logarithm>{})},
      {"ReduceLogSumExp", reduced(LogSumExp{})}, {"ReduceSumSquare", reduced(SumOf<Square, Same>{})},
      {"ArgMax", arg_extreme<true>},
      {"ArgMin", arg_extreme<false>},          {"Softmax", softmax},
      {"CumSum", cumulative_sum},              {"MatMul", matmul},
      {"Gemm", gemm},                          {"LayerNormalization", normalized<true>},
      {"RMSNormalization", normalized<false>},
  };
  return table;
}

}  // namespace sparsec::native::sized
