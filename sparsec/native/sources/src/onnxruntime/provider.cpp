// SparsecExecutionProvider, a plugin execution provider of onnxruntime. It runs EPContext nodes, which hold models of
// `sparsec compile --as-onnx --ep-context`, and, where the process has a compiler (provider.hpp), parts of any graph.
#include "provider.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "provider_abi.hpp"
#include "values.hpp"

namespace sparsec::onnxruntime {

namespace {

constexpr char kName[] = "SparsecExecutionProvider";
constexpr char kPrefix[] = "ep.sparsecexecutionprovider.";  // of the session's entries that are the provider's options
constexpr const char *kOptions[] = {"threads", "precision", "tune", "cache"};
constexpr int kMostThreads = 1 << 12;

const sparsec_compiler *compiler = nullptr;

struct OwnFactory : Factory {
  const OrtApi *api;
  const OrtEpApi *provider_api;
};

struct OwnProvider : Provider {
  const OrtApi *api;
  const OrtEpApi *provider_api;
  std::map<std::string, std::string> options;
  // The options as lines, for the compiler.
  std::string lines() const {
    std::string text;
    for (const auto &[key, value] : options) text += key + "=" + value + "\n";
    return text;
  }
  int threads() const {
    const auto found = options.find("threads");
    return found == options.end() ? 0 : std::stoi(found->second);
  }
};

struct Part : ComputeInfo {
  const OrtApi *api = nullptr;
  Session session{nullptr, sparsec_close};
  std::vector<std::size_t> inputs, results;
};

std::vector<const OrtNode *> nodes_of(const OrtApi *api, const OrtGraph *graph) {
  std::size_t count = 0;
  checked<GraphGetNumNodes>(api, graph, &count);
  std::vector<const OrtNode *> nodes(count);
  checked<GraphGetNodes>(api, graph, nodes.data(), count);
  return nodes;
}

// The names of a node's inputs or outputs, empty where one is left out.
template <typename Count, typename Get>
std::vector<std::string> names_of(const OrtApi *api, const OrtNode *node) {
  std::size_t count = 0;
  checked<Count>(api, node, &count);
  std::vector<const OrtValueInfo *> values(count);
  checked<Get>(api, node, values.data(), count);
  std::vector<std::string> names;
  for (const OrtValueInfo *value : values) {
    const char *name = "";
    if (value != nullptr) checked<GetValueInfoName>(api, value, &name);
    names.emplace_back(name);
  }
  return names;
}

// A text attribute of a node, empty where there is none.
std::string attribute(const OrtApi *api, const OrtNode *node, const char *name) {
  const OrtOpAttr *found = nullptr;
  if (OrtStatus *status = NodeGetAttributeByName::call(api, node, name, &found)) {
    ReleaseStatus::call(api, status);
    return "";
  }
  if (found == nullptr) return "";
  std::size_t bytes = 0;
  if (OrtStatus *status = ReadAttribute::call(api, found, kStringAttribute, nullptr, std::size_t{0}, &bytes)) {
    ReleaseStatus::call(api, status);  // it says how long the text is
  }
  std::string value(bytes, '\0');
  checked<ReadAttribute>(api, found, kStringAttribute, static_cast<void *>(value.data()), bytes, &bytes);
  return value;
}

bool holds_model(const OrtApi *api, const OrtNode *node) {
  const char *type = "";
  checked<NodeGetOperatorType>(api, node, &type);
  return std::strcmp(type, "EPContext") == 0 && attribute(api, node, "source") == kName;
}

void take(void *into, const char *bytes, std::size_t size) { static_cast<std::string *>(into)->assign(bytes, size); }

OrtStatus *get_capability(Provider *self, const OrtGraph *graph, OrtEpGraphSupportInfo *info) {
  auto &own = *static_cast<OwnProvider *>(self);
  return guarded(own.api, [&] {
    const std::vector<const OrtNode *> nodes = nodes_of(own.api, graph);
    const FusionOptions fusion{kProviderVersion, true};
    const auto fuse = [&](const std::vector<const OrtNode *> &part) {
      if (OrtStatus *status = AddNodesToFuse::call(own.provider_api, info, part.data(), part.size(), &fusion)) {
        std::string text = GetErrorMessage::call(own.api, status);
        ReleaseStatus::call(own.api, status);
        throw Refusal(kFail, text);
      }
    };
    bool compiled = false;
    for (const OrtNode *node : nodes) {
      if (holds_model(own.api, node)) fuse({node}), compiled = true;
    }
    if (compiled || compiler == nullptr || nodes.empty()) return;
    std::vector<std::int64_t> parts(nodes.size(), -1);
    std::string reason;
    if (compiler->divide(own.api, graph, own.lines().c_str(), parts.data(), parts.size(), take, &reason) != 0) {
      throw Refusal(kFail, "sparsec: " + reason);
    }
    std::map<std::int64_t, std::vector<const OrtNode *>> by_part;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (parts[i] >= 0) by_part[parts[i]].push_back(nodes[i]);
    }
    for (const auto &[number, part] : by_part) fuse(part);
  });
}

std::vector<std::size_t> places(const std::vector<std::string> &wanted, const std::vector<std::string> &there) {
  std::vector<std::size_t> found;
  for (const std::string &name : wanted) {
    const auto at = std::find(there.begin(), there.end(), name);
    if (at == there.end()) throw Refusal(kFail, "sparsec: the node lacks '" + name + "'");
    found.push_back(static_cast<std::size_t>(at - there.begin()));
  }
  return found;
}

std::unique_ptr<Part> part_of(const OwnProvider &own, const OrtGraph *graph, const OrtNode *fused) {
  const OrtApi *api = own.api;
  const std::vector<const OrtNode *> nodes = nodes_of(api, graph);
  const bool stored = nodes.size() == 1 && holds_model(api, nodes[0]);
  std::string model;
  if (stored) {
    model = attribute(api, nodes[0], "ep_cache_context");
  } else if (compiler == nullptr) {
    throw Refusal(kFail, "sparsec: this process has no compiler; call sparsec.register_onnxruntime() in Python");
  } else if (compiler->compile(api, graph, own.lines().c_str(), take, &model) != 0) {
    throw Refusal(kFail, "sparsec: " + model);
  }
  auto part = std::make_unique<Part>();
  sparsec_options options = SPARSEC_OPTIONS;
  options.threads = own.threads();
  sparsec_session *session = nullptr;
  check(sparsec_open_memory(model.data(), model.size(), &options, &session));
  part->session.reset(session);
  std::vector<std::string> inputs, outputs;
  if (stored) {
    inputs = names_of<NodeGetNumInputs, NodeGetInputs>(api, nodes[0]);
    outputs = names_of<NodeGetNumOutputs, NodeGetOutputs>(api, nodes[0]);
  } else {
    for (std::size_t i = 0; i < sparsec_input_count(session); ++i) inputs.push_back(sparsec_input(session, i)->name);
    for (std::size_t i = 0; i < sparsec_output_count(session); ++i) outputs.push_back(sparsec_output(session, i)->name);
  }
  part->api = api;
  part->inputs = places(inputs, names_of<NodeGetNumInputs, NodeGetInputs>(api, fused));
  part->results = places(outputs, names_of<NodeGetNumOutputs, NodeGetOutputs>(api, fused));
  part->version = kProviderVersion;
  part->create_state = [](ComputeInfo *info, OrtNodeComputeContext *, void **state) -> OrtStatus * {
    *state = info;
    return nullptr;
  };
  part->compute = [](ComputeInfo *info, void *, OrtKernelContext *context) -> OrtStatus * {
    auto &each = *static_cast<Part *>(info);
    return guarded(each.api, [&] { run(each.api, each.session.get(), context, each.inputs, each.results); });
  };
  part->release_state = [](ComputeInfo *, void *) {};
  return part;
}

OrtStatus *compile(Provider *self, const OrtGraph **graphs, const OrtNode **fused, std::size_t count,
                   ComputeInfo **infos, OrtNode **) {
  auto &own = *static_cast<OwnProvider *>(self);
  return guarded(own.api, [&] {
    std::vector<std::unique_ptr<Part>> parts;
    for (std::size_t i = 0; i < count; ++i) parts.push_back(part_of(own, graphs[i], fused[i]));
    for (std::size_t i = 0; i < count; ++i) infos[i] = parts[i].release();
  });
}

void release_compute_infos(Provider *, ComputeInfo **infos, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) delete static_cast<Part *>(infos[i]);
}

// The provider's options among the session's entries; throws for one that there is not, or a number that is none.
std::map<std::string, std::string> options_of(const OrtApi *api, const OrtSessionOptions *session) {
  OrtKeyValuePairs *pairs = nullptr;
  checked<GetSessionOptionsConfigEntries>(api, session, &pairs);
  const char *const *keys = nullptr, *const *values = nullptr;
  std::size_t count = 0;
  GetKeyValuePairs::call(api, pairs, &keys, &values, &count);
  std::map<std::string, std::string> found;
  bool writes = false;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string key = keys[i];
    if (key == "ep.context_enable") writes = std::string(values[i]) == "1";
    if (key.rfind(kPrefix, 0) == 0) found[key.substr(sizeof kPrefix - 1)] = values[i];
  }
  ReleaseKeyValuePairs::call(api, pairs);
  if (writes) {
    throw Refusal(kInvalidArgument, "sparsec writes no EPContext models from sessions; `sparsec compile --as-onnx FILE "
                                    "--ep-context` does");
  }
  for (const auto &[key, value] : found) {
    if (std::find(std::begin(kOptions), std::end(kOptions), key) == std::end(kOptions)) {
      throw Refusal(kInvalidArgument, std::string(kName) + " has no option '" + key +
                                          "'; its options are threads, precision, tune, cache");
    }
    const bool digits = !value.empty() && value.size() < 6 && value.find_first_not_of("0123456789") == std::string::npos;
    if (key == "threads" && (!digits || std::stoi(value) < 1 || std::stoi(value) > kMostThreads)) {
      throw Refusal(kInvalidArgument, std::string(kName) + ": threads is '" + value + "'; give a number from 1 on");
    }
  }
  return found;
}

OrtStatus *create_provider(Factory *self, const OrtHardwareDevice *const *, const OrtKeyValuePairs *const *,
                           std::size_t, const OrtSessionOptions *options, const OrtLogger *, Provider **made) {
  auto &factory = *static_cast<OwnFactory *>(self);
  return guarded(factory.api, [&] {
    auto own = std::make_unique<OwnProvider>();
    static_cast<Provider &>(*own) = Provider{};
    own->options = options_of(factory.api, options);
    std::string reason;
    if (compiler != nullptr && compiler->check(own->lines().c_str(), take, &reason) != 0) {
      throw Refusal(kInvalidArgument, std::string(kName) + ": " + reason);
    }
    own->api = factory.api;
    own->provider_api = factory.provider_api;
    own->version = kProviderVersion;
    own->name = [](const Provider *) { return kName; };
    own->get_capability = get_capability;
    own->compile = compile;
    own->release_compute_infos = release_compute_infos;
    *made = own.release();
  });
}

OrtStatus *get_supported_devices(Factory *self, const OrtHardwareDevice *const *devices, std::size_t count,
                                 OrtEpDevice **found, std::size_t most, std::size_t *number) {
  auto &factory = *static_cast<OwnFactory *>(self);
  *number = 0;
  for (std::size_t i = 0; i < count && *number < most; ++i) {
    if (HardwareDeviceType::call(factory.api, devices[i]) != kProcessor) continue;
    if (OrtStatus *status = CreateEpDevice::call(factory.provider_api, self, devices[i], nullptr, nullptr,
                                                 &found[*number])) {
      return status;
    }
    ++*number;
  }
  return nullptr;
}

std::unique_ptr<OwnFactory> new_factory(const OrtApi *api) {
  auto factory = std::make_unique<OwnFactory>();
  static_cast<Factory &>(*factory) = Factory{};
  factory->api = api;
  factory->provider_api = GetEpApi::call(api);
  factory->version = kProviderVersion;
  factory->name = [](const Factory *) { return kName; };
  factory->vendor = [](const Factory *) { return "sparsec"; };
  factory->get_supported_devices = get_supported_devices;
  factory->create_provider = create_provider;
  factory->release_provider = [](Factory *, Provider *provider) { delete static_cast<OwnProvider *>(provider); };
  factory->vendor_id = [](const Factory *) { return std::uint32_t{0}; };
  factory->provider_version = [](const Factory *) { return sparsec_version(); };
  factory->create_allocator = [](Factory *, const void *, const OrtKeyValuePairs *, void **made) -> OrtStatus * {
    *made = nullptr;  // the processor's
    return nullptr;
  };
  factory->release_allocator = [](Factory *, void *) {};
  factory->create_data_transfer = [](Factory *, void **made) -> OrtStatus * {
    *made = nullptr;
    return nullptr;
  };
  factory->is_stream_aware = [](const Factory *) { return false; };
  return factory;
}

}  // namespace

}  // namespace sparsec::onnxruntime

extern "C" {

void sparsec_set_compiler(const sparsec_compiler *compiler) { sparsec::onnxruntime::compiler = compiler; }

// What onnxruntime calls for `register_execution_provider_library`.
__attribute__((visibility("default"))) OrtStatus *CreateEpFactories(const char *, const OrtApiBase *base,
                                                                    const OrtLogger *,
                                                                    sparsec::onnxruntime::Factory **made,
                                                                    std::size_t most, std::size_t *number) {
  using namespace sparsec::onnxruntime;
  const OrtApi *api = base->GetApi(kProviderVersion);
  if (api == nullptr) {
    const std::string text = "sparsec's execution provider needs onnxruntime 1." + std::to_string(kProviderVersion) +
                             " or newer, and this is " + base->GetVersionString() +
                             "; older ones run models of `sparsec compile --as-onnx` by register_custom_ops_library";
    return CreateStatus::call(base->GetApi(kFirstVersion), kFail, text.c_str());
  }
  return guarded(api, [&] {
    if (most < 1) throw Refusal(kInvalidArgument, "sparsec has one factory, and there is no room for it");
    made[0] = new_factory(api).release();
    *number = 1;
  });
}

__attribute__((visibility("default"))) OrtStatus *ReleaseEpFactory(sparsec::onnxruntime::Factory *factory) {
  delete static_cast<sparsec::onnxruntime::OwnFactory *>(factory);
  return nullptr;
}
}
