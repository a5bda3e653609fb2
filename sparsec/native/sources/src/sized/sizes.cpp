#include "sizes.hpp"

#include "../tensors.hpp"

namespace sparsec::native::sized {

namespace {

std::string shape_text(const Json &shape) {
  std::string text = "(";
  for (const Json &dim : shape.list()) {
    text += text.size() > 1 ? ", " : "";
    text += dim.is_integer() ? std::to_string(dim.integer()) : dim.is_text() ? dim.text() : polynomial_text(dim);
  }
  return text + ")";
}

std::string named(const Json &input) { return "input '" + input["name"].text() + "'"; }

// Enter the sizes of an input's symbols, and which input they come from.
void read(const Json &input, const Array &array, Sizes &sizes, std::map<std::string, std::string> &origins) {
  const auto &dims = input["shape"].list();
  for (std::size_t axis = 0; axis < dims.size(); ++axis) {
    const std::int64_t size = array.shape[axis];
    if (dims[axis].is_text()) {
      const std::string &symbol = dims[axis].text();
      const std::int64_t known = sizes.emplace(symbol, size).first->second;
      origins.emplace(symbol, input["name"].text());
      if (known != size) {
        misfit("dimension '" + symbol + "' is " + std::to_string(known) + " in input '" + origins[symbol] + "' and " +
               std::to_string(size) + " in " + named(input) + ", axis " + std::to_string(axis));
      }
    } else if (dims[axis].is_integer() && dims[axis].integer() != size) {
      misfit("axis " + std::to_string(axis) + " of " + named(input) + " must be " +
             std::to_string(dims[axis].integer()) + ", and is " + std::to_string(size) + "; it takes " +
             shape_text(input["shape"]));
    }
  }
}

}  // namespace

std::int64_t value_of(const Json &terms, const Sizes &sizes) {
  std::int64_t total = 0;
  for (const Json &term : terms.list()) {
    const auto &factors = term.list();
    std::int64_t product = factors.at(0).integer();
    for (std::size_t index = 1; index < factors.size(); ++index) {
      const auto found = sizes.find(factors[index].text());
      if (found == sizes.end()) fail(SPARSEC_ERROR_MODEL, "the model's plan names a size that no input has");
      product *= found->second;
    }
    total += product;
  }
  return total;
}

std::string polynomial_text(const Json &terms) {
  std::string text;
  for (const Json &term : terms.list()) {
    const auto &factors = term.list();
    std::string product;
    if (factors.at(0).integer() != 1 || factors.size() == 1) product = std::to_string(factors[0].integer());
    for (std::size_t index = 1; index < factors.size(); ++index) {
      product += (product.empty() ? "" : "*") + factors[index].text();
    }
    text += (text.empty() ? "" : " + ") + product;
  }
  return text;
}

Sizes sizes_of(const Json &inputs, const Arrays &arrays, const Json &limits) {
  Sizes sizes;
  std::map<std::string, std::string> origins;
  for (std::size_t index = 0; index < arrays.size(); ++index) {
    const Json &input = inputs.list().at(index);
    const auto type = static_cast<std::int32_t>(input["dtype"].integer());
    if (arrays[index].type != type || arrays[index].rank() != input["shape"].list().size()) {
      misfit(named(input) + " takes " + type_name(type) + " of shape " + shape_text(input["shape"]) + "; given: " +
             described(arrays[index].type, arrays[index].shape.data(), arrays[index].rank()));
    }
    read(input, arrays[index], sizes, origins);
  }
  for (const auto &[symbol, bounds] : limits.object()) {
    const auto found = sizes.find(symbol);
    const std::int64_t least = bounds.list().at(0).integer(), most = bounds.list().at(1).integer();
    if (found != sizes.end() && (found->second < least || found->second > most)) {
      misfit("dimension '" + symbol + "' is " + std::to_string(found->second) + " in input '" + origins[symbol] +
             "', and the model was compiled for " + std::to_string(least) + " to " + std::to_string(most));
    }
  }
  for (std::size_t index = 0; index < arrays.size(); ++index) {
    const Json &input = inputs.list()[index];
    const auto &dims = input["shape"].list();
    for (std::size_t axis = 0; axis < dims.size(); ++axis) {
      if (!dims[axis].is_list() || value_of(dims[axis], sizes) == arrays[index].shape[axis]) continue;
      misfit("axis " + std::to_string(axis) + " of " + named(input) + " must be " + polynomial_text(dims[axis]) + " = " +
             std::to_string(value_of(dims[axis], sizes)) + ", and is " + std::to_string(arrays[index].shape[axis]));
    }
  }
  return sizes;
}

std::string listed(const Sizes &sizes) {
  std::string text;
  for (const auto &[name, size] : sizes) text += (text.empty() ? "" : ", ") + name + " is " + std::to_string(size);
  return text;
}

}  // namespace sparsec::native::sized
