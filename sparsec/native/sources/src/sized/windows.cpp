#include "windows.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "../tensors.hpp"

namespace sparsec::native::sized {

namespace {

const char *const kWinograd = "WinogradConv";
const char *const kDense = "DenseConv";

// Whether a weight comes as a kernel reads it, perhaps with something that is added.
bool is_convolution(const std::string &kind) { return kind == kWinograd || kind == kDense; }

using Reals = std::vector<double>;
using Numbers = std::vector<std::int64_t>;

// By window the pixels of an axis, -1 outside of the image, and the factor of each; `width` pixels a window.
struct Axis {
  Numbers places;
  std::vector<float> factors;
  std::int64_t width;
  std::int64_t windows() const { return static_cast<std::int64_t>(places.size()) / width; }
};

// What a kernel is told of a call: the shape of the result, its `sizes` without the first, and its tables.
struct Told {
  Shape shape;
  Numbers sizes, tables;
  Array extra;
  std::int64_t total() const { return sizes[0]; }
};

// Python's quotient of integers.
std::int64_t floored(std::int64_t value, std::int64_t by) { return value / by - (value % by != 0 && (value < 0) != (by < 0)); }

bool is_set(const Json &attributes, const char *name) { return attribute(attributes, name, std::int64_t{0}) != 0; }

std::int64_t at(const Json &attributes, const char *name, std::size_t axis) {
  return attributes[name].list().at(axis).integer();
}

// An axis and the one behind it, of `size` pixels, as one axis of all pixels of both.
Axis over(const Axis &outer, const Axis &inner, std::int64_t size) {
  Axis found{{}, {}, outer.width * inner.width};
  for (std::int64_t above = 0; above < outer.windows(); ++above) {
    for (std::int64_t window = 0; window < inner.windows(); ++window) {
      for (std::int64_t line = above * outer.width; line < (above + 1) * outer.width; ++line) {
        for (std::int64_t pixel = window * inner.width; pixel < (window + 1) * inner.width; ++pixel) {
          const bool outside = outer.places[line] < 0 || inner.places[pixel] < 0;
          found.places.push_back(outside ? -1 : outer.places[line] * size + inner.places[pixel]);
          found.factors.push_back(outer.factors[line] * inner.factors[pixel]);
        }
      }
    }
  }
  return found;
}

Axis axis_of_layer(std::int64_t size, std::size_t axis, std::size_t rank, const Json &attributes) {
  const std::int64_t width = at(attributes, "kernel_shape", axis), stride = at(attributes, "strides", axis);
  const std::int64_t dilation = at(attributes, "dilations", axis), reach = dilation * (width - 1) + 1;
  std::int64_t front = at(attributes, "pads", axis), back = at(attributes, "pads", axis + rank);
  const std::string &mode = attributes["auto_pad"].text();
  if (mode == "SAME_UPPER" || mode == "SAME_LOWER") {
    const std::int64_t more = std::max<std::int64_t>(0, (-floored(-size, stride) - 1) * stride + reach - size);
    front = mode == "SAME_UPPER" ? more / 2 : more - more / 2;
    back = more - front;
  }
  const std::int64_t beyond = is_set(attributes, "ceil_mode") ? stride - 1 : 0;
  const std::int64_t windows = floored(size + front + back - reach + beyond, stride) + 1;
  if (windows <= 0) {
    misfit(std::to_string(size) + " pixels and " + std::to_string(front + back) +
           " of padding are fewer than a window of " + std::to_string(width) + " takes");
  }
  Axis found{{}, {}, width};
  for (std::int64_t window = 0; window < windows; ++window) {
    std::int64_t inside = 0;
    for (std::int64_t pixel = 0; pixel < width; ++pixel) {
      const std::int64_t place = window * stride - front + pixel * dilation;
      found.places.push_back(place >= 0 && place < size ? place : -1);
      inside += found.places.back() >= 0;
    }
    const std::int64_t count = is_set(attributes, "count_include_pad") ? width : std::max<std::int64_t>(inside, 1);
    for (auto place = found.places.end() - width; place != found.places.end(); ++place) {
      found.factors.push_back(*place < 0 ? 0.0f : static_cast<float>(1.0 / static_cast<double>(count)));
    }
  }
  return found;
}

// Where a pixel of the result is in the image, by ONNX's name.
double coordinate(const std::string &mode, double x, double size, double out, double scale) {
  if (mode == "half_pixel") return (x + 0.5) / scale - 0.5;
  if (mode == "pytorch_half_pixel") return out > 1 ? (x + 0.5) / scale - 0.5 : 0;
  if (mode == "align_corners") return out > 1 ? x * (size - 1) / (out - 1) : 0;
  if (mode == "asymmetric") return x / scale;
  fail(SPARSEC_ERROR_MODEL, "the model resizes by '" + mode + "', which is not known; bundle the model again");
}

double nearest(const std::string &mode, double x) {
  if (mode == "floor") return std::floor(x);
  if (mode == "ceil") return std::ceil(x);
  if (mode == "round_prefer_floor") return std::ceil(x - 0.5);
  if (mode == "round_prefer_ceil") return std::floor(x + 0.5);
  fail(SPARSEC_ERROR_MODEL, "the model rounds by '" + mode + "', which is not known; bundle the model again");
}

// The factors of the four pixels around a place (Keys 1981, with the constant a).
std::array<double, 4> cubic(double share, double a) {
  const auto outer = [a](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  const auto inner = [a](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  return {outer(share + 1), inner(share), inner(1 - share), outer(2 - share)};
}

Axis resized_axis(std::int64_t size, std::int64_t out, double scale, const Json &attributes) {
  const std::string &mode = attributes["mode"].text();
  const std::string &coordinates = attributes["coordinate_transformation_mode"].text();
  const auto last = static_cast<double>(size - 1);
  Axis found{{}, {}, mode == "cubic" ? 4 : mode == "linear" ? 2 : 1};
  if (size == 0 || out == 0) found.width = 1;
  for (std::int64_t pixel = 0; pixel < out; ++pixel) {
    double x = size == 0 ? 0 : coordinate(coordinates, static_cast<double>(pixel), static_cast<double>(size), static_cast<double>(out), scale);
    if (found.width == 1) {
      x = size == 0 ? 0 : std::clamp(nearest(attributes["nearest_mode"].text(), x), 0.0, last);
      found.places.push_back(static_cast<std::int64_t>(x));
      found.factors.push_back(1);
      continue;
    }
    if (found.width == 4) {
      const double begin = std::floor(x);
      for (int pixel_of = 0; pixel_of < 4; ++pixel_of) {
        found.places.push_back(static_cast<std::int64_t>(std::clamp(begin + pixel_of - 1, 0.0, last)));
      }
      for (const double factor : cubic(x - begin, attributes["cubic_coeff_a"].real())) {
        found.factors.push_back(static_cast<float>(factor));
      }
      continue;
    }
    x = std::clamp(x, 0.0, last);
    const double low = std::min(std::floor(x), std::max(last - 1, 0.0)), share = x - low;
    found.places.push_back(static_cast<std::int64_t>(low));
    found.places.push_back(static_cast<std::int64_t>(std::min(low + 1, last)));
    found.factors.push_back(static_cast<float>(1 - share));
    found.factors.push_back(static_cast<float>(share));
  }
  return found;
}

std::vector<Axis> resized_axes(const Shape &image, const Json &attributes, const Arrays &inputs) {
  const bool given = inputs.size() > 1 && inputs[1];
  const Shape wanted = given ? integers_of(inputs[1]) : Shape{};
  std::vector<Axis> found;
  for (std::size_t axis = 0; axis < image.size(); ++axis) {
    double scale = attributes["scales"].list().at(axis).real();
    const auto size = static_cast<double>(image[axis]);
    const std::int64_t out = given ? wanted.at(static_cast<std::size_t>(at(attributes, "axes", axis)))
                                   : static_cast<std::int64_t>(std::floor(size * scale));
    if (given) scale = static_cast<double>(out) / std::max(size, 1.0);
    if (out < 0) misfit("an image cannot become " + std::to_string(out) + " pixels wide");
    found.push_back(resized_axis(image[axis], out, scale, attributes));
  }
  return found;
}

// A dense array of floats.
Array floats(const std::vector<float> &values) {
  const Array array = allocate(SPARSEC_FLOAT32, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), array.values<float>());
  return array;
}

// Channels (block's pixels, channels) become the pixels of a block; rows of it are copied at once.
Told shuffled(const Shape &shape, const Numbers &blocks) {
  const std::int64_t columns = shape[shape.size() - 2], width = blocks.back();
  std::int64_t height = 1;
  for (std::size_t axis = 0; axis + 1 < blocks.size(); ++axis) height *= blocks[axis];
  const std::int64_t run = shape.back() / height;
  Told told{{shape[0]}, {}, {}, floats({0})};
  for (std::size_t axis = 0; axis < blocks.size(); ++axis) told.shape.push_back(shape[axis + 1] * blocks[axis]);
  told.shape.push_back(run / width);
  std::vector<std::pair<std::int64_t, std::int64_t>> rows = {{0, 0}};  // lines of the image, and parts of a block
  for (std::size_t axis = 0; axis + 1 < blocks.size(); ++axis) {
    std::vector<std::pair<std::int64_t, std::int64_t>> longer;
    for (const auto &[line, part] : rows) {
      for (std::int64_t place = 0; place < shape[axis + 1]; ++place) {
        for (std::int64_t inner = 0; inner < blocks[axis]; ++inner) {
          longer.emplace_back(line * shape[axis + 1] + place, part * blocks[axis] + inner);
        }
      }
    }
    rows = std::move(longer);
  }
  const std::int64_t lines = static_cast<std::int64_t>(rows.size());
  const std::int64_t pixels = lines * columns;
  told.sizes = {shape[0] * pixels, lines, columns, 1, 1, run, pixels, 1, run / width};
  for (const auto &[line, part] : rows) told.tables.push_back(line * columns * height + part);
  for (std::int64_t column = 0; column < columns; ++column) told.tables.push_back(column * height);
  return told;
}

// The tiles of 2 x 2 pixels of a convolution's result; where they are dilated, their pixels lie as far apart.
Told tiled(const Shape &shape, const Json &attributes, const Array &weight) {
  Told told{{shape[0]}, {shape[0]}, {}, weight};
  Numbers tiles;
  for (std::size_t side = 0; side < 2; ++side) {
    const Axis axis = axis_of_layer(shape[side + 1], side, 2, attributes);
    const std::int64_t out = axis.windows(), dilation = at(attributes, "dilations", side);
    tiles.push_back((out + 2 * dilation - 1) / (2 * dilation) * dilation);
    for (std::int64_t tile = 0; tile < tiles.back(); ++tile) {
      const std::int64_t first = tile / dilation * 2 * dilation + tile % dilation, second = first + dilation;
      for (std::int64_t pixel = 0; pixel < 3; ++pixel) told.tables.push_back(axis.places[std::min(first, out - 1) * 3 + pixel]);
      told.tables.push_back(second < out ? axis.places[second * 3 + 2] : -1);
      told.tables.push_back(first < out ? first : -1);
      told.tables.push_back(second < out ? second : -1);
    }
    told.shape.push_back(out);
  }
  told.shape.push_back(attributes["outputs"].integer());
  told.sizes = {shape[0] * tiles[0] * tiles[1], tiles[0], tiles[1], told.shape[1], told.shape[2], shape[3], shape[1],
                shape[2], told.shape[3]};
  return told;
}

Told told_of(const std::string &kind, const Json &attributes, const Arrays &inputs) {
  const Shape &shape = inputs[0].shape;
  if (kind == "PixelShuffle") return shuffled(shape, attributes["blocks"].integers());
  if (kind == kWinograd) {
    if (shape.size() != 4) misfit("an image is given as something else");
    return tiled(shape, attributes, dense(inputs.at(1)));
  }
  const Shape image(shape.begin() + 1, shape.end() - 1);
  std::vector<Axis> axes;
  if (kind == "Resize") {
    axes = resized_axes(image, attributes, inputs);
  } else {
    for (std::size_t axis = 0; axis < image.size(); ++axis) axes.push_back(axis_of_layer(image[axis], axis, image.size(), attributes));
  }
  Told told{{shape[0]}, {}, {}, {}};
  std::int64_t pixels = 1;
  for (const Axis &axis : axes) told.shape.push_back(axis.windows()), pixels *= axis.width;
  told.shape.push_back(is_convolution(kind) ? attributes["outputs"].integer()
                                            : shape.back() * (Windows::copies(kind) ? pixels : 1));
  if (axes.size() == 1) axes.insert(axes.begin(), Axis{{0}, {1}, 1});
  std::int64_t rows = image.size() == 1 ? 1 : image[0];
  if (axes.size() == 3) {  // the slices of a volume lie below each other
    axes = {over(axes[0], axes[1], image[1]), axes[2]};
    rows *= image[1];
  }
  told.sizes = {shape[0] * axes[0].windows() * axes[1].windows(), axes[0].windows(), axes[1].windows(), axes[0].width,
                axes[1].width, shape.back(), rows, image.back(), told.shape.back()};
  std::vector<float> factors;
  for (const Axis &axis : axes) {
    told.tables.insert(told.tables.end(), axis.places.begin(), axis.places.end());
    factors.insert(factors.end(), axis.factors.begin(), axis.factors.end());
  }
  const bool given = kind == "DepthwiseConv" || kind == "Im2colCodes" || is_convolution(kind);
  told.extra = given ? dense(inputs.at(1)) : floats(factors);
  return told;
}

// Windows of an image, made by a kernel.
class Made : public Unread {
 public:
  // `residual` has one array or none.
  Made(std::shared_ptr<const ffi::Object> kernel, Array x, const Told &told, Arrays residual)
      : kernel_(std::move(kernel)), x_(std::move(x)), extra_(told.extra), residual_(std::move(residual)),
        total_(told.total()),
        each_(static_cast<std::int64_t>(elements_of(told.shape)) / std::max<std::int64_t>(total_, 1)),
        tables_(integers(told.tables, {static_cast<std::int64_t>(told.tables.size())}, SPARSEC_INT64)),
        sizes_(told.sizes) {}

  std::int64_t total() const override { return total_; }

  void make(std::int64_t first, std::int64_t count, char *out) const override {
    Numbers sizes = {count};
    sizes.insert(sizes.end(), sizes_.begin(), sizes_.end());
    const Array begin = integers({first}, {1}, SPARSEC_INT64);
    const Array told = integers(sizes, {static_cast<std::int64_t>(sizes.size())}, SPARSEC_INT64);
    Array y;
    y.data = out;
    y.shape = {count * each_};
    std::vector<ffi::Object> arguments;
    for (const Array *each : {&begin, &told, &tables_}) arguments.push_back(flattened(*each, SPARSEC_INT64));
    for (const Array *each : {&x_, &extra_}) arguments.push_back(flattened(*each, element()));
    for (const Array &each : residual_) arguments.push_back(flattened(each, element()));
    arguments.push_back(flattened(y, element()));
    std::vector<TVMFFIAny> values;
    for (const ffi::Object &each : arguments) values.push_back(each.any());
    ffi::call(*kernel_, values);
  }

 private:
  // Codes are bytes, whether they have a sign or not.
  std::int32_t element() const { return x_.type == SPARSEC_FLOAT32 ? SPARSEC_FLOAT32 : SPARSEC_UINT8; }
  static ffi::Object flattened(const Array &array, std::int32_t type) {
    return ffi::tensor(array.data, type, {static_cast<std::int64_t>(array.size())}, array.owner);
  }

  const std::shared_ptr<const ffi::Object> kernel_;
  const Array x_, extra_;
  const Arrays residual_;
  const std::int64_t total_, each_;  // windows, and elements of one in the result
  const Array tables_;
  const Numbers sizes_;
};

// The name of a step's kernel.
std::string kernel_of(const Json &step) {
  const std::string &kind = step["kind"].text();
  const std::string number = is_convolution(kind) ? std::to_string(step["kernel"].integer()) : "";
  return "windows_" + (kind == "PixelShuffle" ? "Im2col" : kind) + number;
}

}  // namespace

Array read(const Array &array) {
  if (!array.unread) return array;
  const Array whole = allocate(array.type, array.shape);
  if (whole.size() > 0) array.unread->make(0, array.unread->total(), whole.data);
  return whole;
}

bool Windows::copies(const std::string &kind) { return kind == "Im2col" || kind == "Im2colCodes"; }

Windows::Windows(const ffi::Object &library, const Json &step, bool by_rows)
    : kernel_(std::make_shared<ffi::Object>(ffi::function_of(library, kernel_of(step).c_str()))),
      kind_(step["kind"].text()), attributes_(step["attributes"]), by_rows_(by_rows) {}

Arrays Windows::run(const Arrays &inputs) const {
  const Array x = dense(inputs.at(0));
  const bool fits = kind_ == "Im2colCodes" ? x.item() == 1 : x.type == SPARSEC_FLOAT32;
  if (x.rank() < 3 || x.rank() > 5 || !fits) misfit("an image is given as something else");
  const Told told = told_of(kind_, attributes_, inputs);
  Array y;
  y.type = x.type;
  y.shape = told.shape;
  y.strides = dense_strides(told.shape);
  Arrays residual;
  if (is_convolution(kind_) && inputs.size() > 2 && inputs[2]) {
    residual.push_back(dense(inputs[2]));
    if (residual[0].shape != told.shape || residual[0].type != x.type) misfit("what is added to an image is none");
  }
  y.unread = std::make_shared<Made>(kernel_, x, told, std::move(residual));
  return {by_rows_ ? y : read(y)};
}

}  // namespace sparsec::native::sized
