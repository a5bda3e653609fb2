// The operator sparsec.artifact::Model, by which onnxruntime runs models of `sparsec compile --as-onnx`: its attribute
// `model` holds the file that `sparsec bundle` writes, its inputs and outputs are those of the model.
#include <sparsec.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "abi.hpp"

namespace sparsec::onnxruntime {

namespace {

// An error for onnxruntime.
struct Refusal : std::exception {
  Refusal(int code, std::string text) : code(code), text(std::move(text)) {}
  int code;
  std::string text;
};

// The functions of onnxruntime, whose errors are thrown.
template <typename F, typename... Arguments>
void checked(const OrtApi *api, Arguments... arguments) {
  if (OrtStatus *status = F::call(api, arguments...)) {
    std::string text = GetErrorMessage::call(api, status);
    ReleaseStatus::call(api, status);
    throw Refusal(kFail, text);
  }
}

void check(sparsec_status status) {
  if (status == SPARSEC_OK) return;
  const bool wrong = status == SPARSEC_ERROR_INPUT || status == SPARSEC_ERROR_ARGUMENT;
  throw Refusal(wrong ? kInvalidArgument : kFail, std::string("sparsec: ") + sparsec_error());
}

// The status of a function, NULL where it succeeds.
template <typename F>
OrtStatus *guarded(const OrtApi *api, F &&function) {
  try {
    function();
    return nullptr;
  } catch (const Refusal &refusal) {
    return CreateStatus::call(api, refusal.code, refusal.text.c_str());
  } catch (const std::exception &error) {
    return CreateStatus::call(api, kFail, error.what());
  }
}

struct Kernel {
  const OrtApi *api;
  std::unique_ptr<sparsec_session, void (*)(sparsec_session *)> session;
};

std::string attribute(const OrtApi *api, const OrtKernelInfo *info, const char *name) {
  std::size_t bytes = 0;
  checked<GetAttributeString>(api, info, name, static_cast<char *>(nullptr), &bytes);
  std::string value(bytes, '\0');
  checked<GetAttributeString>(api, info, name, value.data(), &bytes);
  if (!value.empty()) value.pop_back();  // the zero behind it
  return value;
}

// The attribute `threads`, 0 where there is none.
int threads_of(const OrtApi *api, const OrtKernelInfo *info) {
  std::int64_t threads = 0;
  if (OrtStatus *status = GetAttributeInt::call(api, info, "threads", &threads)) {
    ReleaseStatus::call(api, status);
    return 0;
  }
  return static_cast<int>(std::clamp<std::int64_t>(threads, -1, 1 << 20));
}

OrtStatus *create(const CustomOp *, const OrtApi *api, const OrtKernelInfo *info, void **made) {
  return guarded(api, [&] {
    const std::string model = attribute(api, info, "model");
    sparsec_options options = SPARSEC_OPTIONS;
    options.threads = threads_of(api, info);
    sparsec_session *session = nullptr;
    check(sparsec_open_memory(model.data(), model.size(), &options, &session));
    *made = new Kernel{api, {session, sparsec_close}};
  });
}

sparsec_tensor input(const OrtApi *api, const OrtKernelContext *context, std::size_t index) {
  const OrtValue *value = nullptr;
  checked<GetInput>(api, context, index, &value);
  OrtTensorTypeAndShapeInfo *info = nullptr;
  checked<GetTensorTypeAndShape>(api, value, &info);
  const auto release = [api](OrtTensorTypeAndShapeInfo *each) { ReleaseTypeAndShape::call(api, each); };
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owned(info, release);
  int type = 0;
  std::size_t rank = 0;
  std::int64_t shape[SPARSEC_MAX_RANK] = {};
  checked<GetTensorElementType>(api, info, &type);
  checked<GetDimensionsCount>(api, info, &rank);
  if (rank > SPARSEC_MAX_RANK) throw Refusal(kInvalidArgument, "sparsec: an input has too many dimensions");
  checked<GetDimensions>(api, info, static_cast<std::int64_t *>(shape), rank);
  void *data = nullptr;
  checked<GetTensorMutableData>(api, const_cast<OrtValue *>(value), &data);  // there is no other function; it is read
  return sparsec_tensor_of(data, static_cast<sparsec_type>(type), static_cast<std::int32_t>(rank), shape);
}

OrtStatus *compute(void *kernel, OrtKernelContext *context) {
  const Kernel &own = *static_cast<Kernel *>(kernel);
  const OrtApi *api = own.api;
  return guarded(api, [&] {
    std::size_t inputs = 0, outputs = 0;
    checked<GetInputCount>(api, context, &inputs);
    checked<GetOutputCount>(api, context, &outputs);
    std::vector<sparsec_tensor> tensors;
    for (std::size_t index = 0; index < inputs; ++index) tensors.push_back(input(api, context, index));
    sparsec_result *found = nullptr;
    check(sparsec_run(own.session.get(), tensors.data(), tensors.size(), &found));
    const std::unique_ptr<sparsec_result, void (*)(sparsec_result *)> result(found, sparsec_result_free);
    for (std::size_t index = 0; index < outputs; ++index) {
      const sparsec_tensor *output = sparsec_result_output(found, index);
      if (output == nullptr) throw Refusal(kInvalidArgument, "sparsec: the node has more outputs than its model");
      OrtValue *value = nullptr;
      checked<GetOutput>(api, context, index, static_cast<const std::int64_t *>(output->shape),
                         static_cast<std::size_t>(output->rank), &value);
      if (value == nullptr) continue;  // nobody reads it
      std::size_t bytes = sparsec_type_bytes(output->type);
      for (std::int32_t axis = 0; axis < output->rank; ++axis) bytes *= static_cast<std::size_t>(output->shape[axis]);
      void *data = nullptr;
      checked<GetTensorMutableData>(api, value, &data);
      check(sparsec_copy(output, data, bytes));
    }
  });
}

CustomOp model_operator() {
  CustomOp op{};
  op.version = kVersion;
  op.name = [](const CustomOp *) { return "Model"; };
  op.provider = [](const CustomOp *) -> const char * { return nullptr; };  // the processor's
  op.input_type = op.output_type = [](const CustomOp *, std::size_t) { return kUndefinedType; };
  op.input_count = op.output_count = [](const CustomOp *) { return std::size_t{1}; };
  op.input_characteristic = op.output_characteristic = [](const CustomOp *, std::size_t) { return kVariadic; };
  op.input_memory = [](const CustomOp *, std::size_t) { return 0; };
  op.least_inputs = op.least_outputs = [](const CustomOp *) { return 1; };
  op.inputs_are_alike = op.outputs_are_alike = [](const CustomOp *) { return 0; };
  op.create_kernel_safely = create;
  op.compute_safely = compute;
  op.destroy_kernel = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
  op.start_version = [](const CustomOp *) { return 1; };
  op.end_version = [](const CustomOp *) { return 1; };
  return op;
}

}  // namespace

}  // namespace sparsec::onnxruntime

// What onnxruntime calls for `SessionOptions.register_custom_ops_library`.
extern "C" __attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options,
                                                                               const OrtApiBase *base) {
  using namespace sparsec::onnxruntime;
  const OrtApi *api = base->GetApi(kVersion);
  if (api == nullptr) {
    const std::string text = std::string("sparsec needs onnxruntime 1.") + std::to_string(kVersion) +
                             " or newer, and this is " + base->GetVersionString();
    return CreateStatus::call(base->GetApi(kFirstVersion), kFail, text.c_str());
  }
  return guarded(api, [&] {
    static const CustomOp op = model_operator();
    OrtCustomOpDomain *domain = nullptr;  // sessions read it as long as they live, and the process may open more
    checked<CreateCustomOpDomain>(api, "sparsec.artifact", &domain);
    checked<CustomOpDomainAdd>(api, domain, &op);
    checked<AddCustomOpDomain>(api, options, domain);
  });
}
