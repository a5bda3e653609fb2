// Operators that compute every element of the output from those at the same place. Integers wrap around, are divided
// towards zero, and by zero to zero.
#include <cmath>
#include <limits>
#include <type_traits>

#include "operators.hpp"

namespace sparsec::native::sized {

namespace {

template <typename Out, typename In, typename F>
void fill(const Array &out, const Array &x, F f) {
  const std::int64_t in = x.rank() > 0 ? x.strides.back() : 1;
  for_rows(x.shape, {&out.strides, &x.strides}, [&](std::int64_t run, const std::int64_t *at) {
    Out *to = out.values<Out>() + at[0];
    const In *from = x.values<In>() + at[1];
    for (std::int64_t i = 0; i < run; ++i) to[i] = static_cast<Out>(f(from[i * in]));
  });
}

template <typename Out, typename In, typename F>
void fill(const Array &out, const Array &x, const Array &y, F f) {
  const std::int64_t left = x.rank() > 0 ? x.strides.back() : 1, right = y.rank() > 0 ? y.strides.back() : 1;
  for_rows(out.shape, {&out.strides, &x.strides, &y.strides}, [&](std::int64_t run, const std::int64_t *at) {
    Out *to = out.values<Out>() + at[0];
    const In *a = x.values<In>() + at[1], *b = y.values<In>() + at[2];
    for (std::int64_t i = 0; i < run; ++i) to[i] = static_cast<Out>(f(a[i * left], b[i * right]));
  });
}

// Of two inputs of one type, the element type of the result.
template <typename Result, typename F>
Array binary(const Array &x, const Array &y, std::int32_t type, F f) {
  if (x.type != y.type) fail(SPARSEC_ERROR_MODEL, "an operator has inputs of two element types");
  const Shape shape = joint_shape(x.shape, y.shape);
  const Array out = allocate(type, shape), a = broadcast(x, shape), b = broadcast(y, shape);
  with_type(x.type, [&](auto zero) {
    using T = decltype(zero);
    using Out = std::conditional_t<std::is_same_v<Result, bool>, std::uint8_t, T>;
    fill<Out, T>(out, a, b, f);
  });
  return out;
}

template <typename F>
Operator arithmetic(F f) {
  return [f](const Arrays &inputs, const Attributes &) {
    return Arrays{binary<void>(inputs.at(0), inputs.at(1), inputs[0].type, f)};
  };
}

template <typename F>
Operator comparison(F f) {
  return [f](const Arrays &inputs, const Attributes &) {
    return Arrays{binary<bool>(inputs.at(0), inputs.at(1), SPARSEC_BOOL, f)};
  };
}

template <typename F>
Operator folded(F f) {
  return [f](const Arrays &inputs, const Attributes &) {
    Array found = inputs.at(0);
    for (std::size_t index = 1; index < inputs.size(); ++index) {
      found = binary<void>(found, inputs[index], found.type, f);
    }
    return Arrays{found};
  };
}

template <typename F>
Operator unary(F f) {
  return [f](const Arrays &inputs, const Attributes &) {
    const Array &x = inputs.at(0);
    const Array out = allocate(x.type, x.shape);
    with_type(x.type, [&](auto zero) { fill<decltype(zero), decltype(zero)>(out, x, f); });
    return Arrays{out};
  };
}

template <typename T, typename F>
T wrapped(T a, T b, F f) {
  if constexpr (std::is_floating_point_v<T>) {
    return f(a, b);
  } else {
    using Wide = std::uint64_t;
    return static_cast<T>(f(static_cast<Wide>(a), static_cast<Wide>(b)));
  }
}

struct Divide {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) return a / b;
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return static_cast<T>(0 - static_cast<std::uint64_t>(a));
    }
    return static_cast<T>(a / b);
  }
};

// The remainder with the sign of the divisor, or of the dividend.
template <bool kOfDividend>
struct Modulo {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      const T rest = std::fmod(a, b);
      return !kOfDividend && rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    } else {
      if (b == 0) return 0;
      if constexpr (std::is_signed_v<T>) {
        if (b == -1) return 0;
      }
      const T rest = static_cast<T>(a % b);
      return !kOfDividend && rest != 0 && (rest < 0) != (b < 0) ? static_cast<T>(rest + b) : rest;
    }
  }
};

struct Larger {
  template <typename T>
  T operator()(T a, T b) const {
    return a != a || a > b ? a : b;  // a NaN wins wherever it lies: b is taken where the comparison fails
  }
};

struct Smaller {
  template <typename T>
  T operator()(T a, T b) const {
    return a != a || a < b ? a : b;
  }
};

Arrays clip(const Arrays &inputs, const Attributes &) {
  Array x = inputs.at(0);
  if (inputs.size() > 1 && inputs[1]) x = binary<void>(x, inputs[1], x.type, Larger{});
  if (inputs.size() > 2 && inputs[2]) x = binary<void>(x, inputs[2], x.type, Smaller{});
  return {x};
}

template <typename Out, typename In>
Out converted(In v) {
  if constexpr (std::is_floating_point_v<In> && !std::is_floating_point_v<Out>) {
    if constexpr (std::is_same_v<Out, std::uint64_t>) {
      if (v >= In{9.2e18} && v < In{1.8e19}) return static_cast<Out>(v);
    }
    return v > In{-9.2e18} && v < In{9.2e18} ? static_cast<Out>(static_cast<std::int64_t>(v))
                                             : static_cast<Out>(std::numeric_limits<std::int64_t>::min());
  } else {
    return static_cast<Out>(v);
  }
}

// Call with a value of one of the types that are converted from and to directly; false for others.
template <typename F>
bool with_common_type(std::int32_t type, F &&function) {
  switch (type) {
    case SPARSEC_FLOAT32: return function(float{}), true;
    case SPARSEC_FLOAT64: return function(double{}), true;
    case SPARSEC_INT32: return function(std::int32_t{}), true;
    case SPARSEC_INT64: return function(std::int64_t{}), true;
    case SPARSEC_BOOL: return function(std::uint8_t{}), true;
    default: return false;
  }
}

Array cast_to(const Array &x, std::int32_t type) {
  const Array out = allocate(type, x.shape);
  if (type == SPARSEC_BOOL) {
    with_type(x.type, [&](auto from) { fill<std::uint8_t, decltype(from)>(out, x, [](auto v) { return v != 0; }); });
    return out;
  }
  bool done = false;
  with_common_type(x.type, [&](auto from) {
    using In = decltype(from);
    done = with_common_type(type, [&](auto to) { fill<decltype(to), In>(out, x, converted<decltype(to), In>); });
  });
  if (done) return out;
  std::vector<long double> wide;  // which has every value of every type
  wide.reserve(x.size());
  const Array plain = dense(x);
  with_type(x.type, [&](auto from) {
    for (std::size_t i = 0; i < x.size(); ++i) wide.push_back(static_cast<long double>(plain.values<decltype(from)>()[i]));
  });
  with_type(type, [&](auto to) {
    using Out = decltype(to);
    for (std::size_t i = 0; i < wide.size(); ++i) out.values<Out>()[i] = converted<Out, long double>(wide[i]);
  });
  return out;
}

// A function of floats; integers pass through double.
template <typename F>
Operator real(F f) {
  return [f](const Arrays &inputs, const Attributes &) {
    const bool narrow = inputs.at(0).type == SPARSEC_FLOAT32;
    const Array x = narrow || inputs[0].type == SPARSEC_FLOAT64 ? inputs[0] : cast_to(inputs[0], SPARSEC_FLOAT64);
    const Array out = allocate(x.type, x.shape);
    if (narrow) fill<float, float>(out, x, f);
    else fill<double, double>(out, x, f);
    return Arrays{x.type == inputs[0].type ? out : cast_to(out, inputs[0].type)};
  };
}

Arrays cast(const Arrays &inputs, const Attributes &attributes) {
  const auto type = static_cast<std::int32_t>(attributes["to"].integer());
  return {inputs.at(0).type == type ? inputs[0] : cast_to(inputs[0], type)};
}

Arrays power(const Arrays &inputs, const Attributes &) {
  const Array &x = inputs.at(0), &y = inputs.at(1);
  const auto raised = [](auto a, auto b) { return std::pow(a, b); };
  if (x.type == SPARSEC_FLOAT32) return {binary<void>(x, cast_to(y, x.type), x.type, raised)};
  return {cast_to(binary<void>(cast_to(x, SPARSEC_FLOAT64), cast_to(y, SPARSEC_FLOAT64), SPARSEC_FLOAT64, raised), x.type)};
}

Arrays where(const Arrays &inputs, const Attributes &) {
  const Array &x = inputs.at(1), &y = inputs.at(2);
  const Shape shape = joint_shape(inputs.at(0).shape, joint_shape(x.shape, y.shape));
  const Array out = dense(broadcast(y, shape)), c = broadcast(inputs[0], shape), a = broadcast(x, shape);
  Array found = allocate(x.type, shape);
  copy_to(out, found);
  const std::int64_t choose = shape.empty() ? 1 : c.strides.back(), step = shape.empty() ? 1 : a.strides.back();
  with_type(x.type, [&](auto zero) {
    using T = decltype(zero);
    for_rows(shape, {&found.strides, &c.strides, &a.strides}, [&](std::int64_t run, const std::int64_t *at) {
      for (std::int64_t i = 0; i < run; ++i) {
        if (c.values<std::uint8_t>()[at[1] + i * choose]) found.values<T>()[at[0] + i] = a.values<T>()[at[2] + i * step];
      }
    });
  });
  return {found};
}

Arrays is_nan(const Arrays &inputs, const Attributes &) {
  const Array out = allocate(SPARSEC_BOOL, inputs.at(0).shape);
  with_type(inputs[0].type, [&](auto zero) { fill<std::uint8_t, decltype(zero)>(out, inputs[0], [](auto v) { return v != v; }); });
  return {out};
}

Arrays modulo(const Arrays &inputs, const Attributes &attributes) {
  const bool of_dividend = attribute(attributes, "fmod", std::int64_t{0}) != 0;
  return {of_dividend ? binary<void>(inputs.at(0), inputs.at(1), inputs[0].type, Modulo<true>{})
                      : binary<void>(inputs.at(0), inputs.at(1), inputs[0].type, Modulo<false>{})};
}

template <typename T>
T sigmoid(T v) {
  const T small = std::exp(-std::abs(v));
  return (v >= 0 ? T{1} : small) / (1 + small);
}

}  // namespace

const Operators &elementwise_operators() {
  const auto add = [](auto a, auto b) { return wrapped(a, b, [](auto x, auto y) { return x + y; }); };
  static const Operators table = {
      {"Add", arithmetic(add)},
      {"Sub", arithmetic([](auto a, auto b) { return wrapped(a, b, [](auto x, auto y) { return x - y; }); })},
      {"Mul", arithmetic([](auto a, auto b) { return wrapped(a, b, [](auto x, auto y) { return x * y; }); })},
      {"Div", arithmetic(Divide{})},
      {"Mod", modulo},
      {"Pow", power},
      {"Max", folded(Larger{})},
      {"Min", folded(Smaller{})},
      {"Sum", folded(add)},
      {"And", comparison([](auto a, auto b) { return a != 0 && b != 0; })},
      {"Or", comparison([](auto a, auto b) { return a != 0 || b != 0; })},
      {"Xor", comparison([](auto a, auto b) { return (a != 0) != (b != 0); })},
      {"Equal", comparison([](auto a, auto b) { return a == b; })},
      {"Less", comparison([](auto a, auto b) { return a < b; })},
      {"LessOrEqual", comparison([](auto a, auto b) { return a <= b; })},
      {"Greater", comparison([](auto a, auto b) { return a > b; })},
      {"GreaterOrEqual", comparison([](auto a, auto b) { return a >= b; })},
      {"Not", unary([](auto v) { return v == 0; })},
      {"Neg", unary([](auto v) { return wrapped(decltype(v){0}, v, [](auto x, auto y) { return x - y; }); })},
      {"Abs", unary([](auto v) {
         if constexpr (std::is_floating_point_v<decltype(v)>) return std::abs(v);
         else return v < 0 ? static_cast<decltype(v)>(0 - static_cast<std::uint64_t>(v)) : v;
       })},
      {"Sign", unary([](auto v) { return v != v ? v : static_cast<decltype(v)>((v > 0) - (v < 0)); })},
      {"Relu", unary([](auto v) { return Larger{}(v, decltype(v){0}); })},
      {"Reciprocal", unary([](auto v) { return Divide{}(decltype(v){1}, v); })},
      {"Ceil", real([](auto v) { return std::ceil(v); })},
      {"Floor", real([](auto v) { return std::floor(v); })},
      {"Round", real([](auto v) { return std::nearbyint(v); })},
      {"Sqrt", real([](auto v) { return std::sqrt(v); })},
      {"Exp", real([](auto v) { return std::exp(v); })},
      {"Log", real([](auto v) { return std::log(v); })},
      {"Sin", real([](auto v) { return std::sin(v); })},
      {"Cos", real([](auto v) { return std::cos(v); })},
      {"Tanh", real([](auto v) { return std::tanh(v); })},
      {"Erf", real([](auto v) { return std::erf(v); })},
      {"Sigmoid", real([](auto v) { return sigmoid(v); })},
      {"IsNaN", is_nan},
      {"Clip", clip},
      {"Cast", cast},
      {"Where", where},
      {"Identity", [](const Arrays &inputs, const Attributes &) { return Arrays{inputs.at(0)}; }},
  };
  return table;
}

const Operator &operator_named(const std::string &name) {
  for (const Operators *table : {&elementwise_operators(), &moving_operators(), &reducing_operators(), &quantizing_operators()}) {
    if (auto found = table->find(name); found != table->end()) return found->second;
  }
  fail(SPARSEC_ERROR_MODEL, "the model has a step '" + name + "' that this library does not know; take the bundle's own");
}

}  // namespace sparsec::native::sized
