// The step that takes a recurrent layer through all steps of a sequence.
#pragma once

#include <map>

#include "../ffi.hpp"
#include "array.hpp"

namespace sparsec::native::sized {

// A recurrence for so many members of a batch, with its constants, of which the peepholes are the last.
struct Recurrence {
  ffi::Object kernel;
  const std::vector<ffi::Object> *constants;
};

class Recurrent {
 public:
  // `kernels` by members of a batch, which any batch is divided into: one of them is for a single member. States have
  // `hidden` elements.
  Recurrent(std::map<std::int64_t, Recurrence> kernels, std::int64_t hidden);
  // (inputs' share (steps, batch, gates), state, cell, lengths; all but the first may be absent) to the states
  // (steps, batch, hidden), the last state and the last cell.
  Arrays run(const Arrays &inputs) const;

 private:
  void check(const Arrays &inputs) const;

  const std::map<std::int64_t, Recurrence> kernels_;
  const std::int64_t hidden_;
};

}  // namespace sparsec::native::sized
