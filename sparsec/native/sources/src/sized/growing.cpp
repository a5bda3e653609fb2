#include "growing.hpp"

#include <algorithm>
#include <cstring>

namespace sparsec::native::sized {

namespace {
constexpr std::int64_t kSpare = 64;  // room for so many more along the axis; beyond that, half as much as there is
}  // namespace

void Buffers::add(const std::shared_ptr<Growing> &buffer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  buffers_[buffer->whole().data] = buffer;
}

void Buffers::remove(const void *address) {
  const std::lock_guard<std::mutex> lock(mutex_);
  buffers_.erase(address);
}

std::shared_ptr<Growing> Buffers::at(const void *address) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = buffers_.find(address);
  return found == buffers_.end() ? nullptr : found->second.lock();
}

Growing::Growing(std::shared_ptr<Buffers> all, std::int32_t type, const Shape &room, std::size_t axis,
                 std::int64_t filled)
    : all_(std::move(all)), whole_(allocate(type, room)), axis_(axis), filled_(filled) {}

Growing::~Growing() { all_->remove(whole_.data); }

Array Growing::view(std::int64_t length) {
  Array view = sliced(whole_, axis_, 0, length);
  view.owner = shared_from_this();
  view.buffer = shared_from_this();
  return view;
}

bool Growing::claim(const Array &first, std::size_t axis, std::int64_t total) {
  if (axis != axis_ || total > whole_.shape[axis_] || first.data != whole_.data || first.type != whole_.type ||
      first.strides != whole_.strides) {
    return false;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  Shape filled = whole_.shape;
  filled[axis_] = filled_;
  if (first.shape != filled) return false;
  filled_ = total;
  return true;
}

Array append(const std::shared_ptr<Buffers> &buffers, const Arrays &inputs, std::size_t axis) {
  const Array &first = inputs.at(0);
  std::int64_t start = first.shape.at(axis), total = 0;
  for (const Array &each : inputs) {
    Shape fits = each.shape;
    if (fits.size() == first.rank()) fits[axis] = first.shape[axis];
    if (fits != first.shape || each.type != first.type) misfit(text_of(each.shape) + " cannot follow " + text_of(first.shape));
    total += each.shape[axis];
  }
  std::shared_ptr<Growing> buffer = first.buffer;
  if (!buffer || !buffer->claim(first, axis, total)) {
    Shape room = first.shape;
    room[axis] = total + std::max(total / 2, kSpare);
    buffer = std::make_shared<Growing>(buffers, first.type, room, axis, total);
    buffers->add(buffer);
    copy_to(first, sliced(buffer->whole(), axis, 0, start));
  }
  for (std::size_t index = 1; index < inputs.size(); ++index) {
    copy_to(inputs[index], sliced(buffer->whole(), axis, start, inputs[index].shape[axis]));
    start += inputs[index].shape[axis];
  }
  return buffer->view(total);
}

Array append_at(const std::shared_ptr<Buffers> &buffers, const Arrays &inputs) {
  const Array &past = inputs.at(0), &fresh = inputs.at(1);
  const Shape starts = integers_of(inputs.at(2));
  const std::int64_t length = past.shape.at(2), tokens = fresh.shape.at(2), rows = fresh.shape[0];
  if (std::all_of(starts.begin(), starts.end(), [&](std::int64_t start) { return start == length; })) {
    return append(buffers, {past, fresh}, 2);
  }
  Array whole = allocate(fresh.type, {rows, fresh.shape.at(1), length + tokens, fresh.shape.at(3)});
  std::memset(whole.data, 0, whole.size() * whole.item());
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t start = starts.size() == 1 ? starts[0] : starts.at(static_cast<std::size_t>(row));
    if (start < 0 || start > length) {
      misfit("the new tokens would begin at " + std::to_string(start) + " of a past of " + std::to_string(length));
    }
    const Array target = sliced(whole, 0, row, 1);
    copy_to(sliced(sliced(past, 0, row, 1), 2, 0, start), sliced(target, 2, 0, start));
    copy_to(sliced(fresh, 0, row, 1), sliced(target, 2, start, tokens));
  }
  return whole;
}

}  // namespace sparsec::native::sized
