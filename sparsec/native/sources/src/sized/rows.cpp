#include "rows.hpp"

#include <algorithm>
#include <cstring>

#include "../model.hpp"
#include "../tensors.hpp"
#include "windows.hpp"

namespace sparsec::native::sized {

namespace {

constexpr std::size_t kDirectBytes = 1 << 14;  // of rows from which on a function reads them where they are

std::vector<RowSpec> specs_of(const Json &list) {
  std::vector<RowSpec> specs;
  for (const Json &each : list.list()) {
    const Json *whole = each.find("whole");
    specs.push_back({static_cast<std::int32_t>(each["dtype"].integer()), each["shape"].integers(),
                     whole != nullptr && whole->boolean()});
  }
  return specs;
}

Shape behind(Shape lead, const Shape &own) {
  lead.insert(lead.end(), own.begin(), own.end());
  return lead;
}

}  // namespace

std::vector<std::int64_t> Splitter::parts(std::int64_t rows) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::int64_t largest = seconds_.rbegin()->first, whole = std::max<std::int64_t>(0, rows / largest - 1);
  std::int64_t rest = rows - whole * largest;
  while (static_cast<std::int64_t>(best_.size()) <= rest) {
    const auto count = static_cast<std::int64_t>(best_.size());
    double cost = 0;
    std::int64_t chosen = 0;
    for (const auto &[part, seconds] : seconds_) {
      const double total = seconds + best_[static_cast<std::size_t>(std::max<std::int64_t>(0, count - part))];
      if (chosen == 0 || total <= cost) cost = total, chosen = part;
    }
    best_.push_back(cost);
    first_.push_back(chosen);
  }
  std::vector<std::int64_t> found(static_cast<std::size_t>(whole), largest);
  while (rest > 0) {
    found.push_back(first_[static_cast<std::size_t>(rest)]);
    rest -= found.back();
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

RowStage::RowStage(const Json &step, std::map<std::int64_t, const ffi::Object *> functions,
                   std::shared_ptr<Splitter> splitter)
    : rank_(static_cast<std::size_t>(step["rank"].integer())), given_(specs_of(step["given"])),
      made_(specs_of(step["made"])), functions_(std::move(functions)), splitter_(std::move(splitter)) {
  if (given_.empty() || rank_ == 0) fail(SPARSEC_ERROR_MODEL, "a stage of the model reads no rows; bundle it again");
}

Arrays RowStage::run(const Arrays &inputs) {
  if (inputs.size() != given_.size() || inputs[0].rank() < rank_) misfit("a stage lacks inputs");
  const Shape lead(inputs[0].shape.begin(), inputs[0].shape.begin() + static_cast<std::ptrdiff_t>(rank_));
  const auto rows = static_cast<std::int64_t>(elements_of(lead));
  Arrays flat, outputs;
  for (std::size_t index = 0; index < given_.size(); ++index) {
    const RowSpec &spec = given_[index];
    flat.push_back(reshaped(inputs[index], spec.whole ? spec.shape : behind({rows}, spec.shape)));
    if (flat.back().type != given_[index].type) misfit("a stage is given another element type");
  }
  const std::vector<std::int64_t> parts = splitter_->parts(rows);
  if (parts.size() == 1 && parts[0] == rows) {
    outputs = part(flat, 0, rows, rows);
  } else {
    for (const RowSpec &spec : made_) outputs.push_back(allocate(spec.type, behind({rows}, spec.shape)));
    std::int64_t first = 0;
    for (std::int64_t count : parts) {
      const std::int64_t valid = std::min(count, rows - first);
      const Arrays found = part(flat, first, valid, count);
      for (std::size_t index = 0; index < made_.size(); ++index) {
        copy_to(sliced(found[index], 0, 0, valid), sliced(outputs[index], 0, first, valid));
      }
      first += valid;
    }
  }
  for (std::size_t index = 0; index < made_.size(); ++index) {
    outputs[index] = reshaped(outputs[index], behind(lead, made_[index].shape));
  }
  return outputs;
}

Arrays RowStage::part(const Arrays &flat, std::int64_t first, std::int64_t valid, std::int64_t count) {
  std::vector<ffi::Object> tensors;
  std::vector<TVMFFIAny> arguments;
  for (std::size_t index = 0; index < flat.size(); ++index) {
    if (flat[index].unread) {
      tensors.push_back(made(index, *flat[index].unread, first, valid, count));
    } else {
      const Array rows = given_[index].whole ? flat[index] : sliced(flat[index], 0, first, valid);
      tensors.push_back(tensor(index, rows, valid, count));
    }
    arguments.push_back(tensors.back().any());
  }
  std::vector<ffi::Object> results = ffi::tensors_of(ffi::call(*functions_.at(count), arguments));
  if (results.size() < made_.size()) fail(SPARSEC_ERROR_MODEL, "a stage gives fewer outputs than the plan");
  Arrays found;
  for (std::size_t index = 0; index < made_.size(); ++index) {
    Array array;
    array.data = static_cast<char *>(ffi::address(results[index]));
    array.type = made_[index].type;
    array.shape = behind({count}, made_[index].shape);
    array.strides = dense_strides(array.shape);
    array.owner = std::make_shared<ffi::Object>(std::move(results[index]));
    found.push_back(std::move(array));
  }
  return found;
}

Shape RowStage::taken(const RowSpec &spec, std::int64_t count) const {
  if (spec.whole) return spec.shape;
  Shape lead(rank_, 1);
  lead.back() = count;
  return behind(lead, spec.shape);
}

ffi::Object RowStage::tensor(std::size_t index, const Array &rows, std::int64_t valid, std::int64_t count) {
  const Shape shape = taken(given_[index], count);
  const std::size_t bytes = rows.size() * rows.item();
  if (valid == count && bytes >= kDirectBytes && reinterpret_cast<std::uintptr_t>(rows.data) % kAlignment == 0) {
    return ffi::tensor(rows.data, rows.type, shape, rows.owner);
  }
  const Buffer &own = buffer(index, count);
  const std::size_t room = own.array.size() * own.array.item();
  if (bytes > 0) std::memcpy(own.array.data, rows.data, bytes);
  std::memset(own.array.data + bytes, 0, room - bytes);
  return own.tensor.share();
}

ffi::Object RowStage::made(std::size_t index, const Unread &rows, std::int64_t first, std::int64_t valid,
                           std::int64_t count) {
  const Buffer &own = buffer(index, count);
  const std::size_t room = own.array.size() * own.array.item();
  const std::size_t bytes = room / static_cast<std::size_t>(count) * static_cast<std::size_t>(valid);
  rows.make(first, valid, own.array.data);
  std::memset(own.array.data + bytes, 0, room - bytes);
  return own.tensor.share();
}

const RowStage::Buffer &RowStage::buffer(std::size_t index, std::int64_t count) {
  auto &own = buffers_[count];
  if (own.empty()) {
    for (const RowSpec &spec : given_) {
      const Array memory = allocate(spec.type, taken(spec, count));
      own.push_back({memory, ffi::tensor(memory.data, spec.type, memory.shape, memory.owner)});
    }
  }
  return own[index];
}

}  // namespace sparsec::native::sized
