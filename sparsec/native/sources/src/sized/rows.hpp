// Row stages: functions compiled for a few numbers of rows, of which as many calls as needed make any number.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "../ffi.hpp"
#include "array.hpp"

namespace sparsec::native::sized {

// How rows are divided among functions for some numbers of rows, by the seconds that each takes.
class Splitter {
 public:
  explicit Splitter(std::map<std::int64_t, double> seconds) : seconds_(std::move(seconds)) {}
  // The numbers of rows of the calls, in order; the last may have more than are left.
  std::vector<std::int64_t> parts(std::int64_t rows);

 private:
  const std::map<std::int64_t, double> seconds_;
  std::mutex mutex_;
  std::vector<double> best_{0};
  std::vector<std::int64_t> first_{0};
};

// What every row of a tensor holds, or a tensor that is the same for all rows.
struct RowSpec {
  std::int32_t type;
  Shape shape;
  bool whole;
};

// A stage with the functions of one virtual machine, by number of rows; one call at a time.
class RowStage {
 public:
  RowStage(const Json &step, std::map<std::int64_t, const ffi::Object *> functions, std::shared_ptr<Splitter> splitter);
  // The outputs for inputs of any, equally many, rows.
  Arrays run(const Arrays &inputs);

 private:
  struct Buffer {
    Array array;
    ffi::Object tensor;
  };
  Arrays part(const Arrays &flat, std::int64_t first, std::int64_t valid, std::int64_t count);
  // The shape of so many rows as a function takes them.
  Shape taken(const RowSpec &spec, std::int64_t count) const;
  ffi::Object tensor(std::size_t index, const Array &rows, std::int64_t valid, std::int64_t count);
  ffi::Object made(std::size_t index, const Unread &rows, std::int64_t first, std::int64_t valid, std::int64_t count);
  // What a function for so many rows reads where these do not lie as it takes them.
  const Buffer &buffer(std::size_t index, std::int64_t count);

  const std::size_t rank_;
  std::vector<RowSpec> given_, made_;
  const std::map<std::int64_t, const ffi::Object *> functions_;
  const std::shared_ptr<Splitter> splitter_;
  std::map<std::int64_t, std::vector<Buffer>> buffers_;
};

}  // namespace sparsec::native::sized
