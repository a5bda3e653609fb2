// ONNX's operators between compiled stages, by name.
#pragma once

#include <map>
#include <string>

#include "array.hpp"

namespace sparsec::native::sized {

using Operators = std::map<std::string, Operator>;
const Operators &elementwise_operators();
const Operators &moving_operators();
const Operators &reducing_operators();
const Operators &quantizing_operators();
// The operator of a name; throws a Failure where there is none.
const Operator &operator_named(const std::string &name);

}  // namespace sparsec::native::sized
