// Programs of fixed shapes: the entry function of a library, with its constants bound.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "error.hpp"
#include "library.hpp"
#include "pool.hpp"
#include "program.hpp"
#include "tensors.hpp"

namespace sparsec::native {

namespace {

// A virtual machine with its own input buffers; it serves one call at a time.
struct Engine {
  ffi::Object function;
  std::vector<std::shared_ptr<void>> buffers;
  std::vector<ffi::Object> tensors;
  std::vector<TVMFFIAny> arguments;
};

class Bucket {
 public:
  Bucket(std::shared_ptr<const Model> model, const Json &about)
      : inputs(Spec::read(about["inputs"])), outputs(Spec::read(about["outputs"])), model_(std::move(model)),
        about_(about), parts_(about["parts"].integer()) {
    if (parts_ < 1) fail(SPARSEC_ERROR_MODEL, "the model's parts are impossible; bundle the model again");
  }

  const std::vector<Spec> inputs, outputs;

  void open() {
    std::call_once(opened_, [this] {
      model_->settle();
      for (const Json &each : about_["constants"].list()) constants_.push_back(constant(model_, each));
      library_ = load_library(model_->piece(about_["library"]));
    });
  }

  void run(const sparsec_tensor *given, sparsec_result &result) {
    open();
    engines_.with([this] { return make(); }, [&](Engine &engine) {
      if (parts_ == 1) run_whole(engine, given, result);
      else run_parts(engine, given, result);
    });
  }

 private:
  std::unique_ptr<Engine> make() {
    auto engine = std::make_unique<Engine>();
    for (const Spec &spec : inputs) {
      auto shape = spec.shape;
      if (parts_ > 1) shape.at(0) /= parts_;
      engine->buffers.push_back(aligned_memory(elements_of(shape) * sparsec_type_bytes(spec.type)));
      engine->tensors.push_back(ffi::tensor(engine->buffers.back().get(), spec.type, shape, engine->buffers.back()));
      engine->arguments.push_back(engine->tensors.back().any());
    }
    engine->function = bind_constants(new_machine(library_), about_["entry"].text(), "bound", constants_);
    return engine;
  }

  // Whether a program will use the memory again, which a caller must not get.
  bool is_reserved(const Engine &engine, const void *address) const {
    const auto at = [address](const ffi::Object &each) { return ffi::address(each) == address; };
    return std::any_of(engine.tensors.begin(), engine.tensors.end(), at) ||
           std::any_of(constants_.begin(), constants_.end(), at);
  }

  std::vector<ffi::Object> called(Engine &engine) const {
    std::vector<ffi::Object> found = ffi::tensors_of(ffi::call(engine.function, engine.arguments));
    if (found.size() != outputs.size()) fail(SPARSEC_ERROR_MODEL, "the program has other outputs than the plan");
    return found;
  }

  void run_whole(Engine &engine, const sparsec_tensor *given, sparsec_result &result) const {
    for (std::size_t index = 0; index < inputs.size(); ++index) copy_dense(given[index], engine.buffers[index].get());
    std::vector<ffi::Object> found = called(engine);
    for (std::size_t index = 0; index < outputs.size(); ++index) {
      const bool reserved = is_reserved(engine, ffi::address(found[index]));
      add_output(result, outputs[index], std::move(found[index]), reserved);
    }
  }

  void run_parts(Engine &engine, const sparsec_tensor *given, sparsec_result &result) const {
    for (const Spec &spec : outputs) {
      auto memory = aligned_memory(elements_of(spec.shape) * sparsec_type_bytes(spec.type));
      result.outputs.push_back(sparsec_tensor_of(memory.get(), static_cast<sparsec_type>(spec.type),
                                                 static_cast<std::int32_t>(spec.shape.size()), spec.shape.data()));
      result.owners.push_back(std::move(memory));
    }
    for (std::int64_t part = 0; part < parts_; ++part) {
      for (std::size_t index = 0; index < inputs.size(); ++index) {
        sparsec_tensor piece = given[index];
        piece.shape[0] /= parts_;
        piece.data = static_cast<char *>(piece.data) +
                     part * piece.shape[0] * piece.strides[0] * static_cast<std::int64_t>(sparsec_type_bytes(piece.type));
        copy_dense(piece, engine.buffers[index].get());
      }
      const std::vector<ffi::Object> found = called(engine);
      for (std::size_t index = 0; index < outputs.size(); ++index) {
        const Spec &spec = outputs[index];
        const std::size_t bytes = elements_of(spec.shape) * sparsec_type_bytes(spec.type) / static_cast<std::size_t>(parts_);
        std::memcpy(static_cast<char *>(result.outputs[index].data) + static_cast<std::size_t>(part) * bytes,
                    ffi::address(found[index]), bytes);
      }
    }
  }

  const std::shared_ptr<const Model> model_;
  const Json &about_;
  const std::int64_t parts_;
  std::once_flag opened_;
  ffi::Object library_;
  std::vector<ffi::Object> constants_;
  Pool<Engine> engines_;
};

class Buckets : public Program {
 public:
  explicit Buckets(const std::shared_ptr<const Model> &model) {
    for (const Json &each : model->plan()["buckets"].list()) {
      buckets_.push_back(std::make_unique<Bucket>(model, each));
    }
    if (buckets_.empty()) fail(SPARSEC_ERROR_MODEL, "the model holds no program; bundle it again");
    buckets_.front()->open();
  }

  void run(const sparsec_tensor *given, sparsec_result &result) override {
    const std::vector<Spec> &first = buckets_.front()->inputs;
    for (std::size_t index = 0; index < first.size(); ++index) {
      if (given[index].type != first[index].type) refuse(first[index], given[index]);
    }
    for (const auto &bucket : buckets_) {
      if (misfit(*bucket, given) == bucket->inputs.size()) return bucket->run(given, result);
    }
    const std::size_t wrong = misfit(*buckets_.front(), given);
    refuse(first[wrong], given[wrong]);
  }

 private:
  // The first input of another shape than the bucket's; their number if there is none.
  static std::size_t misfit(const Bucket &bucket, const sparsec_tensor *given) {
    std::size_t index = 0;
    for (; index < bucket.inputs.size(); ++index) {
      const auto &shape = bucket.inputs[index].shape;
      if (!std::equal(shape.begin(), shape.end(), given[index].shape, given[index].shape + given[index].rank)) break;
    }
    return index;
  }

  [[noreturn]] void refuse(const Spec &spec, const sparsec_tensor &given) const {
    const std::string others = buckets_.size() > 1 ? " (or of another bucket)" : "";
    fail(SPARSEC_ERROR_INPUT, "input '" + spec.name + "' takes " +
                                  described(spec.type, spec.shape.data(), spec.shape.size()) + others + "; given: " +
                                  described(given.type, given.shape, static_cast<std::size_t>(given.rank)));
  }

  std::vector<std::unique_ptr<Bucket>> buckets_;
};

}  // namespace

std::vector<Spec> Spec::read(const Json &list) {
  std::vector<Spec> specs;
  for (const Json &each : list.list()) {
    specs.push_back({each["name"].text(), static_cast<std::int32_t>(each["dtype"].integer()), {}, {}});
    if (each["shape"].list().size() > SPARSEC_MAX_RANK || sparsec_type_bytes(specs.back().type) == 0) {
      fail(SPARSEC_ERROR_MODEL, "'" + specs.back().name + "' is of an impossible type or shape; bundle the model again");
    }
    for (const Json &dim : each["shape"].list()) {
      specs.back().shape.push_back(dim.is_integer() ? dim.integer() : -1);
      specs.back().dims.push_back(dim.is_text() ? dim.text() : "");
    }
  }
  return specs;
}

std::unique_ptr<Program> open_buckets(const std::shared_ptr<const Model> &model) {
  return std::make_unique<Buckets>(model);
}

void add_output(sparsec_result &result, const Spec &spec, ffi::Object tensor, bool copied) {
  const DLTensor &view = ffi::view(tensor);
  if (view.ndim > SPARSEC_MAX_RANK) fail(SPARSEC_ERROR_INTERNAL, "an output has too many dimensions");
  result.outputs.push_back(
      sparsec_tensor_of(ffi::address(tensor), static_cast<sparsec_type>(spec.type), view.ndim, view.shape));
  if (copied) {
    const std::size_t bytes = element_count(result.outputs.back()) * sparsec_type_bytes(spec.type);
    auto memory = aligned_memory(bytes);
    std::memcpy(memory.get(), result.outputs.back().data, bytes);
    result.outputs.back().data = memory.get();
    result.owners.push_back(std::move(memory));
  } else {
    result.owners.push_back(std::make_shared<ffi::Object>(std::move(tensor)));
  }
}

}  // namespace sparsec::native
