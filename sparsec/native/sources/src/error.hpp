// Errors within the library; api.cpp makes codes and texts of them.
#pragma once

#include <stdexcept>
#include <string>

#include "sparsec.h"

namespace sparsec::native {

struct Failure : std::runtime_error {
  Failure(sparsec_status status, const std::string &text) : std::runtime_error(text), status(status) {}
  sparsec_status status;
};

[[noreturn]] inline void fail(sparsec_status status, const std::string &text) { throw Failure(status, text); }

}  // namespace sparsec::native
