// The C interface: arguments checked, exceptions turned into codes and texts.
#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "error.hpp"
#include "machine.hpp"
#include "model.hpp"
#include "program.hpp"
#include "tensors.hpp"
#include "version.hpp"

using sparsec::native::fail;
using sparsec::native::Failure;
using sparsec::native::Json;
using sparsec::native::Model;
using sparsec::native::Program;
using sparsec::native::Spec;

namespace {

thread_local std::string last_error;

// The status of a function, whose text becomes this thread's last error.
template <typename F>
sparsec_status guarded(F &&function) {
  try {
    function();
    return SPARSEC_OK;
  } catch (const Failure &failure) {
    last_error = failure.what();
    return failure.status;
  } catch (const std::bad_alloc &) {
    last_error = "there is no memory left";
    return SPARSEC_ERROR_MEMORY;
  } catch (const std::exception &error) {
    last_error = error.what();
    return SPARSEC_ERROR_INTERNAL;
  }
}

void require(const void *pointer, const char *name) {
  if (pointer == nullptr) fail(SPARSEC_ERROR_ARGUMENT, std::string(name) + " is NULL");
}

}  // namespace

struct sparsec_session {
  sparsec_session(std::shared_ptr<const Model> opened, int asked) : model(std::move(opened)) {
    const Json &plan = model->plan();
    sparsec::native::check_machine(plan);
    threads = allowed(asked, static_cast<int>(plan["threads"].integer()));
    sparsec::native::expect_threads(threads);
    program = plan.find("sized") != nullptr ? sparsec::native::open_sized(model) : sparsec::native::open_buckets(model);
    describe(plan["buckets"].list(), "inputs", input_specs, inputs);
    describe(plan["buckets"].list(), "outputs", output_specs, outputs);
  }

  static int allowed(int asked, int compiled) {
    if (asked == 0) return std::max(1, std::min(compiled, sparsec::native::available_processors()));
    if (asked < 0 || asked > compiled) {
      fail(SPARSEC_ERROR_ARGUMENT, "threads is " + std::to_string(asked) + ", and the model was compiled for 1 to " +
                                       std::to_string(compiled) + "; 0 takes as many as there are");
    }
    return asked;
  }

  // What all buckets have in common, with the sizes that they differ in as a text.
  static void describe(const std::vector<Json> &buckets, const char *which, std::vector<Spec> &specs,
                       std::vector<sparsec_info> &infos) {
    specs = Spec::read(buckets.at(0)[which]);
    for (std::size_t index = 0; index < specs.size(); ++index) {
      for (std::size_t axis = 0; axis < specs[index].shape.size(); ++axis) {
        std::vector<std::int64_t> sizes;
        for (const Json &bucket : buckets) {
          const Json &dim = bucket[which].list().at(index)["shape"].list().at(axis);
          if (dim.is_integer()) sizes.push_back(dim.integer());
        }
        std::sort(sizes.begin(), sizes.end());
        sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
        if (sizes.size() < 2) continue;
        specs[index].shape[axis] = -1;
        for (std::int64_t size : sizes) {
          specs[index].dims[axis] += (specs[index].dims[axis].empty() ? "" : "/") + std::to_string(size);
        }
      }
    }
    for (const Spec &spec : specs) {
      sparsec_info info{spec.name.c_str(), spec.type, static_cast<std::int32_t>(spec.shape.size()), {}, {}};
      std::copy(spec.shape.begin(), spec.shape.end(), info.shape);
      for (std::size_t axis = 0; axis < spec.dims.size(); ++axis) {
        info.dims[axis] = spec.dims[axis].empty() ? nullptr : spec.dims[axis].c_str();
      }
      infos.push_back(info);
    }
  }

  std::shared_ptr<const Model> model;
  int threads = 1;
  std::unique_ptr<Program> program;
  std::vector<Spec> input_specs, output_specs;
  std::vector<sparsec_info> inputs, outputs;
};

namespace {

sparsec_options options_of(const sparsec_options *given) {
  sparsec_options options = SPARSEC_OPTIONS;
  if (given == nullptr) return options;
  if (given->size != sizeof(sparsec_options)) {
    fail(SPARSEC_ERROR_ARGUMENT, "the options have another size; begin with SPARSEC_OPTIONS of this library's header");
  }
  return *given;
}

void check_input(const sparsec_session &session, const sparsec_tensor &given, std::size_t index) {
  const std::string name = "input '" + std::string(session.inputs[index].name) + "'";
  if (given.rank < 0 || given.rank > SPARSEC_MAX_RANK) fail(SPARSEC_ERROR_ARGUMENT, name + " has an impossible rank");
  if (sparsec_type_bytes(given.type) == 0) fail(SPARSEC_ERROR_ARGUMENT, name + " has an unknown element type");
  for (std::int32_t axis = 0; axis < given.rank; ++axis) {
    if (given.shape[axis] < 0) fail(SPARSEC_ERROR_ARGUMENT, name + " has a negative size");
  }
  if (given.data == nullptr && sparsec::native::element_count(given) > 0) {
    fail(SPARSEC_ERROR_ARGUMENT, name + " has no data");
  }
}

}  // namespace

extern "C" {

const char *sparsec_version(void) { return SPARSEC_VERSION; }

const char *sparsec_error(void) { return last_error.c_str(); }

sparsec_status sparsec_open(const char *path, const sparsec_options *options, sparsec_session **session) {
  return guarded([&] {
    require(path, "path");
    require(session, "session");
    *session = nullptr;
    const sparsec_options chosen = options_of(options);
    *session = new sparsec_session(Model::open(path, chosen), chosen.threads);
  });
}

sparsec_status sparsec_open_memory(const void *data, size_t bytes, const sparsec_options *options,
                                   sparsec_session **session) {
  return guarded([&] {
    require(data, "data");
    require(session, "session");
    *session = nullptr;
    const sparsec_options chosen = options_of(options);
    *session = new sparsec_session(Model::copy(data, bytes, chosen), chosen.threads);
  });
}

void sparsec_close(sparsec_session *session) { delete session; }

int sparsec_threads(const sparsec_session *session) { return session == nullptr ? 0 : session->threads; }

size_t sparsec_input_count(const sparsec_session *session) { return session == nullptr ? 0 : session->inputs.size(); }

size_t sparsec_output_count(const sparsec_session *session) { return session == nullptr ? 0 : session->outputs.size(); }

const sparsec_info *sparsec_input(const sparsec_session *session, size_t index) {
  return index < sparsec_input_count(session) ? &session->inputs[index] : nullptr;
}

const sparsec_info *sparsec_output(const sparsec_session *session, size_t index) {
  return index < sparsec_output_count(session) ? &session->outputs[index] : nullptr;
}

sparsec_tensor sparsec_tensor_of(void *data, sparsec_type type, int32_t rank, const int64_t *shape) {
  sparsec_tensor tensor{data, type, rank, {}, {}};
  int64_t step = 1;
  for (int32_t axis = std::min(rank, SPARSEC_MAX_RANK) - 1; axis >= 0; --axis) {
    tensor.shape[axis] = shape[axis];
    tensor.strides[axis] = step;
    step *= shape[axis];
  }
  return tensor;
}

size_t sparsec_type_bytes(int32_t type) {
  switch (type) {
    case SPARSEC_BOOL:
    case SPARSEC_INT8:
    case SPARSEC_UINT8: return 1;
    case SPARSEC_INT16:
    case SPARSEC_UINT16:
    case SPARSEC_FLOAT16:
    case SPARSEC_BFLOAT16: return 2;
    case SPARSEC_INT32:
    case SPARSEC_UINT32:
    case SPARSEC_FLOAT32: return 4;
    case SPARSEC_INT64:
    case SPARSEC_UINT64:
    case SPARSEC_FLOAT64: return 8;
    default: return 0;
  }
}

sparsec_status sparsec_run(sparsec_session *session, const sparsec_tensor *inputs, size_t count,
                           sparsec_result **result) {
  return guarded([&] {
    require(session, "session");
    require(result, "result");
    *result = nullptr;
    if (count > 0) require(inputs, "inputs");
    if (count != session->inputs.size()) {
      fail(SPARSEC_ERROR_INPUT, "the model takes " + std::to_string(session->inputs.size()) + " inputs; given: " +
                                    std::to_string(count));
    }
    for (std::size_t index = 0; index < count; ++index) check_input(*session, inputs[index], index);
    sparsec::native::use_threads(session->threads);
    auto made = std::make_unique<sparsec_result>();
    session->program->run(inputs, *made);
    *result = made.release();
  });
}

const sparsec_tensor *sparsec_result_output(const sparsec_result *result, size_t index) {
  return result != nullptr && index < result->outputs.size() ? &result->outputs[index] : nullptr;
}

void sparsec_result_free(sparsec_result *result) { delete result; }

sparsec_status sparsec_copy(const sparsec_tensor *tensor, void *target, size_t bytes) {
  return guarded([&] {
    require(tensor, "tensor");
    const std::size_t needed = sparsec::native::element_count(*tensor) * sparsec_type_bytes(tensor->type);
    if (bytes != needed) {
      fail(SPARSEC_ERROR_ARGUMENT, "the tensor has " + std::to_string(needed) + " bytes, and the target " +
                                       std::to_string(bytes));
    }
    if (bytes > 0) require(target, "target");
    sparsec::native::copy_dense(*tensor, target);
  });
}

}  // extern "C"
