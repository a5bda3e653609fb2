// libsparsec for C++17: sessions that close themselves, errors as exceptions.
#pragma once

#include "sparsec.h"

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace sparsec {

// A failed call; what() says what is wrong and what to do.
class Error : public std::runtime_error {
 public:
  Error(sparsec_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
  sparsec_status status() const { return status_; }

 private:
  sparsec_status status_;
};

inline void check(sparsec_status status) {
  if (status != SPARSEC_OK) throw Error(status, sparsec_error());
}

// The element type of a C++ type; 16-bit floats have none of their own, and their tensors come from sparsec_tensor_of.
template <typename T>
constexpr sparsec_type type_of() {
  if constexpr (std::is_same_v<T, float>) return SPARSEC_FLOAT32;
  else if constexpr (std::is_same_v<T, double>) return SPARSEC_FLOAT64;
  else if constexpr (std::is_same_v<T, bool>) return SPARSEC_BOOL;
  else if constexpr (std::is_same_v<T, std::int8_t>) return SPARSEC_INT8;
  else if constexpr (std::is_same_v<T, std::uint8_t>) return SPARSEC_UINT8;
  else if constexpr (std::is_same_v<T, std::int16_t>) return SPARSEC_INT16;
  else if constexpr (std::is_same_v<T, std::uint16_t>) return SPARSEC_UINT16;
  else if constexpr (std::is_same_v<T, std::int32_t>) return SPARSEC_INT32;
  else if constexpr (std::is_same_v<T, std::uint32_t>) return SPARSEC_UINT32;
  else if constexpr (std::is_same_v<T, std::int64_t>) return SPARSEC_INT64;
  else {
    static_assert(std::is_same_v<T, std::uint64_t>, "tensors have no elements of this type");
    return SPARSEC_UINT64;
  }
}

// A dense array of the caller's, as an input.
template <typename T>
sparsec_tensor tensor(const T *data, const std::vector<std::int64_t> &shape) {
  if (shape.size() > SPARSEC_MAX_RANK) throw Error(SPARSEC_ERROR_ARGUMENT, "a tensor has too many dimensions");
  return sparsec_tensor_of(const_cast<T *>(data), type_of<T>(), static_cast<std::int32_t>(shape.size()), shape.data());
}

// The outputs of one call.
class Result {
 public:
  explicit Result(sparsec_result *result) : result_(result) {}

  // An output as it lies.
  const sparsec_tensor &operator[](std::size_t index) const {
    const sparsec_tensor *found = sparsec_result_output(result_.get(), index);
    if (found == nullptr) throw Error(SPARSEC_ERROR_ARGUMENT, "the model has no output " + std::to_string(index));
    return *found;
  }

  // An output's elements in row-major order.
  template <typename T>
  std::vector<T> values(std::size_t index) const {
    const sparsec_tensor &found = (*this)[index];
    if (found.type != type_of<T>()) throw Error(SPARSEC_ERROR_ARGUMENT, "the output has another element type");
    std::size_t count = 1;
    for (std::int32_t axis = 0; axis < found.rank; ++axis) count *= static_cast<std::size_t>(found.shape[axis]);
    std::vector<T> values(count);
    check(sparsec_copy(&found, values.data(), count * sizeof(T)));
    return values;
  }

 private:
  struct Free {
    void operator()(sparsec_result *result) const { sparsec_result_free(result); }
  };
  std::unique_ptr<sparsec_result, Free> result_;
};

// A model that is open.
class Session {
 public:
  explicit Session(const std::string &path, const sparsec_options &options = SPARSEC_OPTIONS) {
    sparsec_session *session = nullptr;
    check(sparsec_open(path.c_str(), &options, &session));
    session_.reset(session);
  }
  Session(const void *data, std::size_t bytes, const sparsec_options &options = SPARSEC_OPTIONS) {
    sparsec_session *session = nullptr;
    check(sparsec_open_memory(data, bytes, &options, &session));
    session_.reset(session);
  }

  int threads() const { return sparsec_threads(session_.get()); }
  std::vector<sparsec_info> inputs() const { return infos(sparsec_input_count, sparsec_input); }
  std::vector<sparsec_info> outputs() const { return infos(sparsec_output_count, sparsec_output); }

  // Run on inputs in the model's order.
  Result run(const std::vector<sparsec_tensor> &inputs) const {
    sparsec_result *result = nullptr;
    check(sparsec_run(session_.get(), inputs.data(), inputs.size(), &result));
    return Result(result);
  }

  // Run on inputs by name.
  Result run(std::initializer_list<sparsec_tensor> inputs) const { return run(std::vector<sparsec_tensor>(inputs)); }
  Result run(const std::map<std::string, sparsec_tensor> &feeds) const {
    std::vector<sparsec_tensor> ordered;
    for (std::size_t index = 0; index < sparsec_input_count(session_.get()); ++index) {
      const std::string name = sparsec_input(session_.get(), index)->name;
      auto found = feeds.find(name);
      if (found == feeds.end()) throw Error(SPARSEC_ERROR_INPUT, "input '" + name + "' is missing");
      ordered.push_back(found->second);
    }
    if (ordered.size() != feeds.size()) throw Error(SPARSEC_ERROR_INPUT, "an input is given that the model has not");
    return run(ordered);
  }

 private:
  template <typename Count, typename Get>
  std::vector<sparsec_info> infos(Count count, Get get) const {
    std::vector<sparsec_info> found;
    for (std::size_t index = 0; index < count(session_.get()); ++index) found.push_back(*get(session_.get(), index));
    return found;
  }
  struct Close {
    void operator()(sparsec_session *session) const { sparsec_close(session); }
  };
  std::unique_ptr<sparsec_session, Close> session_;
};

}  // namespace sparsec
