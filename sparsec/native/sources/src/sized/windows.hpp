// The steps that read windows of images, channels last.
#pragma once

#include <memory>
#include <string>

#include "../ffi.hpp"
#include "array.hpp"

namespace sparsec::native::sized {

// Windows that are made when they are read: an array of such has a shape and no memory.
class Unread {
 public:
  virtual ~Unread() = default;
  // How many there are; those that are copied are a row each.
  virtual std::int64_t total() const = 0;
  // Write so many from `first` on.
  virtual void make(std::int64_t first, std::int64_t count, char *out) const = 0;
};

// The array with its windows made.
Array read(const Array &array);

class Windows {
 public:
  // A step of the plan, which outlives this; its result stays unread where `by_rows`.
  Windows(const ffi::Object &library, const Json &step, bool by_rows);
  // Whether an operator copies windows, which rows alone may read.
  static bool copies(const std::string &kind);
  // X (batch, sides …, channels) and what the operator takes besides, to Y (batch, sides, channels).
  Arrays run(const Arrays &inputs) const;

 private:
  const std::shared_ptr<const ffi::Object> kernel_;
  const std::string kind_;
  const Json &attributes_;
  const bool by_rows_;
};

}  // namespace sparsec::native::sized
