// Values of onnxruntime as tensors of sparsec, and errors between the two: what its operator and its provider share.
#pragma once

#include <sparsec.h>

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "abi.hpp"

namespace sparsec::onnxruntime {

using Session = std::unique_ptr<sparsec_session, void (*)(sparsec_session *)>;

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

inline void check(sparsec_status status) {
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

inline sparsec_tensor input(const OrtApi *api, const OrtKernelContext *context, std::size_t index) {
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

// Run a session on the inputs of a node, of which model input i is number `places[i]`, and fill the node's outputs.
inline void run(const OrtApi *api, sparsec_session *session, OrtKernelContext *context,
                const std::vector<std::size_t> &places, const std::vector<std::size_t> &results) {
  std::vector<sparsec_tensor> tensors;
  for (const std::size_t place : places) tensors.push_back(input(api, context, place));
  sparsec_result *found = nullptr;
  check(sparsec_run(session, tensors.data(), tensors.size(), &found));
  const std::unique_ptr<sparsec_result, void (*)(sparsec_result *)> result(found, sparsec_result_free);
  for (std::size_t index = 0; index < results.size(); ++index) {
    const sparsec_tensor *output = sparsec_result_output(found, index);
    if (output == nullptr) throw Refusal(kInvalidArgument, "sparsec: the node has more outputs than its model");
    OrtValue *value = nullptr;
    checked<GetOutput>(api, context, results[index], static_cast<const std::int64_t *>(output->shape),
                       static_cast<std::size_t>(output->rank), &value);
    if (value == nullptr) continue;  // nobody reads it
    std::size_t bytes = sparsec_type_bytes(output->type);
    for (std::int32_t axis = 0; axis < output->rank; ++axis) bytes *= static_cast<std::size_t>(output->shape[axis]);
    void *data = nullptr;
    checked<GetTensorMutableData>(api, value, &data);
    check(sparsec_copy(output, data, bytes));
  }
}

}  // namespace sparsec::onnxruntime
