// The steps that call the kernels of attention and of rotations, which read and write where views lie.
#pragma once

#include "../ffi.hpp"
#include "array.hpp"

namespace sparsec::native::sized {

// A step with its scratch; one call at a time.
class Attention {
 public:
  // `about` has the features of keys and values, the keys that are worked on at once, the rows of scores that a thread
  // keeps, and the threads that the kernel was compiled for.
  Attention(const ffi::Object &library, std::int64_t number, const Json &about);
  // (Q, K, V, mask or nothing), float32, to Y (batch, heads, tokens, width), which lies token by token.
  Arrays run(const Arrays &inputs);

 private:
  const ffi::Object kernel_;
  const std::int64_t width_, pair_, floats_;
  Array work_;
};

class Rotary {
 public:
  Rotary(const ffi::Object &library, std::int64_t number);
  // (X, cos, sin) to Y (batch, heads, tokens, depth), which lies token by token.
  Arrays run(const Arrays &inputs) const;

 private:
  const ffi::Object kernel_;
};

}  // namespace sparsec::native::sized
