// The part of onnxruntime's C interface that a custom operator needs. Its wheels ship no headers; the interface is one
// table of functions that later versions only append to, so that a function's place never changes.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtApi;
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;

// What RegisterCustomOps is given.
struct OrtApiBase {
  const OrtApi *(*GetApi)(std::uint32_t version);
  const char *(*GetVersionString)();
};

namespace sparsec::onnxruntime {

constexpr std::uint32_t kVersion = 17;      // of the interface that is used: onnxruntime 1.17 and newer have it
constexpr std::uint32_t kFirstVersion = 1;  // which every onnxruntime has
constexpr int kFail = 1, kInvalidArgument = 2;  // error codes
constexpr int kUndefinedType = 0;
constexpr int kVariadic = 2;  // of the characteristics of inputs and outputs

struct CustomOp;

// The functions that are used, with their places in the table.
template <int kPlace, typename F>
struct Function {
  template <typename... Arguments>
  static decltype(auto) call(const OrtApi *api, Arguments... arguments) {
    return reinterpret_cast<F *>(reinterpret_cast<void *const *>(api)[kPlace])(arguments...);
  }
};

using CreateStatus = Function<0, OrtStatus *(int, const char *)>;
using GetErrorMessage = Function<2, const char *(const OrtStatus *)>;
using CreateCustomOpDomain = Function<26, OrtStatus *(const char *, OrtCustomOpDomain **)>;
using CustomOpDomainAdd = Function<27, OrtStatus *(OrtCustomOpDomain *, const CustomOp *)>;
using AddCustomOpDomain = Function<28, OrtStatus *(OrtSessionOptions *, OrtCustomOpDomain *)>;
using GetTensorMutableData = Function<51, OrtStatus *(OrtValue *, void **)>;
using GetTensorElementType = Function<60, OrtStatus *(const OrtTensorTypeAndShapeInfo *, int *)>;
using GetDimensionsCount = Function<61, OrtStatus *(const OrtTensorTypeAndShapeInfo *, std::size_t *)>;
using GetDimensions = Function<62, OrtStatus *(const OrtTensorTypeAndShapeInfo *, std::int64_t *, std::size_t)>;
using GetTensorTypeAndShape = Function<65, OrtStatus *(const OrtValue *, OrtTensorTypeAndShapeInfo **)>;
using GetAttributeInt = Function<86, OrtStatus *(const OrtKernelInfo *, const char *, std::int64_t *)>;
using GetAttributeString = Function<87, OrtStatus *(const OrtKernelInfo *, const char *, char *, std::size_t *)>;
using GetInputCount = Function<88, OrtStatus *(const OrtKernelContext *, std::size_t *)>;
using GetOutputCount = Function<89, OrtStatus *(const OrtKernelContext *, std::size_t *)>;
using GetInput = Function<90, OrtStatus *(const OrtKernelContext *, std::size_t, const OrtValue **)>;
using GetOutput = Function<91, OrtStatus *(OrtKernelContext *, std::size_t, const std::int64_t *, std::size_t, OrtValue **)>;
using ReleaseStatus = Function<93, void(OrtStatus *)>;
using ReleaseTypeAndShape = Function<99, void(OrtTensorTypeAndShapeInfo *)>;

// A custom operator as version 17 reads it (OrtCustomOp there): functions that are asked about it and run it.
struct CustomOp {
  std::uint32_t version;
  void *(*create_kernel)(const CustomOp *, const OrtApi *, const OrtKernelInfo *);
  const char *(*name)(const CustomOp *);
  const char *(*provider)(const CustomOp *);
  int (*input_type)(const CustomOp *, std::size_t);
  std::size_t (*input_count)(const CustomOp *);
  int (*output_type)(const CustomOp *, std::size_t);
  std::size_t (*output_count)(const CustomOp *);
  void (*compute)(void *, OrtKernelContext *);
  void (*destroy_kernel)(void *);
  int (*input_characteristic)(const CustomOp *, std::size_t);
  int (*output_characteristic)(const CustomOp *, std::size_t);
  int (*input_memory)(const CustomOp *, std::size_t);
  int (*least_inputs)(const CustomOp *);
  int (*inputs_are_alike)(const CustomOp *);
  int (*least_outputs)(const CustomOp *);
  int (*outputs_are_alike)(const CustomOp *);
  OrtStatus *(*create_kernel_safely)(const CustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
  OrtStatus *(*compute_safely)(void *, OrtKernelContext *);
  OrtStatus *(*infer_shapes)(const CustomOp *, OrtShapeInferContext *);
  int (*start_version)(const CustomOp *);
  int (*end_version)(const CustomOp *);
  void *later[8];  // fields of later versions, which are not read for this one
};

}  // namespace sparsec::onnxruntime
