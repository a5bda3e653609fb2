// What a session executes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model.hpp"

struct sparsec_result {
  std::vector<sparsec_tensor> outputs;
  std::vector<std::shared_ptr<const void>> owners;
};

namespace sparsec::native {

struct Spec {
  std::string name;
  std::int32_t type;
  std::vector<std::int64_t> shape;
  // Texts of the dimensions that are not numbers.
  std::vector<std::string> dims;

  static std::vector<Spec> read(const Json &list);
};

class Program {
 public:
  virtual ~Program() = default;
  // Execute on one input a Spec; calls may overlap. Throws a Failure where an input does not fit.
  virtual void run(const sparsec_tensor *inputs, sparsec_result &result) = 0;
};

// Programs of one shape each, of which the inputs choose.
std::unique_ptr<Program> open_buckets(const std::shared_ptr<const Model> &model);
// Programs for sizes that only the run tells.
std::unique_ptr<Program> open_sized(const std::shared_ptr<const Model> &model);

// Add an output that a tensor of TVM's holds.
void add_output(sparsec_result &result, const Spec &spec, ffi::Object tensor, bool copied);

}  // namespace sparsec::native
