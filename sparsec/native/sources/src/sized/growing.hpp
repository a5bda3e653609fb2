// Concat that appends in place: what grows call by call, as the caches of decoders do, is not copied every time.
//
// The result lies in a buffer with room to spare, of which the caller sees the filled part. Where that comes back as
// the first operand and nothing was appended to it meanwhile, the others are written behind it: what the caller has
// seen stays as it is. Otherwise everything is copied to a buffer of its own.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "array.hpp"

namespace sparsec::native::sized {

// The buffers that there are, by address: an input that a caller hands back is known by where it lies.
class Buffers {
 public:
  void add(const std::shared_ptr<Growing> &buffer);
  void remove(const void *address);
  std::shared_ptr<Growing> at(const void *address);

 private:
  std::mutex mutex_;
  std::map<const void *, std::weak_ptr<Growing>> buffers_;
};

class Growing : public std::enable_shared_from_this<Growing> {
 public:
  Growing(std::shared_ptr<Buffers> all, std::int32_t type, const Shape &room, std::size_t axis, std::int64_t filled);
  ~Growing();
  Growing(const Growing &) = delete;
  Growing &operator=(const Growing &) = delete;

  // The filled part.
  Array view(std::int64_t length);
  // Whether an array is all that the buffer holds, and there is room for more, which is the caller's then.
  bool claim(const Array &first, std::size_t axis, std::int64_t total);
  const Array &whole() const { return whole_; }

 private:
  const std::shared_ptr<Buffers> all_;
  const Array whole_;
  const std::size_t axis_;
  std::int64_t filled_;
  std::mutex mutex_;
};

// The operands one behind the other along an axis.
Array append(const std::shared_ptr<Buffers> &buffers, const Arrays &inputs, std::size_t axis);
// (past, new, start) of `sparsec.sized::Append`: in place where all rows have filled the past.
Array append_at(const std::shared_ptr<Buffers> &buffers, const Arrays &inputs);

}  // namespace sparsec::native::sized
