#include "suppression.hpp"

#include <algorithm>

namespace sparsec::native::sized {

namespace {

// The number that an input holds, or 0 where it is absent.
float limit_of(const Array &given) {
  if (!given) return 0;
  const Array whole = dense(given);
  if (whole.type != SPARSEC_FLOAT32 || whole.size() == 0) misfit("a limit of NonMaxSuppression is no float32 number");
  return *whole.values<float>();
}

// A dense array in one dimension.
ffi::Object in_a_row(const Array &array) {
  return ffi::tensor(array.data, array.type, {static_cast<std::int64_t>(array.size())}, array.owner);
}

}  // namespace

Suppression::Suppression(const ffi::Object &library, const Json &step)
    : kernel_(ffi::function_of(library, "suppression")), centred_(step["centred"].boolean()),
      room_(step["room"].integer()), parts_(step["parts"].integer()) {}

Arrays Suppression::run(const Arrays &inputs) const {
  const Array boxes = dense(inputs.at(0)), scores = dense(inputs.at(1));
  if (scores.rank() != 3 || boxes.shape != Shape{scores.shape[0], scores.shape[2], 4} ||
      boxes.type != SPARSEC_FLOAT32 || scores.type != SPARSEC_FLOAT32) {
    misfit("boxes of shape " + text_of(boxes.shape) + " do not fit scores of shape " + text_of(scores.shape));
  }
  const std::int64_t batches = scores.shape[0], classes = scores.shape[1], count = scores.shape[2];
  const std::int64_t most = inputs.at(2) ? integers_of(inputs[2]).at(0) : 0;
  const std::int64_t wanted = std::min(std::max<std::int64_t>(0, most), count);
  if (batches == 0 || classes == 0 || wanted == 0) return {allocate(SPARSEC_INT64, {0, 3})};
  const std::int64_t room = (wanted + room_ - 1) / room_ * room_;
  const Array sizes = integers({batches, classes, count, wanted, centred_, !inputs.at(4), room}, {7}, SPARSEC_INT64);
  const Array limits = allocate(SPARSEC_FLOAT32, {2});
  limits.values<float>()[0] = limit_of(inputs.at(3));
  limits.values<float>()[1] = limit_of(inputs.at(4));
  const Array heap = allocate(SPARSEC_FLOAT32, {count}), order = allocate(SPARSEC_INT32, {count});
  const Array kept = allocate(SPARSEC_FLOAT32, {parts_ * room});
  const Array selected = allocate(SPARSEC_INT64, {batches * classes * wanted, 3});
  const Array found = integers({0}, {1}, SPARSEC_INT64);
  std::vector<ffi::Object> arguments;
  for (const Array *each : {&sizes, &limits, &boxes, &scores, &heap, &order, &kept, &selected, &found}) {
    arguments.push_back(in_a_row(*each));
  }
  std::vector<TVMFFIAny> values;
  for (const ffi::Object &each : arguments) values.push_back(each.any());
  ffi::call(kernel_, values);
  return {sliced(selected, 0, 0, integer_of(found))};
}

}  // namespace sparsec::native::sized
