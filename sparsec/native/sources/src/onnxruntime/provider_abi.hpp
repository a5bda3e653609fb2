// The part of onnxruntime's interface of plugin execution providers that is used, of version 1.23: tables of functions
// that later versions only append to, and the structures that a provider fills.
#pragma once

#include "abi.hpp"

struct OrtEpApi;
struct OrtEpDevice;
struct OrtEpGraphSupportInfo;
struct OrtGraph;
struct OrtHardwareDevice;
struct OrtKeyValuePairs;
struct OrtLogger;
struct OrtNode;
struct OrtNodeComputeContext;
struct OrtOpAttr;
struct OrtValueInfo;

namespace sparsec::onnxruntime {

constexpr std::uint32_t kProviderVersion = 23;
constexpr int kProcessor = 0;        // the type of hardware device
constexpr int kStringAttribute = 5;  // the type of attribute

using GetSessionConfigEntry = Function<238, OrtStatus *(const OrtSessionOptions *, const char *, char *, std::size_t *)>;
using ReadAttribute = Function<272, OrtStatus *(const OrtOpAttr *, int, void *, std::size_t, std::size_t *)>;
using GetValueInfoName = Function<289, OrtStatus *(const OrtValueInfo *, const char **)>;
using GetKeyValuePairs = Function<298, void(const OrtKeyValuePairs *, const char *const **, const char *const **,
                                            std::size_t *)>;
using ReleaseKeyValuePairs = Function<300, void(OrtKeyValuePairs *)>;
using HardwareDeviceType = Function<307, int(const OrtHardwareDevice *)>;
using GetEpApi = Function<317, const OrtEpApi *()>;
using GraphGetNumNodes = Function<344, OrtStatus *(const OrtGraph *, std::size_t *)>;
using GraphGetNodes = Function<345, OrtStatus *(const OrtGraph *, const OrtNode **, std::size_t)>;
using NodeGetOperatorType = Function<350, OrtStatus *(const OrtNode *, const char **)>;
using NodeGetNumInputs = Function<353, OrtStatus *(const OrtNode *, std::size_t *)>;
using NodeGetInputs = Function<354, OrtStatus *(const OrtNode *, const OrtValueInfo **, std::size_t)>;
using NodeGetNumOutputs = Function<355, OrtStatus *(const OrtNode *, std::size_t *)>;
using NodeGetOutputs = Function<356, OrtStatus *(const OrtNode *, const OrtValueInfo **, std::size_t)>;
using NodeGetAttributeByName = Function<361, OrtStatus *(const OrtNode *, const char *, const OrtOpAttr **)>;
using GetSessionOptionsConfigEntries = Function<379, OrtStatus *(const OrtSessionOptions *, OrtKeyValuePairs **)>;

struct Factory;
struct Provider;

// How nodes become one (OrtNodeFusionOptions).
struct FusionOptions {
  std::uint32_t version;
  bool drop_constants;
};

// The functions of the table that GetEpApi gives.
template <int kPlace, typename F>
struct ProviderFunction {
  template <typename... Arguments>
  static decltype(auto) call(const OrtEpApi *api, Arguments... arguments) {
    return reinterpret_cast<F *>(reinterpret_cast<void *const *>(api)[kPlace])(arguments...);
  }
};

using CreateEpDevice = ProviderFunction<0, OrtStatus *(Factory *, const OrtHardwareDevice *, const OrtKeyValuePairs *,
                                                       const OrtKeyValuePairs *, OrtEpDevice **)>;
using AddNodesToFuse = ProviderFunction<2, OrtStatus *(OrtEpGraphSupportInfo *, const OrtNode *const *, std::size_t,
                                                       const FusionOptions *)>;

// What runs a node that stands for a part of the graph (OrtNodeComputeInfo).
struct ComputeInfo {
  std::uint32_t version;
  OrtStatus *(*create_state)(ComputeInfo *, OrtNodeComputeContext *, void **);
  OrtStatus *(*compute)(ComputeInfo *, void *, OrtKernelContext *);
  void (*release_state)(ComputeInfo *, void *);
};

// A provider of a session (OrtEp).
struct Provider {
  std::uint32_t version;
  const char *(*name)(const Provider *);
  OrtStatus *(*get_capability)(Provider *, const OrtGraph *, OrtEpGraphSupportInfo *);
  OrtStatus *(*compile)(Provider *, const OrtGraph **, const OrtNode **, std::size_t, ComputeInfo **, OrtNode **);
  void (*release_compute_infos)(Provider *, ComputeInfo **, std::size_t);
  void *not_implemented[16];  // and what later versions append
};

// What makes providers (OrtEpFactory).
struct Factory {
  std::uint32_t version;
  const char *(*name)(const Factory *);
  const char *(*vendor)(const Factory *);
  OrtStatus *(*get_supported_devices)(Factory *, const OrtHardwareDevice *const *, std::size_t, OrtEpDevice **,
                                      std::size_t, std::size_t *);
  OrtStatus *(*create_provider)(Factory *, const OrtHardwareDevice *const *, const OrtKeyValuePairs *const *, std::size_t,
                                const OrtSessionOptions *, const OrtLogger *, Provider **);
  void (*release_provider)(Factory *, Provider *);
  std::uint32_t (*vendor_id)(const Factory *);
  const char *(*provider_version)(const Factory *);
  void *validate;  // of compiled models; optional
  OrtStatus *(*create_allocator)(Factory *, const void *, const OrtKeyValuePairs *, void **);
  void (*release_allocator)(Factory *, void *);
  OrtStatus *(*create_data_transfer)(Factory *, void **);
  bool (*is_stream_aware)(const Factory *);
  void *not_implemented[16];
};

}  // namespace sparsec::onnxruntime
