#include "attention.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "../library.hpp"

namespace sparsec::native::sized {

namespace {

// The array, or a copy whose features are neighbours.
Array by_rows(const Array &array) {
  if (array.rank() == 0 || array.type != SPARSEC_FLOAT32) misfit("a kernel is given something else than float32 rows");
  const bool near = array.strides.back() == 1 || array.shape.back() == 1;
  const bool forward = std::all_of(array.strides.begin(), array.strides.end(), [](std::int64_t s) { return s >= 0; });
  return near && forward ? array : dense(array);
}

// A mask with all keys of a row; other dimensions that it lacks have a stride of 0.
Array spread(const Array &mask, const Shape &shape) {
  if (mask.rank() == 0 || mask.shape.back() != shape.back() || mask.strides.back() != 1) {
    Shape own = mask.shape.empty() ? Shape{1} : mask.shape;
    own.back() = shape.back();
    Array whole = allocate(mask.type, own);
    copy_to(broadcast(mask, own), whole);
    return broadcast(whole, shape);
  }
  return broadcast(mask, shape);
}

// Everything between the first and the last element of a view, in one dimension.
ffi::Object flat(const Array &array) {
  std::int64_t span = 1;
  for (std::size_t axis = 0; axis < array.rank(); ++axis) span += (array.shape[axis] - 1) * array.strides[axis];
  return ffi::tensor(array.data, array.type, {std::max<std::int64_t>(span, 0)}, array.owner);
}

ffi::Object whole(const Array &array) {
  return ffi::tensor(array.data, array.type, {static_cast<std::int64_t>(array.size())}, array.owner);
}

void add_lines(Shape &sizes, const Array &array) {
  sizes.insert(sizes.end(), array.strides.begin(), array.strides.begin() + 3);
}

void check_heads(const Array &array) {
  if (array.rank() != 4) misfit("heads have " + std::to_string(array.rank()) + " dimensions instead of 4");
}

ffi::Object kernel_of(const ffi::Object &library, const char *name, std::int64_t number) {
  return ffi::function_of(library, (name + std::to_string(number)).c_str());
}

}  // namespace

Attention::Attention(const ffi::Object &library, std::int64_t number, const Json &about)
    : kernel_(kernel_of(library, "attention", number)), width_(about["width"].integer()),
      pair_(std::max<std::int64_t>(1, about["pair"].integer())),
      floats_(about["threads"].integer() * (about["depth"].integer() + about["rows"].integer())),
      work_(allocate(SPARSEC_FLOAT32, {1})) {}

Arrays Attention::run(const Arrays &inputs) {
  const Array q = by_rows(inputs.at(0)), k = by_rows(inputs.at(1)), v = by_rows(inputs.at(2));
  for (const Array *each : {&q, &k, &v}) check_heads(*each);
  const std::int64_t batch = q.shape[0], heads = q.shape[1], tokens = q.shape[2], groups = k.shape[1], keys = k.shape[2];
  if (groups == 0 || heads % groups != 0 || k.shape[0] != batch || v.shape[0] != batch || v.shape[1] != groups ||
      v.shape[2] != keys) {
    misfit("queries " + text_of(q.shape) + ", keys " + text_of(k.shape) + " and values " + text_of(v.shape) +
           " do not fit");
  }
  const Array out = allocate(SPARSEC_FLOAT32, {batch, tokens, heads, width_});
  const Array y = transposed(out, {0, 2, 1, 3});
  if (out.size() == 0) return {y};
  if (keys == 0) {
    std::fill_n(out.values<float>(), out.size(), std::numeric_limits<float>::quiet_NaN());  // as 0 / 0 is
    return {y};
  }
  const bool masked = inputs.size() > 3 && inputs[3];
  const Array mask = masked ? spread(inputs[3], {batch, heads, tokens, keys}) : q;
  const std::int64_t room = (keys + pair_ - 1) / pair_ * pair_ * floats_;
  if (room > static_cast<std::int64_t>(work_.size())) work_ = allocate(SPARSEC_FLOAT32, {2 * room});
  Shape sizes = {batch, groups, heads / groups, tokens, keys, masked};
  for (const Array *each : {&q, &k, &v}) add_lines(sizes, *each);
  if (masked) add_lines(sizes, mask);
  else sizes.insert(sizes.end(), {0, 0, 0});
  add_lines(sizes, y);
  const Array numbers = integers(sizes, {static_cast<std::int64_t>(sizes.size())}, SPARSEC_INT64);
  std::vector<ffi::Object> arguments;
  arguments.push_back(whole(numbers));
  for (const Array *each : {&q, &k, &v, &mask}) arguments.push_back(flat(*each));
  if (inputs.size() > 4) arguments.push_back(flat(by_rows(inputs[4])));  // what scores and weights are rounded to
  arguments.push_back(whole(work_));
  arguments.push_back(whole(out));
  std::vector<TVMFFIAny> values;
  for (const ffi::Object &each : arguments) values.push_back(each.any());
  ffi::call(kernel_, values);
  return {y};
}

Rotary::Rotary(const ffi::Object &library, std::int64_t number) : kernel_(kernel_of(library, "rotary", number)) {}

Arrays Rotary::run(const Arrays &inputs) const {
  const Array x = by_rows(inputs.at(0)), cos = by_rows(inputs.at(1)), sin = by_rows(inputs.at(2));
  check_heads(x);
  const std::int64_t batch = x.shape[0], heads = x.shape[1], tokens = x.shape[2];
  const Array out = allocate(SPARSEC_FLOAT32, {batch, tokens, heads, x.shape[3]});
  const Array y = transposed(out, {0, 2, 1, 3});
  if (out.size() == 0) return {y};
  Shape sizes = {batch, heads, tokens};
  add_lines(sizes, x);
  for (const Array *table : {&cos, &sin}) {
    if (table->rank() < 2) misfit("a table of angles lacks dimensions");
    const bool several = table->rank() > 3 && table->shape[0] > 1;
    sizes.insert(sizes.end(), {several ? table->strides[0] : 0, table->strides[table->rank() - 2]});
  }
  sizes.insert(sizes.end(), {out.strides[0], out.strides[2], out.strides[1]});
  const Array numbers = integers(sizes, {static_cast<std::int64_t>(sizes.size())}, SPARSEC_INT64);
  const ffi::Object arguments[] = {whole(numbers), flat(x), flat(cos), flat(sin), whole(out)};
  std::vector<TVMFFIAny> values;
  for (const ffi::Object &each : arguments) values.push_back(each.any());
  ffi::call(kernel_, values);
  return {y};
}

}  // namespace sparsec::native::sized
