#include "recurrent.hpp"

#include <algorithm>
#include <cstring>

namespace sparsec::native::sized {

namespace {

// The array in row-major order, or zeros where it is absent.
Array given_or_zeros(const Array &given, std::int32_t type, const Shape &shape) {
  if (given) return dense(given);
  Array zeros = allocate(type, shape);
  std::memset(zeros.data, 0, zeros.size() * zeros.item());
  return zeros;
}

// So many elements of a dense array, in one dimension.
ffi::Object run_of(const Array &array, std::int64_t first, std::int64_t count) {
  char *data = array.data + first * static_cast<std::int64_t>(array.item());
  return ffi::tensor(data, array.type, {count}, array.owner);
}

// As `run_of`, up to the end of the array.
ffi::Object rest_of(const Array &array, std::int64_t first) {
  return run_of(array, first, static_cast<std::int64_t>(array.size()) - first);
}

// A part of the result as an array of a shape.
Array part(const Array &whole, std::int64_t first, std::int64_t count, const Shape &shape) {
  return reshaped(sliced(whole, 0, first, count), shape);
}

}  // namespace

Recurrent::Recurrent(std::map<std::int64_t, Recurrence> kernels, std::int64_t hidden)
    : kernels_(std::move(kernels)), hidden_(hidden) {
  if (kernels_.find(1) == kernels_.end()) {
    fail(SPARSEC_ERROR_MODEL, "a recurrent layer of the model has no kernel for one sequence; bundle the model again");
  }
}

void Recurrent::check(const Arrays &inputs) const {
  const Array &x = inputs.at(0);
  if (x.type != SPARSEC_FLOAT32 || x.rank() != 3) misfit("a recurrent layer is given no sequences of float32");
  for (std::size_t place = 1; place < 4; ++place) {
    const Array &each = inputs.at(place);
    const Shape shape = place < 3 ? Shape{x.shape[1], hidden_} : Shape{x.shape[1]};
    if (each && (each.shape != shape || each.type != (place < 3 ? SPARSEC_FLOAT32 : SPARSEC_INT32))) {
      misfit("a recurrent layer is given states or lengths of shape " + text_of(each.shape) + " where " +
             text_of(shape) + " fits");
    }
  }
}

Arrays Recurrent::run(const Arrays &inputs) const {
  check(inputs);
  const Array x = dense(inputs[0]);
  const std::int64_t steps = x.shape[0], batch = x.shape[1], gates = x.shape[2];
  const Array h = given_or_zeros(inputs[1], SPARSEC_FLOAT32, {batch, hidden_});
  const Array c = given_or_zeros(inputs[2], SPARSEC_FLOAT32, {batch, hidden_});
  const Array lengths = given_or_zeros(inputs[3], SPARSEC_INT32, {batch});
  const Array y = allocate(SPARSEC_FLOAT32, {steps + 2, batch, hidden_});
  if (steps == 0) {  // no step changes the state
    copy_to(h, part(y, 0, 1, {batch, hidden_}));
    copy_to(c, part(y, 1, 1, {batch, hidden_}));
  }
  const Array sizes = integers({steps, batch}, {2}, SPARSEC_INT64);
  std::int64_t first = 0;
  for (auto kernel = kernels_.rbegin(); steps > 0 && kernel != kernels_.rend(); ++kernel) {
    for (const std::int64_t count = kernel->first; batch - first >= count; first += count) {
      const ffi::Object moving[] = {
          rest_of(sizes, 0), rest_of(x, first * gates), run_of(h, first * hidden_, count * hidden_),
          run_of(c, first * hidden_, count * hidden_), run_of(lengths, first, count)};
      const ffi::Object result = rest_of(y, first * hidden_);
      std::vector<TVMFFIAny> arguments;
      const std::vector<ffi::Object> &constants = *kernel->second.constants;
      for (std::size_t index = 0; index + 1 < constants.size(); ++index) arguments.push_back(constants[index].any());
      for (const ffi::Object &each : moving) arguments.push_back(each.any());
      arguments.push_back(constants.back().any());
      arguments.push_back(result.any());
      ffi::call(kernel->second.kernel, arguments);
    }
  }
  return {part(y, 0, steps, {steps, batch, hidden_}), part(y, steps, 1, {batch, hidden_}),
          part(y, steps + 1, 1, {batch, hidden_})};
}

}  // namespace sparsec::native::sized
