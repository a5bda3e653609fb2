// The file that `sparsec bundle` writes: checked, mapped, and its plan read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ffi.hpp"
#include "json.hpp"

namespace sparsec::native {

class Model {
 public:
  // From a file, which is mapped; from memory, which is copied. Throw a Failure where it is not whole or not signed.
  static std::shared_ptr<const Model> open(const std::string &path, const sparsec_options &options);
  static std::shared_ptr<const Model> copy(const void *data, std::size_t bytes, const sparsec_options &options);
  Model(const Model &) = delete;
  Model &operator=(const Model &) = delete;

  const Json &plan() const { return plan_; }
  // The bytes of an entry [offset, length] of the plan.
  struct Piece {
    const std::uint8_t *data;
    std::size_t bytes;
  };
  Piece piece(const Json &entry) const;
  // Read the weights of a mapped file into lasting memory, whose pages a processor finds sooner; pieces from then on.
  void settle() const;

 private:
  Model() = default;
  void check(const std::string &name, const sparsec_options &options, const std::string &signature);
  std::shared_ptr<void> memory_;
  std::size_t bytes_ = 0, start_ = 0;
  bool mapped_ = false;
  Json plan_;
  mutable std::once_flag settled_;
  mutable std::shared_ptr<void> pieces_;  // a copy of what is behind start_, or none
};

// An array of the plan as a tensor, which keeps the model.
ffi::Object constant(const std::shared_ptr<const Model> &model, const Json &entry);

}  // namespace sparsec::native
