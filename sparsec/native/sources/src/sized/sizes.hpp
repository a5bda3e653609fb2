// The sizes of a call: read from the shapes of its inputs, checked, and what follows from them.
#pragma once

#include <map>

#include "array.hpp"

namespace sparsec::native::sized {

using Sizes = std::map<std::string, std::int64_t>;

// The value of a polynomial: of every monomial the coefficient, then the symbols that it is multiplied with.
std::int64_t value_of(const Json &terms, const Sizes &sizes);
// A polynomial as its factors are written.
std::string polynomial_text(const Json &terms);
// The size of every symbol; throws a Failure where an input does not fit, two disagree, or a size is out of its limits.
Sizes sizes_of(const Json &inputs, const Arrays &arrays, const Json &limits);
// "batch is 2, tokens is 7"
std::string listed(const Sizes &sizes);

}  // namespace sparsec::native::sized
