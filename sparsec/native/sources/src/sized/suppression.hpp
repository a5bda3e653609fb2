// The step that calls the kernel of NonMaxSuppression.
#pragma once

#include "../ffi.hpp"
#include "array.hpp"

namespace sparsec::native::sized {

class Suppression {
 public:
  // `step` says whether boxes are given by their centres, and what memory the kernel takes for boxes that it keeps.
  Suppression(const ffi::Object &library, const Json &step);
  // (boxes, scores, and up to three limits, each of them or nothing) to the selected (rows, 3): batch, class and box.
  Arrays run(const Arrays &inputs) const;

 private:
  const ffi::Object kernel_;
  const bool centred_;
  const std::int64_t room_, parts_;
};

}  // namespace sparsec::native::sized
