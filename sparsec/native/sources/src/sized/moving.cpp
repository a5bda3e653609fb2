// Operators that move and choose elements.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "operators.hpp"

namespace sparsec::native::sized {

namespace {

constexpr std::int64_t kEndless = (std::int64_t{1} << 31) - 1;  // ends of slices from which on the axis' end is meant

const Array *given(const Arrays &inputs, std::size_t index) {
  return index < inputs.size() && inputs[index] ? &inputs[index] : nullptr;
}

Arrays shape(const Arrays &inputs, const Attributes &attributes) {
  const Shape &found = inputs.at(0).shape;
  const auto rank = static_cast<std::int64_t>(found.size());
  const auto bound = [rank](std::int64_t at) { return std::clamp<std::int64_t>(at < 0 ? at + rank : at, 0, rank); };
  const std::int64_t start = bound(attribute(attributes, "start", std::int64_t{0}));
  const std::int64_t end = std::max(start, bound(attribute(attributes, "end", rank)));
  return {integers(Shape(found.begin() + start, found.begin() + end), {end - start}, SPARSEC_INT64)};
}

Arrays reshape(const Arrays &inputs, const Attributes &attributes) {
  const Array &x = inputs.at(0);
  Shape wanted = integers_of(inputs.at(1));
  const bool zero_is_zero = attribute(attributes, "allowzero", std::int64_t{0}) != 0;
  std::int64_t rest = 1;
  for (std::size_t axis = 0; axis < wanted.size(); ++axis) {
    if (wanted[axis] == 0 && !zero_is_zero) {
      if (axis >= x.rank()) misfit("an axis that is to stay is not there");
      wanted[axis] = x.shape[axis];
    }
    if (wanted[axis] != -1) rest *= wanted[axis];
  }
  for (std::int64_t &dim : wanted) {
    if (dim == -1) dim = rest == 0 ? 0 : static_cast<std::int64_t>(x.size()) / rest;
  }
  return {reshaped(x, wanted)};
}

Arrays squeeze(const Arrays &inputs, const Attributes &) {
  const Array &x = inputs.at(0);
  std::vector<bool> gone(x.rank(), false);
  if (const Array *axes = given(inputs, 1)) {
    for (std::int64_t axis : integers_of(*axes)) {
      if (x.shape[axis_of(axis, x.rank())] != 1) misfit("an axis of more than one element cannot go");
      gone[axis_of(axis, x.rank())] = true;
    }
  } else {
    std::transform(x.shape.begin(), x.shape.end(), gone.begin(), [](std::int64_t size) { return size == 1; });
  }
  Array view = x;
  view.buffer = nullptr;
  view.shape.clear();
  view.strides.clear();
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    if (gone[axis]) continue;
    view.shape.push_back(x.shape[axis]);
    view.strides.push_back(x.strides[axis]);
  }
  return {view};
}

Arrays unsqueeze(const Arrays &inputs, const Attributes &) {
  Array view = inputs.at(0);
  view.buffer = nullptr;
  const Shape axes = integers_of(inputs.at(1));
  std::vector<std::size_t> places;
  for (std::int64_t axis : axes) places.push_back(axis_of(axis, view.rank() + axes.size()));
  std::sort(places.begin(), places.end());
  for (std::size_t place : places) {
    view.shape.insert(view.shape.begin() + static_cast<std::ptrdiff_t>(place), 1);
    view.strides.insert(view.strides.begin() + static_cast<std::ptrdiff_t>(place), 0);
  }
  return {view};
}

Arrays transpose(const Arrays &inputs, const Attributes &attributes) {
  const Array &x = inputs.at(0);
  std::vector<std::size_t> order(x.rank());
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  if (const Json *perm = attributes.find("perm")) {
    const Shape given_order = perm->integers();
    if (given_order.size() != x.rank()) misfit("a permutation has another length than the shape");
    for (std::size_t axis = 0; axis < order.size(); ++axis) order[axis] = axis_of(given_order[axis], x.rank());
  }
  return {transposed(x, order)};
}

Arrays concat(const Arrays &inputs, const Attributes &attributes) {
  const Array &first = inputs.at(0);
  const std::size_t axis = axis_of(attributes["axis"].integer(), first.rank());
  Shape whole = first.shape;
  whole[axis] = 0;
  for (const Array &each : inputs) {
    Shape fits = each.shape;
    if (fits.size() == whole.size()) fits[axis] = first.shape[axis];
    if (fits != first.shape) misfit(text_of(each.shape) + " cannot follow " + text_of(first.shape));
    whole[axis] += each.shape[axis];
  }
  Array out = allocate(first.type, whole);
  std::int64_t start = 0;
  for (const Array &each : inputs) {
    copy_to(each, sliced(out, axis, start, each.shape[axis]));
    start += each.shape[axis];
  }
  return {out};
}

Arrays expand(const Arrays &inputs, const Attributes &) {
  return {broadcast(inputs.at(0), joint_shape(inputs[0].shape, integers_of(inputs.at(1))))};
}

// The elements that Python's slice start:end:step takes of so many.
std::pair<std::int64_t, std::int64_t> taken(std::int64_t size, std::int64_t start, std::int64_t end, std::int64_t step) {
  const std::int64_t least = step > 0 ? 0 : -1, most = step > 0 ? size : size - 1;
  const bool past_front = step < 0 && end < -size;
  if (start < 0) start += size;
  if (past_front) end = -1;
  else if (std::abs(end) >= kEndless) end = step > 0 ? size : -1;
  else if (end < 0) end += size;
  start = std::clamp(start, least, std::max(least, most));
  end = std::clamp(end, least, std::max(least, most));
  const std::int64_t span = step > 0 ? end - start : start - end, stride = std::abs(step);
  return {start, span > 0 ? (span + stride - 1) / stride : 0};
}

Arrays slice(const Arrays &inputs, const Attributes &) {
  Array view = inputs.at(0);
  const Shape starts = integers_of(inputs.at(1)), ends = integers_of(inputs.at(2));
  const Array *axes = given(inputs, 3), *steps = given(inputs, 4);
  const Shape along = axes != nullptr ? integers_of(*axes) : Shape{}, by = steps != nullptr ? integers_of(*steps) : Shape{};
  for (std::size_t index = 0; index < starts.size(); ++index) {
    const std::size_t axis = axis_of(axes != nullptr ? along.at(index) : static_cast<std::int64_t>(index), view.rank());
    const std::int64_t step = steps != nullptr ? by.at(index) : 1;
    if (step == 0) misfit("a slice has a step of 0");
    const auto [start, count] = taken(view.shape[axis], starts[index], ends.at(index), step);
    view = sliced(view, axis, start, count, step);
  }
  return {view};
}

std::int64_t index_in(std::int64_t index, std::int64_t size) {
  if (index < -size || index >= size) {
    misfit("an index lies outside of the " + std::to_string(size) + " elements that the model looks up: " +
           std::to_string(index));
  }
  return index < 0 ? index + size : index;
}

std::size_t product(Shape::const_iterator first, Shape::const_iterator last) {
  return std::accumulate(first, last, std::size_t{1}, [](std::size_t a, std::int64_t b) { return a * static_cast<std::size_t>(b); });
}

Arrays gather(const Arrays &inputs, const Attributes &attributes) {
  const Array x = dense(inputs.at(0));
  const auto axis = static_cast<std::ptrdiff_t>(axis_of(attribute(attributes, "axis", std::int64_t{0}), x.rank()));
  const Shape indices = integers_of(inputs.at(1));
  Shape whole(x.shape.begin(), x.shape.begin() + axis);
  whole.insert(whole.end(), inputs[1].shape.begin(), inputs[1].shape.end());
  whole.insert(whole.end(), x.shape.begin() + axis + 1, x.shape.end());
  Array out = allocate(x.type, whole);
  const std::size_t outer = product(x.shape.begin(), x.shape.begin() + axis);
  const std::size_t bytes = product(x.shape.begin() + axis + 1, x.shape.end()) * x.item();
  const std::int64_t size = x.shape[static_cast<std::size_t>(axis)];
  char *to = out.data;
  for (std::size_t part = 0; part < outer; ++part) {
    const char *from = x.data + part * static_cast<std::size_t>(size) * bytes;
    for (std::int64_t index : indices) {
      const std::size_t at = static_cast<std::size_t>(index_in(index, size));
      if (bytes > 0) std::memcpy(to, from + at * bytes, bytes);
      to += bytes;
    }
  }
  return {out};
}

Arrays gather_elements(const Arrays &inputs, const Attributes &attributes) {
  const Array x = dense(inputs.at(0));
  const std::size_t axis = axis_of(attribute(attributes, "axis", std::int64_t{0}), x.rank());
  const Shape indices = integers_of(inputs.at(1)), &whole = inputs[1].shape;
  if (whole.size() != x.rank()) misfit("indices have another rank than what they look up");
  Array out = allocate(x.type, whole);
  Shape place(x.rank(), 0);
  for (std::size_t number = 0; number < indices.size(); ++number) {
    std::int64_t at = 0;
    for (std::size_t each = 0; each < x.rank(); ++each) {
      const std::int64_t chosen = each == axis ? indices[number] : place[each];
      at += index_in(chosen, x.shape[each]) * x.strides[each];
    }
    std::memcpy(out.data + number * x.item(), x.data + static_cast<std::size_t>(at) * x.item(), x.item());
    for (std::size_t each = x.rank(); each-- > 0 && ++place[each] == whole[each];) place[each] = 0;
  }
  return {out};
}

Arrays gather_nd(const Arrays &inputs, const Attributes &attributes) {
  const Array x = dense(inputs.at(0));
  const Array &where = inputs.at(1);
  const auto lead = static_cast<std::ptrdiff_t>(attribute(attributes, "batch_dims", std::int64_t{0}));
  if (where.rank() == 0 || lead > static_cast<std::ptrdiff_t>(where.rank()) - 1) misfit("indices lack dimensions");
  const Shape indices = integers_of(where);
  const auto depth = static_cast<std::ptrdiff_t>(where.shape.back());
  if (lead + depth > static_cast<std::ptrdiff_t>(x.rank())) misfit("indices have more dimensions than what they look up");
  Shape whole(where.shape.begin(), where.shape.end() - 1);
  whole.insert(whole.end(), x.shape.begin() + lead + depth, x.shape.end());
  Array out = allocate(x.type, whole);
  const std::size_t bytes = product(x.shape.begin() + lead + depth, x.shape.end()) * x.item();
  const std::size_t tuples = product(where.shape.begin(), where.shape.end() - 1);
  const std::size_t batches = product(where.shape.begin(), where.shape.begin() + lead);
  const std::size_t own = product(x.shape.begin() + lead, x.shape.end()) * x.item();
  for (std::size_t number = 0; number < tuples; ++number) {
    std::int64_t at = 0;
    for (std::ptrdiff_t each = 0; each < depth; ++each) {
      const auto axis = static_cast<std::size_t>(lead + each);
      at += index_in(indices[number * static_cast<std::size_t>(depth) + static_cast<std::size_t>(each)], x.shape[axis]) * x.strides[axis];
    }
    const std::size_t batch = number / (tuples / batches);
    if (bytes > 0) std::memcpy(out.data + number * bytes, x.data + batch * own + static_cast<std::size_t>(at) * x.item(), bytes);
  }
  return {out};
}

Arrays range(const Arrays &inputs, const Attributes &) {
  return with_type(inputs.at(0).type, [&](auto zero) {
    using T = decltype(zero);
    const T start = *inputs[0].values<T>(), end = *inputs.at(1).values<T>(), step = *inputs.at(2).values<T>();
    if (step == 0) misfit("a range has a step of 0");
    const double span = (static_cast<double>(end) - static_cast<double>(start)) / static_cast<double>(step);
    const std::int64_t count = span > 0 ? static_cast<std::int64_t>(std::ceil(span)) : 0;
    Array out = allocate(inputs[0].type, {count});
    for (std::int64_t i = 0; i < count; ++i) out.values<T>()[i] = static_cast<T>(start + static_cast<T>(i) * step);
    return Arrays{out};
  });
}

Arrays constant_of_shape(const Arrays &inputs, const Attributes &attributes) {
  const Json *value = attributes.find("value");
  const auto type = value == nullptr ? SPARSEC_FLOAT32 : static_cast<std::int32_t>((*value)["dtype"].integer());
  Array out = allocate(type, integers_of(inputs.at(0)));
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    T filler{};
    if (value != nullptr) {
      const Json &number = (*value)["values"].list().at(0);
      if (number.kind() == Json::Kind::boolean) filler = static_cast<T>(number.boolean());
      else filler = number.is_integer() ? static_cast<T>(number.integer()) : static_cast<T>(number.real());
    }
    std::fill_n(out.values<T>(), out.size(), filler);
  });
  return {out};
}

Arrays split(const Arrays &inputs, const Attributes &attributes) {
  const Array &x = inputs.at(0);
  const std::size_t axis = axis_of(attribute(attributes, "axis", std::int64_t{0}), x.rank());
  Shape sizes;
  if (const Array *chosen = given(inputs, 1)) {
    sizes = integers_of(*chosen);
  } else {
    const std::int64_t count = attributes["num_outputs"].integer(), part = (x.shape[axis] + count - 1) / count;
    for (std::int64_t i = 0; i < count; ++i) sizes.push_back(std::clamp<std::int64_t>(x.shape[axis] - i * part, 0, part));
  }
  if (std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}) != x.shape[axis]) misfit("the parts are not the whole");
  Arrays parts;
  std::int64_t start = 0;
  for (std::int64_t size : sizes) {
    parts.push_back(sliced(x, axis, start, size));
    start += size;
  }
  return parts;
}

Arrays tile(const Arrays &inputs, const Attributes &) {
  const Array &x = inputs.at(0);
  const Shape repeats = integers_of(inputs.at(1));
  if (repeats.size() != x.rank()) misfit("a shape has another rank than its repeats");
  Shape apart, wide, whole;
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    apart.insert(apart.end(), {1, x.shape[axis]});
    wide.insert(wide.end(), {repeats[axis], x.shape[axis]});
    whole.push_back(repeats[axis] * x.shape[axis]);
  }
  return {reshaped(broadcast(reshaped(x, apart), wide), whole)};
}

Arrays trilu(const Arrays &inputs, const Attributes &attributes) {
  const Array &x = inputs.at(0);
  if (x.rank() < 2) misfit("a triangle takes two dimensions");
  const std::int64_t diagonal = given(inputs, 1) != nullptr ? integer_of(inputs[1]) : 0;
  const bool upper = attribute(attributes, "upper", std::int64_t{1}) != 0;
  Array out = allocate(x.type, x.shape);
  copy_to(x, out);
  const std::int64_t rows = x.shape[x.rank() - 2], columns = x.shape.back();
  for (std::int64_t line = 0; line < static_cast<std::int64_t>(out.size()) / std::max<std::int64_t>(columns, 1); ++line) {
    const std::int64_t edge = std::clamp<std::int64_t>(line % rows + diagonal + (upper ? 0 : 1), 0, columns);
    char *row = out.data + static_cast<std::size_t>(line * columns) * x.item();
    if (upper) std::memset(row, 0, static_cast<std::size_t>(edge) * x.item());
    else std::memset(row + static_cast<std::size_t>(edge) * x.item(), 0, static_cast<std::size_t>(columns - edge) * x.item());
  }
  return {out};
}

}  // namespace

const Operators &moving_operators() {
  static const Operators table = {
      {"Shape", shape}, {"Reshape", reshape}, {"Squeeze", squeeze}, {"Unsqueeze", unsqueeze}, {"Transpose", transpose},
      {"Concat", concat}, {"Expand", expand}, {"Slice", slice}, {"Gather", gather}, {"GatherElements", gather_elements},
      {"GatherND", gather_nd}, {"Range", range}, {"ConstantOfShape", constant_of_shape}, {"Split", split},
      {"Tile", tile}, {"Trilu", trilu},
  };
  return table;
}

}  // namespace sparsec::native::sized
