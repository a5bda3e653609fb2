// The operator sparsec.artifact::Model, by which onnxruntime runs models of `sparsec compile --as-onnx`: its attribute
// `model` holds the file that `sparsec bundle` writes, its inputs and outputs are those of the model.
#include <algorithm>
#include <numeric>

#include "values.hpp"

namespace sparsec::onnxruntime {

namespace {

struct Kernel {
  const OrtApi *api;
  Session session;
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

OrtStatus *compute(void *kernel, OrtKernelContext *context) {
  const Kernel &own = *static_cast<Kernel *>(kernel);
  return guarded(own.api, [&] {
    std::size_t inputs = 0, outputs = 0;
    checked<GetInputCount>(own.api, context, &inputs);
    checked<GetOutputCount>(own.api, context, &outputs);
    std::vector<std::size_t> places(inputs), results(outputs);
    std::iota(places.begin(), places.end(), std::size_t{0});
    std::iota(results.begin(), results.end(), std::size_t{0});
    run(own.api, own.session.get(), context, places, results);
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
